"""Tests for `../scripts/benchmarks/inference.py`, its worker and the files it writes."""

import dataclasses
import json

import numpy as np
import pytest

from scripts.benchmarks import inference as benchmark_inference
from scripts.benchmarks.peers import runtimes
from squeezenext.labels import Label
from squeezenext.litert import writer
from squeezenext.litert.runner import Runner
from squeezenext.network import graph, rgb
from squeezenext.network.model import Model
from tests import tiny
from tests.test_litert_writer import random_weights


@pytest.fixture(scope="module")
def model():
    network = graph.of(tiny.SQUEEZENEXT)
    return Model("tiny", tiny.SQUEEZENEXT, (), random_weights(network))


def test_a_worker_answers_and_is_timed(model, tmp_path):
    network, weights = rgb.take_rgb(model.graph, model.weights, model.config.images)
    rng, rows = np.random.default_rng(0), []
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8))
    other = {n: 1.1 * a if n.endswith("kernel") else a for n, a in weights.items()}
    for name, arrays in (("right", weights), ("wrong", other)):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(writer.write(network, arrays))
        rows.append(runtimes.Row("litert", "float32", path, (path,)))
    rows.append(runtimes.Row("ncnn", "float32", tmp_path, ()))
    workers = runtimes.start(rows, [1], {"ncnn": "/bin/false"})
    kept = runtimes.right_ones(workers, model, tmp_path / "images.npy")
    assert [worker.row.path.stem for worker in kept] == ["right"]
    kept[0].run(tmp_path / "images.npy", 3)
    row = benchmark_inference._row("tiny", kept[0], tmp_path / "images.npy", [])
    assert row["milliseconds"] > 0 and row["top1"] is None and row["bytes"] > 1000
    assert json.dumps(row)


def test_a_classifier_s_bias_is_told(monkeypatch):
    monkeypatch.setattr(benchmark_inference, "PUBLISHED", {})
    assert benchmark_inference.load("sqnxt23_w1")[0].weights["classifier/bias"].shape == (1000,)


def test_a_calibrated_model_s_files_give_its_own_logits(model, tmp_path):
    """Keras' file, too, whose logits are what goes into its softmax."""
    import keras

    warm = dataclasses.replace(model, temperature=2.0, labels=(Label("a", "a"),) * 3)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    rows = benchmark_inference.write_files(warm, tmp_path, list(images))
    (path,) = (row.path for row in rows if row.runtime == "tensorflow")
    whole = keras.models.load_model(path, compile=False)
    network = keras.Model(whole.input, whole.get_layer("probabilities").input)
    found = network(images[:1].astype(np.float32)).numpy()[0]
    own = Runner((tmp_path / "float32.tflite").read_bytes(), 1, "float32")
    np.testing.assert_allclose(found, own.run(images[0].astype(np.float32))[0], atol=1e-3)
