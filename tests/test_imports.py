"""Imports run in one direction, and prediction and conversion never reach TensorFlow."""

import ast
import graphlib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# The rooms of the package, its modules and folders: each imports only from rows above its own.
ROWS = [
    {"atomic", "config_augmentation", "errors", "fusing", "quiet"},
    {"checkpoint", "config", "convolutions", "flags", "labels", "layers"},
    {"config_io", "draws", "networks", "optimization", "preprocessing", "records"},
    {"augmentation", "card", "description", "graph", "models", "photographs", "reader", "stats"},
    {"data", "litert", "prediction"},
    {"foreign", "predictor"},
    {"predict", "reporting", "trained"},
    {"exporting", "training"},
    {"compression", "demo", "evaluate", "export", "train"},
    {"compress", "weights"},
    {"adaptation"},
    {"adapt"},
]  # fmt: skip
# The modules that importing TensorFlow is for; no other reaches it.
HEAVY = {"augmentation", "compression.retraining", "convolutions", "data",
         "exporting.export_keras", "fusing", "layers", "litert.from_keras", "models",
         "optimization.optimizers", "optimization.schedule", "optimization.update", "reader",
         "training.departure", "training.devices", "training.distillation", "training.history",
         "training.job", "training.journal", "training.left_out", "training.loop",
         "training.losses", "training.micro_batches", "training.mixing",
         "training.model_directory", "training.moving_statistics", "training.nan",
         "training.pace", "training.pictures", "training.profiling", "training.run",
         "training.saving", "training.scoring", "training.snapshots", "training.speed",
         "training.xla"}  # fmt: skip
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


# Rooms below that a module reaches inside a function alone, where one kind of model needs them: a
# `.sqz` file its decoder, a published name its cache, a run that goes on its averages.
LATE = {
    ("prediction.shipped", "compression"), ("prediction.shipped", "foreign"),
    ("prediction.shipped", "litert"), ("prediction.shipped", "trained"), ("stats", "models"),
    ("trained", "compression"), ("trained", "training"),
}  # fmt: skip


def modules() -> dict[str, Path]:
    """The package's modules by dotted name below it; a folder's face bears the folder's name."""
    places = {path: path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")}
    named = {
        ".".join(part for part in place.parts if part != "__init__"): path
        for path, place in places.items()
    }
    return {name: path for name, path in named.items() if name}


MODULES = modules()
ROOMS = sorted({name.partition(".")[0] for name in MODULES})


def own(path: Path, whole: bool = False) -> set[str]:
    """The package's modules among a file's imports."""
    found = imported(path, whole)
    return {name for name in MODULES if f"squeezenext.{name}" in found}


def rooms_of(room: str) -> set[str]:
    """The other rooms that a room's modules import."""
    inside = [path for name, path in MODULES.items() if name.partition(".")[0] == room]
    return {name.partition(".")[0] for path in inside for name in own(path)} - {room}


def test_every_room_has_a_row():
    assert set(ROOMS) == set().union(*ROWS)


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_imports_come_from_rows_above(row):
    allowed = set().union(*ROWS[:row])
    for room in sorted(ROWS[row]):
        assert rooms_of(room) <= allowed, room


def test_imports_inside_functions_that_run_the_other_way_are_these():
    place = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
    found = {
        (name, other.partition(".")[0])
        for name, path in MODULES.items()
        for other in own(path, whole=True)
        if place[other.partition(".")[0]] >= place[name.partition(".")[0]]
    }
    assert {(name, room) for name, room in found if name.partition(".")[0] != room} == LATE


def test_the_modules_of_a_folder_import_no_circle():
    order = graphlib.TopologicalSorter({name: own(path) for name, path in MODULES.items()})
    order.prepare()  # raises CycleError


@pytest.mark.parametrize("name", sorted(set(MODULES) - HEAVY))
def test_light_modules_import_no_tensorflow(name):
    assert not {"tensorflow", "keras"} & imported(MODULES[name])
    assert not own(MODULES[name]) & HEAVY


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
    assert not own(path) & HEAVY
