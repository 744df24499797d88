"""Tests for `squeezenext/layers.py`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from squeezenext.layers import BatchNorm, Conv2D, Dropout, GroupedConv2D, max_pool


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float16", 2e-2),
                                                  ("bfloat16", 1e-1)])  # fmt: skip
@pytest.mark.parametrize("channels", [6, 16])  # in bfloat16 the kernel runs for the latter alone
def test_batch_norm_is_keras_s_in_outputs_and_gradients(dtype, tolerance, channels):
    pixels = np.random.default_rng(0).normal(2, 3, (4, 5, 5, channels)).astype(np.float32)
    ours = BatchNorm(dtype=f"mixed_{dtype}" if dtype != "float32" else dtype)
    theirs = keras.layers.BatchNormalization(epsilon=1e-5)
    results = []
    for layer, images in ((ours, tf.cast(pixels, dtype)), (theirs, tf.constant(pixels))):
        layer.build(pixels.shape)
        with tf.GradientTape() as tape:
            outputs = layer(images, training=True)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 3)
        weights = [layer.gamma.value, layer.beta.value]
        results.append([tf.cast(outputs, tf.float32), *tape.gradient(loss, weights)])
    assert ours.gamma.dtype == ours.moving_mean.dtype == "float32"
    for mine, keras_own in zip(*results, strict=True):
        scale = np.abs(keras_own).max()
        np.testing.assert_allclose(mine / scale, keras_own / scale, atol=tolerance)


def test_moving_statistics_are_caffe_s():
    """Caffe: sums decay by 0.999 and grow by the batch's; so does their weight; read: quotient."""
    layer = BatchNorm()
    rng = np.random.default_rng(1)
    mean = variance = scale = 0.0
    for _ in range(5):
        images = rng.normal(rng.uniform(-3, 3), 2, (8, 4, 4, 2)).astype(np.float32)
        layer(images, training=True)
        mean = mean * 0.999 + images.mean((0, 1, 2))
        variance = variance * 0.999 + images.var((0, 1, 2), ddof=1)
        scale = scale * 0.999 + 1
        np.testing.assert_allclose(layer.moving_mean, mean / scale, rtol=1e-4)
        np.testing.assert_allclose(layer.moving_variance, variance / scale, rtol=1e-4)
    # A short run evaluates right: with an initial 0 and 1, five batches would count half a percent.
    evaluated = layer(images).numpy()
    expected = (images - mean / scale) / np.sqrt(variance / scale + 1e-5)
    np.testing.assert_allclose(evaluated, expected, atol=1e-4)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (3, 3)])
def test_the_ways_of_grouped_convolution_agree(groups, kernel):
    images = tf.constant(np.random.default_rng(0).normal(size=(2, 6, 6, 8)).astype(np.float32))
    results = []
    for implementation in ("native", "split", "dense"):
        layer = GroupedConv2D(12, kernel, groups, "ones", implementation)
        layer.build(images.shape)
        layer.kernel.assign(np.random.default_rng(1).normal(size=layer.kernel.shape))
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images)
            loss = tf.reduce_sum(outputs**2)
        results.append([outputs, *tape.gradient(loss, [images, layer.kernel.value])])
    for native, *others in zip(*results, strict=True):
        for other in others:
            np.testing.assert_allclose(other, native, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "filters", "side", "strides"),
    [((15, 15, 3), 8, 3, 2), ((16, 16, 3), 8, 3, 2), ((21, 21, 3), 8, 7, 2),
     ((5, 5, 256), 300, 1, 1)],
)  # fmt: skip
def test_convolutions_in_bfloat16_are_keras_s(shape, filters, side, strides):
    rng = np.random.default_rng(0)
    images = tf.cast(rng.normal(size=(4, *shape)), tf.bfloat16)
    results = []
    for kind, policy in ((Conv2D, "mixed_bfloat16"), (keras.layers.Conv2D, "float32")):
        layer = kind(filters, side, strides, use_bias=False, dtype=policy)
        layer.build((4, *shape))
        layer.kernel.assign(np.random.default_rng(1).normal(size=layer.kernel.shape))
        x = tf.cast(images, layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 2)
        assert outputs.shape == layer.compute_output_shape((4, *shape))
        gradients = tape.gradient(loss, [x, layer.kernel.value])
        results.append([tf.cast(value, tf.float32) for value in (outputs, *gradients)])
    for mine, keras_own in zip(*results, strict=True):
        scale = np.abs(keras_own).max()
        np.testing.assert_allclose(mine / scale, keras_own / scale, atol=2e-2)


def test_grouped_convolution_refuses_what_does_not_divide():
    with pytest.raises(ValueError, match="filters is 5; it must be divisible by groups"):
        GroupedConv2D(5, (1, 1), 2, "ones")
    with pytest.raises(ValueError, match="fused"):
        GroupedConv2D(4, (1, 1), 2, "ones", "fused")
    with pytest.raises(ValueError, match="3 channels do not divide"):
        GroupedConv2D(4, (1, 1), 2, "ones").build((None, 4, 4, 3))


def test_dropout_is_a_function_of_its_count():
    layer = Dropout(0.5)
    ones = np.ones((4, 8, 8, 16), np.float32)
    first, second = layer(ones, training=True).numpy(), layer(ones, training=True).numpy()
    assert not np.array_equal(first, second)
    assert set(np.unique(first)) == {0.0, 2.0} and abs(first.mean() - 1) < 0.05
    layer.calls.assign(0)
    np.testing.assert_array_equal(layer(ones, training=True), first)
    np.testing.assert_array_equal(layer(ones), ones)
    assert not np.array_equal(Dropout(0.5, seed=1)(ones, training=True), first)


@pytest.mark.parametrize("side", [5, 6, 7, 8, 27, 28])
def test_max_pool_is_caffe_s_ceil(side):
    image = np.random.default_rng(side).normal(size=(side, side)).astype(np.float32)
    inputs = keras.Input((side, side, 1))
    pooled = keras.Model(inputs, max_pool(inputs, "pool"))(image[None, ..., None])[0, ..., 0]
    count = -(-(side - 3) // 2) + 1  # pooling_layer.cpp: ceil((side - kernel) / stride) + 1
    expected = [
        [image[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max() for j in range(count)]
        for i in range(count)
    ]
    np.testing.assert_array_equal(pooled, expected)
