"""Tests for `compress/retraining.py`, and the restrictions of `Update`."""

import contextlib
import dataclasses
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from squeezenext.adapt import command as adapt_command
from squeezenext.compress import command, retraining
from squeezenext.errors import InputError
from squeezenext.formats import variables
from squeezenext.network import graph, keras_model
from squeezenext.network.keras_model import model_variables
from squeezenext.sqz.kernels import Shared
from squeezenext.train import devices, measure
from tests import tiny


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return tiny.reader(tmp_path_factory.mktemp("records"), 16)


def recipe(config, **changes):
    training = dataclasses.replace(
        config.training, epochs=2.0, batch_size=8, optimizer="adam", warmup_epochs=0.0, ema=0.0,
        weight_decay=0.0, **changes
    )  # fmt: skip
    return dataclasses.replace(config, training=training)


@pytest.fixture(scope="module")
def dense():
    """A tiny SqueezeNext's variables, its batch norm not the identity, the same each time."""
    config = recipe(tiny.SQUEEZENEXT, learning_rate=0.5)
    keras.utils.set_random_seed(0)  # else a ReLU may be silent for all, and weights learn nothing
    arrays = {n: v.numpy() for n, v in model_variables(keras_model.build_model(config)).items()}
    rng = np.random.default_rng(0)
    for name, array in arrays.items():
        if name.endswith(("gamma", "moving_variance")):
            arrays[name] = rng.uniform(0.5, 2, array.shape).astype(np.float32)
    return config, arrays


def test_a_tie_sums_its_gradients_and_a_mask_holds():
    codes = tf.constant([[0, 1, 2], [1, 1, 0]])
    tie = retraining.tied(codes, 3)
    found = tie.gradient(tf.constant([[9.0, 1, 2], [3, 4, 9]])).numpy()
    assert found.tolist() == [[0, 8, 2], [8, 8, 0]]
    mask = retraining.masked(tf.Variable([1.0, 0.0]))
    assert mask.gradient(tf.constant([5.0, 5.0])).numpy().tolist() == [5, 0]
    assert mask.weight(tf.constant([5.0, 5.0])).numpy().tolist() == [5, 0]
    assert not retraining.FIXED.gradient(tf.ones(2)).numpy().any()


def test_unfolded_weights_compute_the_same(dense):
    config, arrays = dense
    folded = graph.fold(config, arrays)
    again = graph.fold(config, variables.unfold(config, folded))
    for name, array in folded.items():
        np.testing.assert_allclose(again[name], array, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("count", [1, 2])
def test_pruning_reaches_its_density_while_training(dense, reader, monkeypatch, count):
    """On several devices, too, of which each has a part of the batch."""
    config, arrays = dense
    strategy = devices.strategy(count)
    monkeypatch.setattr(devices, "strategy", lambda *_: strategy)
    importance = {node.name: 1.0 for node in graph.of(config).weighted}
    found = retraining.prune(config, arrays, reader, importance, 0.3)
    kernels = [found[f"model/{node.name}/kernel"] for node in graph.of(config).weighted]
    share = sum((k != 0).sum() for k in kernels) / sum(k.size for k in kernels)
    assert share == pytest.approx(0.3, abs=0.03)
    before = [arrays[f"model/{node.name}/kernel"] for node in graph.of(config).weighted]
    kept = [(new != old)[new != 0].mean() for new, old in zip(kernels, before, strict=True)]
    assert np.mean(kept) > 0.9  # what stays has learnt


@pytest.mark.parametrize(("examples", "batch"), [(1000, 32), (20, 20)])
def test_one_device_retrains_with_the_recipe_s_batch(monkeypatch, dense, reader, examples, batch):
    """Its 32 images are too few to be worth several GPUs; `adapt` measures and trains on one."""
    config = command.Method(epochs=2.0).recipe(tiny.SQUEEZENEXT, "teacher")
    found = retraining.for_examples(config, examples)
    assert found.training.batch_size == batch
    asked, strategy = [], devices.strategy
    monkeypatch.setattr(devices, "strategy", lambda count: asked.append(count) or strategy(count))
    retraining._loop(dense[0], reader, dense[1])
    monkeypatch.setattr(measure, "Loop", lambda *_, **__: None)
    measure.trainer(tiny.SQUEEZENEXT, "float32", 8)
    plan = types.SimpleNamespace(configuration="mine", evaluate_every_epochs=1, config=lambda: None)
    monkeypatch.setattr(
        adapt_command.command, "train", lambda _, options, course: asked.append(options.devices)
    )
    found = types.SimpleNamespace(splits={"validation": None})
    with contextlib.suppress(InputError):  # it has trained, but left no model
        adapt_command._train(
            types.SimpleNamespace(plan=plan), Path("run"), found, seed=0, deterministic=False
        )
    assert asked == [1, 1, 1]


def test_shared_values_are_trained_and_stay_shared(dense, reader):
    config, arrays = dense
    folded = graph.fold(config, arrays)
    names = [node.name for node in graph.of(config).weighted]
    shared = {name: tiny.shared(folded[f"{name}/kernel"], 7) for name in names}
    stem = shared["stem"].values.copy()
    stem[..., :2] = 0
    shared["stem"] = Shared.of(stem)
    trained, weights = retraining.train_values(config, folded, shared, reader)
    moved = 0.0
    for name, kernel in shared.items():
        np.testing.assert_array_equal(trained[name].values == 0, kernel.values == 0)
        assert len(trained[name].codebook) <= len(kernel.codebook)
        np.testing.assert_allclose(trained[name].values, weights[f"{name}/kernel"], rtol=1e-5)
        moved += np.abs(trained[name].values - kernel.values).max()
    assert moved > 0.01
    assert any(not np.array_equal(weights[n], folded[n]) for n in folded if n.endswith("bias"))


def test_speed_is_measured_on_one_device(monkeypatch):
    asked = {}
    both = devices.strategy(2)
    monkeypatch.setattr(devices, "strategy", lambda *_: both)
    monkeypatch.setattr(measure, "Loop", lambda config, **how: asked.update(how))
    measure.trainer(tiny.SQUEEZENEXT, "float32", 8)
    assert asked["strategy"].num_replicas_in_sync == 1 and asked["micro_batch"] == 8


def test_masks_hold_on_several_devices(dense):
    config, arrays = dense
    strategy = devices.strategy(2)
    from squeezenext.train import exchange
    from squeezenext.train.update import Update

    with strategy.scope():
        model = keras_model.build_model(config)
        exchange.assign(model, arrays, "the test")
        update = Update(model, config.training, 16, "float32")
        kernel = update.weights[0]
        kept = np.zeros(kernel.shape, np.float32)
        kept[0] = 1
        update.restrict([(kernel, retraining.masked(tf.Variable(kept, trainable=False)))])

    @tf.function
    def step():
        def fill():
            update.vector.load()
            update.accumulate(tf.ones(sum(update.vector.sizes)), tf.zeros(3))

        strategy.run(fill)
        update.take(strategy)
        update.vector.store(strategy)

    step()
    found = kernel.numpy()
    assert not found[1:].any() and (found[0] != arrays["model/stem/kernel"][0]).all()


def test_the_schedule_falls_from_one_to_the_end():
    shares = [retraining.density(progress, 0.3) for progress in (-1, 0, 0.25, 0.5, 1, 7)]
    assert shares[0] == shares[1] == 1.0 and shares[-2] == shares[-1] == pytest.approx(0.3)
    assert shares[1] > shares[2] > shares[3] > shares[4]
    assert shares[1] - shares[2] > shares[2] - shares[3]  # fast first


def test_the_least_important_weights_go_whatever_their_layer():
    rng = np.random.default_rng(0)
    kernels = {name: rng.normal(size=(10, 10)).astype(np.float32) for name in "ab"}
    equal = retraining.masks(kernels, {"a": 1.0, "b": 1.0}, 0.4)
    assert sum(mask.sum() for mask in equal.values()) == 80
    for name, mask in equal.items():
        assert np.abs(kernels[name][mask]).min() > np.abs(kernels[name][~mask]).max()
    skewed = retraining.masks(kernels, {"a": 1e6, "b": 1.0}, 0.4)
    assert skewed["a"].sum() > 75 and 1 <= skewed["b"].sum() < 5
    assert all(mask.all() for mask in retraining.masks(kernels, {"a": 1.0, "b": 1.0}, 1.0).values())
    least = retraining.masks(kernels, {"a": 1e9, "b": 1.0}, 1e-9)
    assert least["a"].sum() == 1 and least["b"].sum() == 1


def test_pruned_weights_never_come_back():
    kernels = {"a": np.array([[0, 0, 1.0, 2.0]])}
    assert retraining.masks(kernels, {"a": 1.0}, 1.0)["a"].tolist() == [[False, False, True, True]]
