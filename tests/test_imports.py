"""Imports run in one direction, and prediction and conversion never reach TensorFlow."""

import ast
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# A module imports only from rows above its own.
ROWS = [
    {"atomic", "caffe_proto", "charts", "config_augmentation", "errors", "layers",
     "litert_file", "litert_metadata", "metrics", "published", "quiet"},
    {"bad_records", "checkpoint", "config", "deep_compression", "example", "fetch",
     "flags", "history", "huffman", "labels", "ncnn_param", "options", "range_coder",
     "runner", "sharing", "sources", "taps"},
    {"cluster", "config_io", "draws", "kernel_coding", "kernel_form", "losses",
     "manifest", "networks", "optimization", "phases", "preprocessing",
     "rate_distortion", "recipes", "schema", "tfrecord"},
    {"arithmetic_streams", "augmentation", "card", "description", "devices",
     "examples", "explain", "graph", "huffman_streams", "mixing", "models", "records",
     "shipped", "stats", "watchdog", "weights"},
    {"caffemodel", "data", "dataset", "litert_writer", "ncnn", "npm", "pixels",
     "predictor", "pruning", "sqz", "trained", "variables"},
    {"calibration", "evaluate", "litert", "litert_int8", "loop", "nan", "npz",
     "photographs", "predict", "pytorch_weights", "report", "train"},
    {"allocation", "export_litert", "export_web", "importing", "model_directory",
     "pictures", "profiling", "snapshots", "speed"},
    {"compress", "demo", "distillation", "export", "export_keras", "export_onnx",
     "run"},
    {"adapt", "job", "retraining"},
]  # fmt: skip
LIGHT = {"adapt", "allocation", "arithmetic_streams", "atomic", "bad_records",
         "caffe_proto", "caffemodel", "calibration", "card", "charts", "checkpoint",
         "cluster", "compress", "config", "config_augmentation", "config_io",
         "dataset", "deep_compression", "demo", "description", "draws", "errors",
         "evaluate", "example", "examples", "explain", "export", "export_litert",
         "export_onnx", "export_web", "fetch", "flags", "graph", "huffman",
         "huffman_streams", "importing", "kernel_coding", "kernel_form", "labels",
         "litert_file", "litert_int8", "litert_metadata", "litert_writer", "manifest",
         "metrics", "ncnn", "ncnn_param", "networks", "npm", "npz", "options",
         "phases", "photographs", "pixels", "predict", "predictor", "preprocessing",
         "pruning", "published", "pytorch_weights", "quiet", "range_coder",
         "rate_distortion", "recipes", "records", "report", "runner", "schema",
         "sharing", "shipped", "sources", "sqz", "stats", "taps", "tfrecord", "train",
         "trained", "variables", "watchdog", "weights"}  # fmt: skip
PACKAGE = REPOSITORY / "squeezenext"


def imported(path: Path, whole: bool = False) -> set[str]:
    """The modules that a file names in its imports; `whole`: inside functions, too."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if whole else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(path: Path) -> set[str]:
    """The package's modules among them."""
    names = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    return {name for name in names if f"squeezenext.{name}" in imported(path)}


def test_every_module_has_a_row():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set().union(*ROWS)


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_imports_come_from_rows_above(row):
    allowed = set().union(*ROWS[:row])
    for name in sorted(ROWS[row]):
        assert own(PACKAGE / f"{name}.py") <= allowed, name


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_light_modules_import_no_tensorflow(name):
    path = PACKAGE / f"{name}.py"
    heavy = {"tensorflow", "keras"}
    assert not heavy & imported(path)
    assert own(path) <= LIGHT


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs").glob("*.py")), ids=lambda p: p.stem
)
def test_configurations_import_only_the_words(path):
    found = {name for name in imported(path, whole=True) if name.count(".") < 2}
    assert found <= {"squeezenext.config", "squeezenext.config_io"}


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "datasets").glob("*.py")), ids=lambda p: p.stem
)
def test_conversion_imports_no_tensorflow(path):
    assert not {"tensorflow", "keras"} & imported(path, whole=True)
    assert own(path) <= LIGHT
