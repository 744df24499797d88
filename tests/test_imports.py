"""Imports run in one direction, and prediction and conversion never reach TensorFlow."""

import ast
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# A module imports only from rows above its own.
ROWS = [
    {"errors", "config"},
    {"labels", "flags", "config_io", "example", "preprocessing", "layers", "optimization",
     "checkpoint", "deep_compression", "devices", "networks", "published", "fetch", "runner",
     "taps", "sources", "litert_file",
     "litert_metadata"},
    {"schema", "tfrecord", "manifest", "augmentation", "models", "graph", "explain", "shipped"},
    {"litert_writer", "pixels"},
    {"records", "stats", "litert", "ncnn", "variables", "predictor",
     "litert_int8"},
    {"importing"},
    {"weights"},
    {"data", "dataset", "predict", "trained"},
    {"photographs", "export_litert", "npm"},
    {"export_onnx", "export_keras", "export_web"},
    {"loop", "history"},
    {"model_directory"},
    {"run", "evaluate", "export", "demo"},
    {"train"},
]  # fmt: skip
LIGHT = {"litert_metadata", "trained", "photographs", "npm", "demo", "export_web", "export",
         "export_litert", "export_onnx",
         "litert_file", "litert_writer", "litert_int8", "pixels",
         "errors", "config", "labels", "flags", "config_io", "tfrecord", "example", "schema",
         "manifest", "records", "preprocessing", "checkpoint", "deep_compression", "weights",
         "predictor", "dataset", "networks", "graph", "ncnn", "variables", "importing",
         "published", "fetch", "runner", "taps", "sources", "explain", "shipped",
         "predict"}  # fmt: skip
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
