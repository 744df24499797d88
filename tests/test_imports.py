"""What must start without TensorFlow, and what configurations may import.

scripts/structure.py defines the words (room, floor, arrow, face, late) and reads the imports.
"""

from pathlib import Path

from scripts.structure import House, circles, room
from tests.conftest import REPOSITORY

TENSORFLOW = {"tensorflow", "keras"}
COMMANDS = ("adapt", "compress", "evaluate", "export", "predict", "train", "weights", "demo",
            "stats")  # fmt: skip
HOUSE = House(REPOSITORY)


def test_commands_load_no_tensorflow():
    for name in COMMANDS:
        assert f"squeezenext.{name}" in HOUSE.modules
        assert not HOUSE.loaded(f"squeezenext.{name}") & TENSORFLOW


def test_configurations_import_only_the_words():
    names = {name for name in HOUSE.modules if room(name) == "configs"}
    assert len(names) > 1
    allowed = {"config", "config_io"}
    assert {room(target) for name in names for target in HOUSE.targets(name)} <= allowed


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
