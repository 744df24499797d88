"""Tests for `train/source.py`: what may be fine-tuned or taught, through the command line."""

import json

import numpy as np
import pytest

from squeezenext.labels import Label
from squeezenext.model import checkpoint
from squeezenext.records import dataset
from squeezenext.train import command, source
from tests import tiny

COLOURS = {"red": 1, "green": 2, "blue": 3}


def data(folder, *names):
    """Records of these classes, in this order; those that are no colour look like a red one."""
    payloads = [tiny.payload(number, 1 + number % len(names)) for number in range(12)]
    split = tiny.data_set(folder, "train", payloads)
    path = split / dataset.MANIFEST
    document = json.loads(path.read_text())
    document["classes"] = [
        {"label": number, "synset": name, "text": name} for number, name in enumerate(names, 1)
    ]
    path.write_text(json.dumps(document))
    return split


def run(place, model_dir, records, *flags):
    name = place / "net.py"
    if not name.exists():
        name.write_text("from tests.tiny import SQUEEZENET as CONFIG\n")
    return command.main(
        [
            *("train", "--configuration", str(name), "--data_dir", str(records)),
            *("--model_dir", str(model_dir), "--num_epochs", "1", "--precision", "float32"),
            *("--set", "training.ema=0", "--set", "training.weight_decay=0", *flags),
        ]
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a network of the classes red, green and blue."""
    folder = tmp_path_factory.mktemp("source")
    assert run(folder, folder / "trained", data(folder / "rgb", *COLOURS)) == 0
    return folder


def weights(model_dir):
    return checkpoint.evaluated(checkpoint.newest(model_dir / "checkpoints", print)[0])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("red", "green", "blue"), "new: nothing"),
        (("blue", "red", "green"), "new: nothing"),
        (("green", "red"), "new: nothing"),
        (("blue", "brown", "red"), "begins anew for 1 of 3 classes"),
        (("red", "green", "blue", "brown"), "begins anew for 1 of 4 classes"),
        (("brown", "pink", "grey"), "begins anew for all 3 classes"),
    ],
)
def test_the_classifier_s_rows_go_by_class_name(place, tmp_path, names, told):
    """Of the same number of other classes the rows were taken in order, and names exchanged."""
    flags = ("--fine_tune_from", str(place / "trained"), "--set", "training.learning_rate=1e-12")
    flags = (*flags, "--set", "training.warmup_epochs=0")
    assert run(place, tmp_path / "tuned", data(tmp_path / "data", *names), *flags) == 0
    assert told in (tmp_path / "tuned" / "train.log").read_text()
    before, after = weights(place / "trained"), weights(tmp_path / "tuned")
    order = list(COLOURS)
    for part in ("kernel", "bias"):
        old, new = (each[f"model/conv10/{part}"] for each in (before, after))
        assert old.any(tuple(range(old.ndim - 1))).all()  # a new bias begins at 0
        for index, name in enumerate(names):
            same = [np.allclose(new[..., index], old[..., i]) for i in range(len(order))]
            assert same == [name == each for each in order]
    assert np.allclose(before["model/conv1/kernel"], after["model/conv1/kernel"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("images.channels=BGR", "images.channels is RGB there and BGR here"),
        ("images.mean=(104, 117, 123)", "images.mean is (128.0, 128.0, 128.0) there"),
        ("images.std=(1, 1, 1)", "--set 'images.std=(64.0, 64.0, 64.0)'"),
        ("model.activation=elu", "--set model.activation=relu"),
        ("model.head_padding=1", "model.head_padding is 0 there and 1 here"),
        ("model.bypass=none", "model.bypass is simple there and none here"),
        ("model.pool_after=(3,)", "model.pool_after is (2,) there and (3,) here"),
    ],
)
def test_the_same_shapes_of_another_network_are_refused(place, tmp_path, capsys, change, told):
    flags = ("--fine_tune_from", str(place / "trained"), "--set", change)
    assert run(place, tmp_path / "tuned", place / "rgb", *flags) == 2
    (error,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert f"{place / 'trained'} is another network: " in error and told in error
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    ("configuration", "name", "told"),
    [
        ("squeezenet_v1_1", "squeezenet_v1_1_torchvision", "images.channels is RGB there"),
        ("squeezenet_v1_0", "squeezenet_v1_1", "model.fires"),
        ("v_1_0_SqNxt_23", "squeezenet_v1_1", "is a SqueezeNet, this configuration a SqueezeNext"),
    ],
)
def test_configurations_are_told_apart(configuration, name, told):
    from squeezenext.config import io
    from squeezenext.errors import InputError

    with pytest.raises(InputError, match="--configuration that it was trained with") as error:
        source.check_network(name, io.load(name), io.load(configuration))
    assert (told in str(error.value)) or "stem_kernel" in str(error.value)
    source.check_network(name, io.load(name), io.load(name))


def test_what_training_may_change_is_no_other_network(place, tmp_path):
    flags = ("--fine_tune_from", str(place / "trained"), "--set", "model.dropout=0.1")
    flags = (*flags, "--set", "images.resize_mode=short_side", "--set", "images.size=24")
    assert run(place, tmp_path / "tuned", place / "rgb", *flags) == 0


def test_a_run_goes_on_whatever_it_was_begun_from(place, tmp_path):
    flags = ("--fine_tune_from", str(place / "trained"))
    assert run(place, tmp_path / "tuned", place / "rgb", *flags) == 0
    assert run(place, tmp_path / "tuned", place / "rgb", *flags, "--num_epochs", "2") == 0


def test_a_teacher_of_as_many_other_classes_is_refused(place, tmp_path, capsys):
    flags = ("--teacher", str(place / "trained"))
    assert run(place, tmp_path / "own", place / "rgb", *flags) == 0
    for number, names in enumerate([("green", "red", "blue"), ("red", "green", "grey")]):
        records = data(tmp_path / f"data{number}", *names)
        assert run(place, tmp_path / "taught", records, *flags) == 2
        assert "has other classes, or another order" in capsys.readouterr().err


def test_classes_without_names_are_taken_by_their_number():
    named = [Label(name, name) for name in COLOURS]
    numbered = [Label(str(i), f"class {i}") for i in range(3)]
    assert source.common(numbered, named) == [(0, 0), (1, 1), (2, 2)]
    assert source.common(numbered[:2], named) == source.common(named, numbered[:2]) == []
    digits = [Label(str(i), str(i)) for i in (2, 1)]  # folders that are named so
    assert source.common(digits, digits[::-1]) == [(1, 0), (0, 1)]
