"""The plan of the house: which room may import which, and what must start without TensorFlow.

scripts/structure.py defines the words (room, floor, arrow, face, late) and reads the imports.
"""

import ast
from collections import Counter
from pathlib import Path

import pytest

from scripts.structure import House, circles, room
from tests.conftest import REPOSITORY

MOST_ROOMS, MOST_FLOORS, MOST_MODULES = 32, 10, 174
# From the ground up: a room imports only from rooms of the floors below its own.
FLOORS = [
    {"errors", "progress", "tf_import"},
    {"arguments", "files"},
    {"cli", "config", "labels"},
    {"configs", "images", "metrics", "network"},
    {"formats", "litert", "records", "sqz"},
    {"model", "stats"},
    {"predict", "train"},
    {"compress", "convert", "evaluate", "export", "predictor", "serve", "weights"},
    {"doctor"},
    {"__main__", "adapt", "datasets", "demo"},
]

TENSORFLOW = {"tensorflow", "keras"}
# No module of these rooms loads TensorFlow when it is imported.
LIGHT_ROOMS = {
    "__main__", "arguments", "cli", "config", "configs", "convert", "datasets", "demo", "doctor",
    "errors", "files", "formats", "labels", "metrics", "predict", "predictor", "progress", "serve",
    "sqz", "stats", "tf_import", "weights",
}  # fmt: skip
# Nor do the faces of these: `--help`, a wrong flag and a missing folder answer at once.
LIGHT_FACES = {"adapt", "compress", "evaluate", "export", "train"}

# Late imports that neither bring a third-party package nor shorten the start of predict.py:
# a module, what it imports, and after it the reason.
LATE = {
    ("squeezenext.formats.pytorch_files", "resource"),  # Windows has none
    ("squeezenext.model.published", "http"),  # only a download needs these two
    ("squeezenext.model.published", "urllib"),
}

# Function names that several rooms share. Classes never share theirs.
COMMAND = "every command has one"
SAID_WITH_MODULE = "the field's verb; always called as `module.verb`, never imported alone"
SHARED_NAMES = {
    "main": COMMAND,
    "cross_entropy": "the field's term: of numpy arrays in metrics, of tensors in training",
    "decode": SAID_WITH_MODULE,
    "encode": SAID_WITH_MODULE,
    "load": SAID_WITH_MODULE,
    "read": SAID_WITH_MODULE,
    "write": SAID_WITH_MODULE,
}

HOUSE = House(REPOSITORY)
ARROWS = HOUSE.graph(unit=room)


def test_every_room_stands_on_one_floor():
    assert Counter(name for floor in FLOORS for name in floor) == Counter(list(ARROWS))


@pytest.mark.parametrize("name", sorted(ARROWS))
def test_a_room_imports_only_from_the_floors_below(name):
    floor = next((number for number, rooms in enumerate(FLOORS) if name in rooms), 0)
    assert ARROWS[name] <= set().union(*FLOORS[:floor])


def test_no_arrow_runs_back_up_and_no_circle_of_modules():
    assert not HOUSE.back_up()
    assert not circles(HOUSE.graph())


def test_the_house_stays_small():
    modules = [
        name for name, m in HOUSE.modules.items() if not m.is_face and room(name) != "configs"
    ]
    assert len(ARROWS) <= MOST_ROOMS
    assert max(HOUSE.floors().values()) <= len(FLOORS) <= MOST_FLOORS
    assert len(modules) <= MOST_MODULES


def needs_tensorflow(names: set[str]) -> set[str]:
    """Those modules that load TensorFlow when they are imported."""
    assert names <= HOUSE.modules.keys()
    return {name for name in names if HOUSE.loaded(name) & TENSORFLOW}


@pytest.mark.parametrize("name", sorted(LIGHT_ROOMS))
def test_light_rooms_load_no_tensorflow(name):
    modules = {module for module in HOUSE.modules if room(module) == name}
    assert modules and not needs_tensorflow(modules)


def test_commands_load_no_tensorflow():
    faces = {f"squeezenext.{name}" for name in LIGHT_FACES}
    commands = {name for name in HOUSE.modules if name.endswith(".command")}
    assert not needs_tensorflow(faces | commands)


def test_late_imports_have_a_reason():
    start = HOUSE.loaded("squeezenext.predict")
    assert "squeezenext.predict" in HOUSE.modules
    needless = {
        (late.module, target)
        for late in HOUSE.late()
        if not late.brings and (late.module not in start or late.targets <= start)
        for target in late.targets
    }
    assert needless == LATE


def test_configurations_import_only_the_words():
    names = {name for name in HOUSE.modules if room(name) == "configs"}
    assert len(names) > 1
    assert {room(target) for name in names for target in HOUSE.targets(name)} == {"config"}


def test_no_two_rooms_share_a_name_without_a_reason():
    assert HOUSE.collisions().keys() == SHARED_NAMES.keys()


def test_shared_verbs_are_said_with_their_module():
    verbs = {name for name, reason in SHARED_NAMES.items() if reason == SAID_WITH_MODULE}
    alone = {
        (name, one.source, one.attribute)
        for name, module in HOUSE.modules.items()
        for one in module.imports
        if module.public and one.attribute in verbs and one.source in HOUSE.modules
    }
    assert not {found for found in alone if ".".join(found[1:]) not in HOUSE.modules}


def built(root: Path, **texts: str) -> House:
    """A house of these modules; `a__b` stands in the folder `a`."""
    for name, text in texts.items():
        path = root / "squeezenext" / f"{name.replace('__', '/', 1)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return House(root)


def test_what_a_face_hands_out_is_imported_from_its_module(tmp_path):
    house = built(
        tmp_path,
        train____init__="from squeezenext.train.command import train\n",
        train__command="import keras\ndef train(): ...\n",
        train__options="import json\n",
        adapt="from squeezenext.train import train\n",
    )
    assert house.targets("squeezenext.adapt") == {"squeezenext.train.command"}
    assert house.graph(unit=room) == {"adapt": {"train"}, "train": set()}
    assert "keras" in house.loaded("squeezenext.train.options")  # Python loads the face first


def test_a_late_import_that_closes_a_circle_runs_back_up(tmp_path):
    house = built(
        tmp_path,
        low="def load():\n    from squeezenext import high\n    import json\n",
        high="import numpy\nfrom squeezenext import low\n",
    )
    assert house.back_up() == {("low", "high")}
    assert house.floors() == {"low": 1, "high": 2}
    assert circles(house.graph()) == {frozenset({"squeezenext.low", "squeezenext.high"})}
    assert [late.brings for late in house.late()] == [{"numpy"}, set()]
    assert not circles(house.graph(late=False))


def test_no_function_has_more_than_60_lines():
    """From def to its end, with the docstring."""
    long = {
        f"{path.relative_to(REPOSITORY)}: {x.name}"
        for folder in ("squeezenext", "datasets")
        for path in (REPOSITORY / folder).rglob("*.py")
        for x in ast.walk(ast.parse(path.read_text()))
        if isinstance(x, ast.FunctionDef | ast.AsyncFunctionDef) and x.end_lineno - x.lineno >= 60
    }
    assert not long


def test_what_is_printed_can_hold_no_control_character():
    """`cli.say` and `cli.log` escape them, and so does JSON; nothing else prints."""
    found = set()
    for path in (REPOSITORY / "squeezenext").rglob("*.py"):
        calls = [x for x in ast.walk(ast.parse(path.read_text())) if isinstance(x, ast.Call)]
        printed = [
            ast.unparse(x) for x in calls if ast.unparse(x.func) in ("print", "sys.stdout.write")
        ]
        if any(not text.startswith("print(json.dumps(") for text in printed):
            found.add(path.relative_to(REPOSITORY / "squeezenext").as_posix())
    assert found == {"cli.py", "progress.py", "demo.py"}
