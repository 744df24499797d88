"""Tests for `squeezenext/network/convolutions.py`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from squeezenext import tf_import
from squeezenext.network import convolutions
from squeezenext.network.convolutions import Conv2D, GroupedConv2D


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (3, 3)])
def test_the_ways_of_grouped_convolution_agree(groups, kernel):
    images = tf.constant(np.random.default_rng(0).normal(size=(2, 6, 6, 8)).astype(np.float32))
    results = []
    native = ("native",) if tf_import.onednn() else ()  # TensorFlow's own has no gradient on a CPU
    for implementation in ("split", "dense", *native):
        layer = GroupedConv2D(12, kernel, groups, "ones", implementation)
        layer.build(images.shape)
        layer.kernel.assign(np.random.default_rng(1).normal(size=layer.kernel.shape))
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images)
            loss = tf.reduce_sum(outputs**2)
        results.append([outputs, *tape.gradient(loss, [images, layer.kernel.value])])
    for split, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_allclose(other, split, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "filters", "side", "strides", "way"),
    [((21, 21, 3), 8, 7, 2, "_folded"), ((22, 22, 3), 8, 7, 2, "_folded"),
     ((5, 5, 256), 300, 1, 1, "_pointwise"), ((15, 15, 3), 8, 3, 2, ""),
     ((16, 16, 3), 8, 8, 2, ""), ((5, 5, 128), 300, 1, 1, "")],
)  # fmt: skip
def test_convolutions_in_bfloat16_are_keras_s(monkeypatch, shape, filters, side, strides, way):
    monkeypatch.setattr(convolutions, "_has_amx", lambda: True)
    taken = []
    for name in ("_folded", "_pointwise"):
        own = getattr(convolutions, name)
        monkeypatch.setattr(
            convolutions, name, lambda *given, n=name, f=own: taken.append(n) or f(*given)
        )
    rng = np.random.default_rng(0)
    images = tf.cast(rng.normal(size=(4, *shape)), tf.bfloat16)
    results = []
    for kind, policy in ((Conv2D, "mixed_bfloat16"), (keras.layers.Conv2D, "float32")):
        layer = kind(filters, side, strides, use_bias=False, dtype=policy)
        layer.build((4, *shape))
        layer.kernel.assign(np.random.default_rng(1).normal(size=layer.kernel.shape))
        x = tf.cast(images, layer.compute_dtype)

        @tf.function
        def step(layer=layer, x=x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = layer(x)
                loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 2)
            return outputs, *tape.gradient(loss, [x, layer.kernel.value])

        results.append([tf.cast(value, tf.float32) for value in step()])
        assert results[-1][0].shape == layer.compute_output_shape((4, *shape))
    assert set(taken) == ({way} if way and convolutions.sums_bfloat16() else set())
    for mine, keras_own in zip(*results, strict=True):
        scale = np.abs(keras_own).max()
        np.testing.assert_allclose(mine / scale, keras_own / scale, atol=2e-2)


@pytest.mark.parametrize(
    "layer",
    [Conv2D(16, 1, dtype="mixed_bfloat16"), Conv2D(256, 1, dtype="mixed_bfloat16"),
     GroupedConv2D(16, (1, 1), 2, "ones", dtype="mixed_bfloat16")],
)  # fmt: skip
def test_gradients_in_bfloat16_are_whole_sums(layer):
    """TensorFlow's own kernels add 256 + 1 up to 256, and so to the end of the map."""
    images = tf.ones((1, 32, 32, 256 if layer.filters == 256 else 16), tf.bfloat16)
    layer.build(images.shape)

    @tf.function
    def gradients(upstream):  # an argument, for the gradients of constants come from other kernels
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.cast(layer(images) * upstream, tf.float32))
        return tape.gradient(loss, [weight.value for weight in layer.trainable_variables])

    for gradient in gradients(tf.ones(layer.compute_output_shape(images.shape), tf.bfloat16)):
        np.testing.assert_array_equal(gradient, tf.fill(gradient.shape, 1024.0))


def test_grouped_convolution_refuses_what_does_not_divide():
    with pytest.raises(ValueError, match="filters is 5; it must be divisible by groups"):
        GroupedConv2D(5, (1, 1), 2, "ones")
    with pytest.raises(ValueError, match="fused"):
        GroupedConv2D(4, (1, 1), 2, "ones", "fused")
    with pytest.raises(ValueError, match="3 channels do not divide"):
        GroupedConv2D(4, (1, 1), 2, "ones").build((None, 4, 4, 3))
