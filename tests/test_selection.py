"""What `adapt` keeps after training: weights, and how much of a photograph the network sees."""

import dataclasses
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from squeezenext.adapt import probe, selection
from squeezenext.model import checkpoint, loading
from squeezenext.model import directory as model_directory
from squeezenext.predictor import Predictor
from squeezenext.records import example
from squeezenext.records.dataset import find_dataset
from squeezenext.train import loop
from tests import records, tiny


def payload(number: int) -> bytes:
    """A record whose image tells its class, 1 to 3."""
    label = 1 + number % 3
    name = f"n{label}"
    one = example.ImageExample(tiny.jpeg(number, label), 48, 48, label, name, name, f"{number}.jpg")
    return records.encode_example(dict(records.example_features(one)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the validation split, the first answer's directory)."""
    folder = tmp_path_factory.mktemp("selection")
    tiny.model_directory(folder / "source", tiny.SQUEEZENET)
    payloads = [payload(number) for number in range(12)]
    found = find_dataset(tiny.data_set(folder / "records", "train", payloads), None, None)
    found = dataclasses.replace(found, splits={"validation": found.splits["train"], **found.splits})
    probe.make(folder / "preview", str(folder / "source"), found)
    return found.splits["validation"], folder / "preview"


def a_run(model_dir, preview) -> dict[str, np.ndarray]:
    """Makes a finished run that began with the first answer; returns its weights."""
    config, classes = model_directory.read(preview)
    trained = {name: np.float32(a * 1.01) for name, a in loading.variables(preview).items()}
    model_directory.write(model_dir, config, classes)
    meta = {
        "seed": 0,
        "epoch": 1.0,
        "examples": 24,
        "config": {},
        "versions": {},
        "epoch_sums": dataclasses.asdict(loop.Sums()),
    }
    checkpoint.save(model_dir / "checkpoints", 7, trained, meta)
    sha256 = checkpoint.weights_sha256(trained)
    final = {"step": 7, "top1": 0.25, "top5": 0.5, "loss": 1.0, "weights_sha256": sha256}
    (model_dir / "final.json").write_text(json.dumps(final))
    return trained


def chosen(monkeypatch, wanted: int, choices: int) -> None:
    """Lets one of the choices, in the order of their scoring, have the least loss."""
    losses = iter([1.0 - (number == wanted) for number in range(choices)])
    scores = probe.scores
    monkeypatch.setattr(
        probe,
        "scores",
        lambda *given, balanced: scores(*given) | {"fitted_loss": next(losses)},
    )


@pytest.mark.parametrize("share", selection.SHARES)
def test_the_better_weights_or_their_mean_are_kept(made, tmp_path, monkeypatch, share):
    validation, preview = made
    model_dir = tmp_path / "run"
    start, trained = loading.variables(preview), a_run(model_dir, preview)
    assert selection.done(model_dir) is None
    chosen(monkeypatch, selection.SHARES.index(share), len(selection.SHARES) + 1)
    before = model_directory.read_config(model_dir)
    kept = selection.select(model_dir, preview, validation, resizable=True)
    assert kept.share == share and kept.top1 == kept.top1_before
    assert len(kept.sentences()) == bool(share)
    assert model_directory.read_config(model_dir) == before
    final = json.loads((model_dir / "final.json").read_text())
    assert final["start_share"] == share and "fitted_loss" not in final
    arrays = loading.variables(model_dir)
    assert final["weights_sha256"] == checkpoint.weights_sha256(arrays)
    for name, array in arrays.items():
        mean = share * start[name] + (1 - share) * trained[name]
        np.testing.assert_allclose(array, mean, rtol=1e-6)
    assert (final["top1"] == 0.25) == (not share)
    assert (model_dir / "model.tflite").is_file()
    assert selection.done(model_dir) == final["weights_sha256"]
    (model_dir / "model.tflite").unlink()  # as a fit of `known` does that is killed
    assert selection.done(model_dir) == final["weights_sha256"]
    damaged = final | {"weights_sha256": "of a save that never came"}
    (model_dir / "final.json").write_text(json.dumps(damaged))
    assert selection.done(model_dir) is None
    assert not (model_dir / ".selection").exists()


@pytest.mark.parametrize("kind", ["none", "adjusted"])
def test_uneven_classes_are_selected_for_as_they_were_trained(made, tmp_path, monkeypatch, kind):
    validation, preview = made
    model_dir, asked, scores = tmp_path / "run", set(), probe.scores
    a_run(model_dir, preview)
    config, classes = model_directory.read(model_dir)
    training = dataclasses.replace(config.training, class_weights=kind)
    model_directory.write(model_dir, dataclasses.replace(config, training=training), classes)

    def watched(*given, balanced):
        asked.add(balanced)
        return scores(*given, balanced=balanced)

    monkeypatch.setattr(probe, "scores", watched)
    selection.select(model_dir, preview, validation, resizable=False)
    assert asked == {kind == "adjusted"}


def test_the_largest_square_is_kept_where_it_is_better(made, tmp_path, monkeypatch):
    validation, preview = made
    model_dir = tmp_path / "run"
    a_run(model_dir, preview)
    chosen(monkeypatch, len(selection.SHARES), len(selection.SHARES) + 1)
    kept = selection.select(model_dir, preview, validation, resizable=True)
    before, config = (model_directory.read_config(one) for one in (preview, model_dir))
    assert kept.side == config.images.size == config.images.resize
    assert before.images.size == kept.side < before.images.resize
    assert Predictor(model_dir).config == config
    assert "largest square" in kept.sentences()[0]
    equal = dataclasses.replace(kept, top1=0.8667, top1_before=0.8667).sentences()[0]
    assert equal.endswith(": the loss of the validation images is lower.")
    final = json.loads((model_dir / "final.json").read_text())
    assert final["start_share"] == 0 and final["top1"] == kept.top1
    assert selection.done(model_dir) == final["weights_sha256"]


@pytest.mark.parametrize(("resizable", "sides"), [(True, [227, 208, 192]), (False, [227])])
def test_a_model_of_the_user_s_keeps_its_side(made, resizable, sides):
    config = model_directory.read_config(made[1])
    images = dataclasses.replace(config.images, size=227, resize=256)
    found = selection._squares(dataclasses.replace(config, images=images), resizable)
    assert [images.size for images in found] == sides


def test_a_selection_that_is_killed_at_a_rename_is_made_again(made, tmp_path, monkeypatch):
    """If the trained weights are kept, their checkpoint is never touched."""
    validation, preview = made
    replace = os.replace

    def select(model_dir, last: int) -> None:
        """Selects the largest square; the rename after `last` in the directory ends it."""
        renames = itertools.count()

        def counted(source, target) -> None:
            if Path(target).parent == model_dir and next(renames) == last:
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patch:
            chosen(patch, len(selection.SHARES), len(selection.SHARES) + 1)
            patch.setattr(os, "replace", counted)
            selection.select(model_dir, preview, validation, resizable=True)

    for kills in itertools.count():
        model_dir = tmp_path / str(kills)
        a_run(model_dir, preview)
        try:
            select(model_dir, kills)
            break
        except KeyboardInterrupt:
            select(model_dir, -1)
        assert selection.done(model_dir)
        images = model_directory.read_config(model_dir).images
        assert images.size == images.resize
    assert kills > 3
