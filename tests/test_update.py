"""Tests for `squeezenext/optimization/`, against Caffe's formulas in numpy."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from squeezenext.compress.retraining import FIXED
from squeezenext.config import io as config_io
from squeezenext.config import recipes
from squeezenext.config.training import Training
from squeezenext.train import update as updates
from squeezenext.train.optimizers import learning_rate
from squeezenext.train.vector import Averages

EXAMPLES = 1_281_167


def rate(training, examples_seen):
    seen = tf.constant(round(examples_seen), tf.int64)
    return float(learning_rate(training, seen, EXAMPLES, training.epochs))


def test_the_published_schedule():
    """Intel Caffe: linear to base_lr in 780 steps, then base_lr (1 - step / 150,136)^2."""
    training = Training()
    for step in (0, 1, 390, 779):
        expected = 0.1 + 0.3 * step / 780
        assert rate(training, step * 1024) == pytest.approx(expected, rel=1e-4)
    for step in (781, 50_000, 150_000):
        expected = 0.4 * (1 - step * 1024 / (120 * EXAMPLES)) ** 2
        assert rate(training, step * 1024) == pytest.approx(expected, rel=1e-3)
    assert rate(training, 120 * EXAMPLES) == 0.0
    assert 120 * EXAMPLES / 1024 == pytest.approx(150_136, abs=1)


def test_the_rate_follows_the_batch():
    small = dataclasses.replace(Training(), batch_size=256)
    assert rate(small, 3 * EXAMPLES) == pytest.approx(rate(Training(), 3 * EXAMPLES) / 4)
    root = Training(rate_scaling="sqrt", reference_batch=256)
    assert rate(root, 3 * EXAMPLES) == pytest.approx(rate(Training(), 3 * EXAMPLES) * 2)
    assert rate(root, 0) == pytest.approx(0.1 * 2)  # the warm-up's rate, too


def test_rates_at_the_reference_batch_are_those_of_earlier_releases():
    """To the last bit; theirs were for 1024 images, and linear in the batch."""
    old = {
        "modern": {"learning_rate": 0.02},
        "published": {
            "learning_rate": 0.016, "final_learning_rate": 1.6e-4,
            "late_final_learning_rate": 1.6e-5,
        },
    }  # fmt: skip
    for name, rates in old.items():
        now = recipes.apply(name, config_io.load("squeezenet_v1_1_caltech256")).training
        now = dataclasses.replace(now, batch_size=now.reference_batch)
        linear = dataclasses.replace(now, rate_scaling="linear", reference_batch=1024, **rates)
        for seen in (2 * EXAMPLES, 7 * EXAMPLES):
            assert rate(linear, seen) == rate(now, seen) > 0


def test_cosine_schedules():
    cosine = Training(schedule="cosine", warmup_epochs=0.0, epochs=10.0, final_learning_rate=0.1)
    assert rate(cosine, 0) == pytest.approx(0.4)
    assert rate(cosine, 5 * EXAMPLES) == pytest.approx(0.25, rel=1e-3)
    assert rate(cosine, 10 * EXAMPLES) == pytest.approx(0.1, rel=1e-3)
    seed = config_io.load("squeezenet_v1_1_caltech256").training
    assert rate(seed, 0) == pytest.approx(1e-3)
    assert rate(seed, 5 * EXAMPLES) == pytest.approx(1e-5, rel=1e-3)
    assert rate(seed, 10 * EXAMPLES) == pytest.approx(1e-3)  # up again
    assert rate(seed, 75 * EXAMPLES) == pytest.approx(1e-6, rel=1e-2)


def model():
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, name="classifier")(inputs)
    return keras.Model(inputs, outputs)


def take_step(update, gradients):
    strategy = tf.distribute.get_strategy()
    update.vector.load()
    gradient = update.vector.join([tf.constant(g) for g in gradients])
    update.accumulate(gradient, tf.zeros(3))
    outcome = update.take(strategy)
    update.vector.store(strategy)
    return outcome


@pytest.mark.parametrize("decayed", ["all", "kernels"])
def test_momentum_and_decay_are_caffe_s(decayed):
    """V = m v + r (g + d w); w -= v; in the warm-up m times r_t / r_(t-1)."""
    net = model()
    training = Training(
        epochs=2.0, warmup_epochs=0.5, batch_size=10, weight_decay=0.01, decayed=decayed
    )
    update = updates.Update(net, training, examples=100, precision="float32")
    kernel, bias = (weight.numpy() for weight in update.weights)
    bias += 1.0
    update.weights[1].assign(bias)
    velocities = [np.zeros_like(kernel), np.zeros_like(bias)]
    rng = np.random.default_rng(0)
    rates = []
    for step in range(12):
        gradients = [rng.normal(size=w.shape).astype(np.float32) for w in (kernel, bias)]
        take_step(update, gradients)
        epoch = step / 10
        top, start = 0.4 * 10 / 1024, 0.1 * 10 / 1024
        warm = epoch < 0.5
        rates.append(start + (top - start) * epoch / 0.5 if warm else top * (1 - epoch / 2) ** 2)
        momentum = 0.9 * (rates[-1] / rates[-2] if warm and step else 1)
        for i, weight in enumerate((kernel, bias)):
            decay = 0.01 if decayed == "all" or i == 0 else 0.0
            velocities[i] = momentum * velocities[i] + rates[-1] * (gradients[i] + decay * weight)
            weight -= velocities[i]
    np.testing.assert_allclose(update.weights[0].numpy(), kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(update.weights[1].numpy(), bias, rtol=1e-4, atol=1e-6)


def test_what_caffe_decays_is_everything_trained():
    """No decay_mult in the prototxt: kernels, biases, batch norm's scales and offsets."""
    for name in ("v_1_0_SqNxt_23", "squeezenet_v1_0"):
        assert config_io.load(name).training.decayed == "all"
    assert config_io.load("v_1_0_SqNxt_23").training.weight_decay == 1e-4
    assert config_io.load("squeezenet_v1_0").training.weight_decay == 2e-4


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb"])
def test_keras_s_optimizers_are_keras_s(name):
    kinds = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW,
             "lamb": keras.optimizers.Lamb}  # fmt: skip
    net, peer = model(), model()
    peer.set_weights(net.get_weights())
    decay = 0.0 if name == "lamb" else 0.01
    training = Training(optimizer=name, warmup_epochs=0.0, batch_size=1024, weight_decay=decay,
                        learning_rate=0.1, schedule="cosine", epochs=1e6)  # fmt: skip
    update = updates.Update(net, training, examples=1024, precision="float32")
    theirs = kinds[name](0.1, **({"weight_decay": decay} if name == "adamw" else {}))
    for step in range(4):
        rng = np.random.default_rng(step)
        gradients = [rng.normal(size=w.shape).astype(np.float32) for w in peer.get_weights()]
        take_step(update, gradients)
        if name == "adam":  # PyTorch's weight_decay of Adam: L2 in the gradient
            gradients = [g + decay * w for g, w in zip(gradients, peer.get_weights(), strict=True)]
        theirs.apply([tf.constant(g) for g in gradients], peer.trainable_variables)
    for ours, keras_own in zip(net.get_weights(), peer.get_weights(), strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-4, atol=1e-5)


def test_lamb_decays_inside_its_trust_ratio():
    """arXiv:1904.00962, algorithm 2, in numpy: w -= r |w| / |u| u with u = m / sqrt(v) + d w."""
    net = model()
    training = Training(
        optimizer="lamb", warmup_epochs=0.0, batch_size=1024, weight_decay=0.3,
        learning_rate=0.1, schedule="cosine", epochs=1e6, decayed="kernels",
    )  # fmt: skip
    update = updates.Update(net, training, examples=1024, precision="float32")
    update.weights[1].assign(np.ones(update.weights[1].shape))
    weights = [w.numpy().astype(np.float64) for w in update.weights]
    m, v = [0.0, 0.0], [0.0, 0.0]
    for step in range(1, 5):
        rng = np.random.default_rng(step)
        gradients = [rng.normal(size=w.shape).astype(np.float32) for w in weights]
        take_step(update, gradients)
        for i, gradient in enumerate(gradients):
            m[i] = 0.9 * m[i] + 0.1 * gradient
            v[i] = 0.999 * v[i] + 0.001 * gradient**2
            u = m[i] / (1 - 0.9**step) / (np.sqrt(v[i] / (1 - 0.999**step)) + 1e-6)
            u = u + (0.3 if i == 0 else 0.0) * weights[i]
            weights[i] -= 0.1 * np.linalg.norm(weights[i]) / np.linalg.norm(u) * u
    for ours, theirs in zip(update.weights, weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4)


def test_the_schedule_begins_when_all_weights_learn():
    training = Training(
        epochs=6.0, frozen_epochs=2, schedule="cosine", warmup_epochs=1.0, learning_rate=1.0,
        warmup_learning_rate=0.2, batch_size=1024,
    )  # fmt: skip
    rates = [
        float(learning_rate(training, tf.constant(seen), 100, training.epochs))
        for seen in (0, 199, 200, 250, 300, 400, 600)
    ]
    cosine = [0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in (1, 2, 4)]
    np.testing.assert_allclose(rates, [1, 1, 0.2, 0.6, *cosine], atol=1e-6)


def test_moving_average_and_clipping():
    net = model()
    training = Training(clip_norm=1.0, warmup_epochs=0.0, weight_decay=0.0, momentum=0.0,
                        batch_size=1024)  # fmt: skip
    update = updates.Update(net, training, examples=10**9, precision="float32")
    averages = Averages([(update.vector, 0.0)], 0.9)
    averages.restart(tf.distribute.get_strategy())
    before = [weight.numpy() for weight in update.weights]
    take_step(update, [np.full(w.shape, 10.0, np.float32) for w in before])
    moved = [w - b for w, b in zip((w.numpy() for w in update.weights), before, strict=True)]
    norm = math.sqrt(sum((m**2).sum() for m in moved))
    assert norm == pytest.approx(0.4, rel=1e-3)
    averages.move(update.step, tf.constant(True))
    averages.swap()
    for average, old, step in zip(
        update.vector.split(update.vector.values), before, moved, strict=True
    ):
        np.testing.assert_allclose(average.numpy(), old + 0.9 * step, rtol=1e-4)


def test_a_gradient_that_is_not_finite_changes_nothing_and_halves_the_scale():
    net = model()
    update = updates.Update(net, Training(), examples=100, precision="mixed_float16")
    before = net.get_weights()
    for bad in (float("nan"), float("inf")):
        take_step(update, [np.full(w.shape, bad, np.float32) for w in before])
    for weight, old in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert (update.skipped.numpy(), update.step.numpy()) == (2, 2)
    assert update.loss_scale.numpy() == updates.LOSS_SCALE_START / 4


def test_the_scale_grows_after_2000_clean_steps(monkeypatch):
    monkeypatch.setattr(updates, "LOSS_SCALE_GROWTH_STEPS", 3)
    update = updates.Update(model(), Training(), examples=100, precision="mixed_float16")
    scales = []
    for _ in range(4):
        take_step(update, [np.zeros(w.shape, np.float32) for w in update.weights])
        scales.append(update.loss_scale.numpy() / updates.LOSS_SCALE_START)
    assert scales == [1, 1, 2, 2]


def resumed(*precisions, skipped=0):
    """The update of a run that was saved in one precision and goes on in another, and so on."""
    old = updates.Update(model(), Training(), examples=100, precision=precisions[0])
    old.skipped.assign(skipped)
    for before, after in zip(precisions, precisions[1:], strict=False):
        new = updates.Update(model(), Training(), examples=100, precision=after)
        new.restore(old.state())
        new.restart_loss_scale(before)
        old = new
    return old


def test_a_run_that_goes_on_without_a_loss_scale_stops_at_its_first_nan():
    update = resumed("mixed_float16", "float32")
    assert update.loss_scale.numpy() == 1
    assert take_step(update, [tf.fill(w.shape, math.nan) for w in update.weights]).not_finite


def test_a_run_that_goes_on_in_float16_begins_with_its_loss_scale():
    assert resumed("float32", "mixed_float16").loss_scale == updates.LOSS_SCALE_START
    update = resumed("mixed_float16", "mixed_float16")
    update.loss_scale.assign(1.0)
    update.skipped.assign(15)  # lowered so far by gradients that were not finite
    update.restart_loss_scale("mixed_float16")
    assert update.loss_scale == 1
    for between in ("float32", "mixed_bfloat16"):
        legs = ("mixed_float16", between, "mixed_float16")
        assert resumed(*legs, skipped=1).loss_scale == updates.LOSS_SCALE_START
    update.restart_loss_scale(None)  # of a release that did not note it
    assert update.loss_scale == updates.LOSS_SCALE_START


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb"])
def test_a_finite_gradient_whose_square_is_not_is_skipped(name):
    """Adam's average of squares would be infinite, and the weights NaN a step later."""
    net = model()
    training = Training(optimizer=name, warmup_epochs=0.0, batch_size=1024)
    update = updates.Update(net, training, examples=1024, precision="float32")
    for size in (1e-3, 2e19, 1e-3):
        gradients = [np.full(w.shape, size, np.float32) for w in update.weights]
        assert bool(take_step(update, gradients).not_finite) == (size > 1)
    assert all(np.isfinite(w).all() for w in net.get_weights()) and update.skipped.numpy() == 1


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_weight_decay_leaves_a_fixed_weight(name):
    net = model()
    training = Training(optimizer=name, warmup_epochs=0.0, batch_size=1024, weight_decay=0.1)
    update = updates.Update(net, training, examples=1024, precision="float32")
    kernel, bias = update.weights
    update.restrict([(kernel, FIXED)])
    before = kernel.numpy()
    bias.assign(np.ones(3))
    take_step(update, [np.ones(w.shape, np.float32) for w in update.weights])
    np.testing.assert_array_equal(kernel.numpy(), before)
    assert (bias.numpy() != 1).all()
