"""Imports run in one direction, and prediction and conversion never reach TensorFlow."""

import ast
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# A module imports only from rows above its own.
ROWS = [
    {"atomic", "config_augmentation", "errors", "layers", "litert_file", "published", "quiet"},
    {"bad_records", "checkpoint", "config", "deep_compression", "example", "fetch", "flags",
     "history", "huffman", "labels", "options", "range_coder", "runner", "sharing", "sources",
     "taps"},
    {"cluster", "config_io", "draws", "kernel_coding", "kernel_form", "losses", "manifest",
     "networks", "optimization", "phases", "preprocessing", "recipes", "schema", "tfrecord"},
    {"arithmetic_streams", "augmentation", "devices", "explain", "graph", "huffman_streams",
     "mixing", "models", "records", "shipped", "stats", "watchdog", "weights"},
    {"data", "dataset", "litert_writer", "ncnn", "pixels", "predictor", "sqz", "variables"},
    {"evaluate", "importing", "litert", "litert_int8", "loop", "nan", "predict",
     "pytorch_weights", "train"},
    {"model_directory", "pictures", "profiling", "snapshots"},
    {"distillation", "run"},
    {"job"},
]  # fmt: skip
LIGHT = {"arithmetic_streams", "atomic", "bad_records", "checkpoint", "cluster", "config",
         "config_augmentation", "config_io", "dataset", "deep_compression", "draws", "errors",
         "evaluate", "example", "explain", "fetch", "flags", "graph", "huffman",
         "huffman_streams", "importing", "kernel_coding", "kernel_form", "labels",
         "litert_file", "litert_int8", "litert_writer", "manifest", "ncnn", "networks",
         "options", "phases", "pixels", "predict", "predictor", "preprocessing", "published",
         "pytorch_weights", "quiet", "range_coder", "recipes", "records", "runner", "schema",
         "sharing", "shipped", "sources", "sqz", "stats", "taps", "tfrecord", "train",
         "variables", "watchdog", "weights"}  # fmt: skip
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
