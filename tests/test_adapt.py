"""Tests for `squeezenext/adapt.py`: from a folder of photographs to the exported files."""

import dataclasses
import subprocess

import pytest

from squeezenext import adapt, predictor
from squeezenext.errors import InputError

CLASSES = ("n01440764", "n01530575", "n01601694")
COPIES = 5  # of the one image there is of each class


@pytest.fixture(scope="module")
def photographs(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    names = [f"./{name}" for name in CLASSES]
    subprocess.run(["tar", "xf", shared / "imagenet-100.tar", "-C", folder, *names], check=True)
    for name in CLASSES:
        (image,) = (folder / name).iterdir()
        for number in range(COPIES):  # another end of the file makes another file
            data = image.read_bytes() + bytes([number])
            (folder / name / f"{number}.jpg").write_bytes(data)
        image.unlink()
    return folder


@pytest.fixture(scope="module")
def adapted(shared, photographs, tmp_path_factory):
    """As fast as it can be: two epochs on small images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SQUEEZENEXT_WEIGHTS", str(shared / "weights"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("model")
        made = adapt.adapt(photographs, folder, minutes=0.001, max_bytes=0)
        yield made


def test_two_files_come_out_and_predict_the_folders(adapted, photographs):
    assert adapted.plan.epochs == 2 and adapted.plan.size == 128
    assert set(adapted.files) == {"float32", "int8"}
    assert adapted.files["int8"].stat().st_size < 0.35 * adapted.files["float32"].stat().st_size
    model = predictor.Predictor(adapted.model_dir)
    assert {label.synset for label in model.labels} == set(CLASSES)
    assert set(adapted.scores) == {"validation", "float32", "int8"}


def test_the_same_command_goes_on_and_another_is_refused(adapted, photographs):
    folder = adapted.model_dir
    plan = adapt._planned(folder / adapt.PLAN, folder / adapt.RECORDS, "squeezenet_v1_1", 0.001)
    assert plan == adapted.plan
    with pytest.raises(InputError, match="was begun with --configuration squeezenet_v1_1"):
        adapt.adapt(photographs, folder, minutes=5)


def test_a_network_without_published_weights_is_refused(tmp_path, photographs):
    with pytest.raises(InputError, match="no published weights to start from"):
        adapt.adapt(photographs, tmp_path, configuration="v_1_0_SqNxt_23")


def test_more_time_gives_more_epochs_then_larger_images(adapted, monkeypatch):
    from squeezenext.training import speed

    monkeypatch.setattr(speed, "training_rate", lambda config: 1.0)  # 12 training images
    records = adapted.model_dir / adapt.RECORDS
    plans = [adapt._plan(records, "squeezenet_v1_1", minutes) for minutes in (0.5, 1, 2, 4, 60)]
    sizes, epochs = zip(*((plan.size, plan.epochs) for plan in plans), strict=True)
    assert list(sizes) == sorted(sizes) and sizes[-1] == 227
    assert epochs[-1] == adapt.MAX_EPOCHS and min(epochs) >= 2
    assert dataclasses.replace(plans[0], epochs=3.0).config().training.epochs == 3.0
