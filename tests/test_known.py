"""Tests for `squeezenext/network/known.py`, by way of every file that carries it."""

import csv
import dataclasses
import io
import json
import types

import numpy as np
import pytest

from squeezenext import labels, predict
from squeezenext.adapt import shipping
from squeezenext.compress import command as compress
from squeezenext.compress.method import Method
from squeezenext.errors import InputError
from squeezenext.evaluate.command import evaluate
from squeezenext.export import keras as export_keras
from squeezenext.export import onnx as export_onnx
from squeezenext.export import page
from squeezenext.images import decoding, geometry
from squeezenext.litert.runner import Runner
from squeezenext.metrics import Evaluation
from squeezenext.model import card, loading
from squeezenext.model import directory as model_directory
from squeezenext.network import graph, known
from squeezenext.predict.predictor import Predictor
from squeezenext.records import dataset
from tests import test_export, tiny

records = test_export.records


@pytest.fixture(params=["SQUEEZENET", "SQUEEZENEXT"])
def model(request, records, tmp_path, monkeypatch):
    """A model directory whose `known` was fitted to the records, as `adapt` does."""
    folder = tmp_path / "mine"
    folder.mkdir()
    test_export.made(folder, getattr(tiny, request.param))
    monkeypatch.setattr(known, "LEAST", 1)  # the records are few
    shipping.fit_known_once(folder, dataset.find_dataset(records, None, None), lambda text: None)
    return folder


def test_few_validation_images_refuse_nothing(records, tmp_path):
    told = []
    shipping.fit_known_once(tmp_path, dataset.find_dataset(records, None, None), told.append)
    assert told[0].startswith("warning: this model never answers unknown: that takes 19 held-out ")
    assert told[0].endswith("; add photographs.") and not list(tmp_path.iterdir())


def some_images() -> tuple[np.ndarray, np.ndarray]:
    """Features and logits of 400 images of 5 classes, each with features of its own."""
    random = np.random.default_rng(0)
    classes = random.integers(0, 5, 400)
    features = random.gamma(0.5, 1, (400, 16)) * 0.3
    features[np.arange(400), classes] += 4
    logits = random.normal(0, 1, (400, 5))
    logits[np.arange(400), classes] += 6
    return features.astype(np.float32), logits.astype(np.float32)


def fitted(features: np.ndarray, logits: np.ndarray, held_out: int) -> known.Known:
    halves = [(x[:200], x[200 : 200 + held_out]) for x in (features, logits)]
    return known.fit(graph.of(tiny.SQUEEZENEXT), *zip(*halves, strict=True))


def test_nineteen_of_twenty_held_out_images_are_accepted_and_others_are_not():
    features, logits = some_images()
    found = fitted(features, logits, 200)
    assert 0.93 <= (found.scores(features[200:], logits[200:]) >= 0).mean() <= 0.97
    elsewhere = np.roll(features, 8, axis=1)  # channels that no class uses
    assert (found.scores(elsewhere, logits) < 0).mean() > 0.99
    assert (found.scores(features, np.sort(logits) * 0.01) < 0).mean() > 0.9  # no class stands out
    # The length of the features says nothing: a picture of more contrast is no other thing.
    louder = found.scores(features * 3, logits)
    np.testing.assert_allclose(louder, found.scores(features, logits), atol=1e-5)


def test_few_held_out_images_set_the_threshold_at_the_least_of_them():
    features, logits = some_images()
    scores = fitted(features, logits, 8).scores(features[200:208], logits[200:208])
    assert scores.min() == pytest.approx(0)


def test_a_channel_that_is_always_silent_or_one_image_alone_breaks_nothing():
    features, logits = np.zeros((3, 16), np.float32), np.zeros((3, 3), np.float32)
    found = known.fit(graph.of(tiny.SQUEEZENEXT), (features, logits), (features, logits))
    assert np.isfinite(found.scores(features + 1, logits)).all()


def test_images_of_no_class_teach_the_score_and_leave_the_threshold_to_the_classes():
    """Such that differ from those of the classes in a channel that varies in them, too."""
    features, logits = some_images()
    others = features[:60].copy()
    others[:, 10] += 1.1
    parts = [(x[:200], x[200:400]) for x in (features, logits)]
    plain = fitted(features, logits, 200)
    direction = shipping._direction(known.units(features[:200]), known.units(others[:30]))
    taught = known.fit(graph.of(tiny.SQUEEZENEXT), *zip(*parts, strict=True), direction)
    refused = [(each.scores(others[30:], logits[30:60]) < 0).mean() for each in (plain, taught)]
    assert refused[0] < 0.6 and refused[1] > 0.9
    assert 0.93 <= (taught.scores(features[200:], logits[200:]) >= 0).mean() <= 0.97


def test_a_file_gives_back_the_very_numbers():
    found = fitted(*some_images(), 200)
    again = known.from_document(json.loads(json.dumps(found.to_json())), graph.of(tiny.SQUEEZENEXT))
    assert np.array_equal(again.kernel, found.kernel) and again.bias == found.bias


@pytest.mark.parametrize(
    "change",
    [
        {"bias": None}, {"bias": float("nan")}, {"bias": True}, {"scale": 1e300}, {"kernel": 3},
        {"kernel": "AAAA"}, {"kernel": "*"}, {"kernel": "/38" * 22}, {"scale": "1"},
    ],
)  # fmt: skip
def test_damage_is_refused(change):
    document = fitted(*some_images(), 200).to_json() | change
    with pytest.raises(ValueError):
        known.from_document(document, graph.of(tiny.SQUEEZENEXT))


def shown(records, model) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns what a directory says of twelve images, and their pixels."""
    predictor = Predictor(model)
    files = [tiny.jpeg(number, number % 3 + 1) for number in range(12)]
    images = [decoding.read_image(data, "a") for data in files]
    pixels = [geometry.centre_pixels(image, predictor.config.images) for image in images]
    return np.array([predictor.view(image).known for image in images]), pixels


def test_every_form_says_the_same(model, records, tmp_path):
    wanted, pixels = shown(records, model)
    assert (wanted >= 0.5).sum() >= 6 and wanted.std() > 0.01
    inside = Predictor(model, inside=True)
    view = inside.view(decoding.read_image(tiny.jpeg(0, 1), "a"))
    score = inside._model.known.scores(view.features[np.newaxis], view.logits[np.newaxis])
    assert view.known == pytest.approx(1 / (1 + np.exp(-score[0])), abs=1e-5)
    assert view.known == pytest.approx(wanted[0], abs=1e-6)

    loaded = loading.load(model)
    for precision, most in (("float32", 1e-5), ("float16", 0.02), ("int8", 0.3)):
        file = tmp_path / f"{precision}.tflite"
        more = [f"--precision={precision}", f"--data_dir={records}"]
        assert test_export.command(model, file, "litert", *more) == 0
        assert np.abs(shown(records, file)[0] - wanted).max() < most
        assert len(Runner(file.read_bytes(), 1, "a").run(pixels[0].astype(np.float32))) == 2
    compress.compress(model, tmp_path / "mine.sqz", Method(lossless=True))
    assert np.abs(shown(records, tmp_path / "mine.sqz")[0] - wanted).max() < 1e-5
    for content in page._networks(loaded, ()).values():
        network = Runner(content, 1, "the page")
        said = [network.run(image.astype(np.float32))[-1][0] for image in pixels]
        np.testing.assert_allclose(said, wanted, atol=1e-5)
    plain = export_keras.build_plain(loaded, with_known=True)  # as the SavedModel has it
    said = plain(np.float32(pixels))[1].numpy()[:, 0]
    np.testing.assert_allclose(said, wanted, atol=1e-5)
    assert len(export_keras.build_plain(loaded).outputs) == 1


def test_onnx_says_the_same(model, records):
    pytest.importorskip("onnx", reason="requirements-onnx.txt is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="requirements-onnx.txt is not installed")
    wanted, pixels = shown(records, model)
    session = runtime.InferenceSession(export_onnx.onnx_file(loading.load(model), "float32"))
    assert [output.name for output in session.get_outputs()][:2] == ["probabilities", "logits"]
    images = np.float32(pixels).transpose(0, 3, 1, 2)
    (said,) = session.run(["known"], {"images": images})
    np.testing.assert_allclose(said[:, 0], wanted, atol=1e-5)


def test_the_share_that_is_accepted_is_reported(model, records, tmp_path):
    file = tmp_path / "model.tflite"
    assert test_export.command(model, file, "litert") == 0
    result = evaluate(model_dir=file, data_dir=records, split="train")
    assert result.known.shape == result.labels.shape
    assert result.summary()["accepted"] == (result.known >= 0.5).mean()
    assert "unknown" in card.render(model)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_share_is_said_of_images_that_set_no_threshold(monkeypatch, tmp_path, split):
    """Of the validation images 95 % are accepted in any case."""
    ones = np.ones(4, np.float32)
    classes = np.array([0, 1, 0, 1])
    network = Evaluation(classes, ones, ones, ones, classes, ones)
    file = dataclasses.replace(network, known=np.float32([0.9, 0.8, 0.7, 0.1]))
    path = tmp_path / "a.tflite"
    monkeypatch.setattr(
        shipping, "evaluate", lambda model_dir, **_: file if model_dir == path else network
    )
    for room in (shipping.card, shipping.report):
        monkeypatch.setattr(room, "write", lambda *_: None)
    monkeypatch.setattr(shipping, "subject", lambda *_: None)
    named = tuple(labels.Label(name, name) for name in ("cat", "dog"))
    parts = {name: types.SimpleNamespace(examples=4) for name in ("train", split)}
    found = types.SimpleNamespace(splits=parts, classes=named)
    results = shipping.score(tmp_path, tmp_path, found, {"float32": path}, tmp_path)
    scores = model_directory.read_json(tmp_path / model_directory.SCORES)
    said = ["It accepts 75.0% of these images; the others it calls unknown."]
    assert scores["remarks"] == (said if split == "test" else [])
    assert ("accepted" in results["network"].summary()) == (split == "test")
    assert scores["files"]["a.tflite"]["accepted"] == 0.75


def test_unknown_is_the_first_thing_that_is_said(model, tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(tiny.jpeg(0, 1))
    (tmp_path / "0.jpg").write_bytes(b"no image")
    fitted_here = model_directory.read_known(model, loading.load(model).graph)
    for bias, said in ((-100.0, True), (100.0, False)):
        changed = known.Known(fitted_here.kernel, fitted_here.bias + bias)
        model_directory.write_known(model, changed, 0, 0)
        assert predict.main(["predict", str(tmp_path), f"--model_dir={model}"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[1].startswith("  unknown, most like n") == said and len(lines) == 4 + said
        predict.main(["predict", str(tmp_path / "a.jpg"), f"--model_dir={model}", "--format=json"])
        assert (json.loads(capsys.readouterr().out)["known"] < 0.5) == said
        predict.main(["predict", str(tmp_path), f"--model_dir={model}", "--format=csv"])
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert rows[0]["known"] == "" and (float(rows[1]["known"]) < 0.5) == said


def test_a_fit_that_was_interrupted_leaves_a_model_that_answers(model, records):
    wanted, _ = shown(records, model)
    (model / model_directory.LITERT).unlink()  # killed before the new file was written
    np.testing.assert_allclose(shown(records, model)[0], wanted, atol=1e-6)
    model_directory.remove_results(model)  # of a run that goes on
    assert Predictor(model).view(decoding.read_image(tiny.jpeg(0, 1), "a")).known is None


def test_a_damaged_file_is_named(model, tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(tiny.jpeg(0, 1))
    for content in ("{}", "[]", '{"known": {"bias": 1.0}}', "x"):
        (model / model_directory.KNOWN).write_text(content)
        with pytest.raises(InputError, match=r"known\.json is damaged"):
            Predictor(model)
