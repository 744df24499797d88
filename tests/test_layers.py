"""Tests for `squeezenext/network/layers.py`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from squeezenext import tf_import
from squeezenext.network import layers
from squeezenext.network.layers import BatchNorm, Dropout, max_pool, training_pass
from squeezenext.train import devices


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float16", 2e-2),
                                                  ("bfloat16", 1e-1)])  # fmt: skip
# In bfloat16 the kernel runs for 16 alone; with oneDNN, 24 are seen as images of 8 pixels.
@pytest.mark.parametrize("channels", [6, 16, 24])
def test_batch_norm_is_keras_s_in_outputs_and_gradients(dtype, tolerance, channels, request):
    if dtype == "bfloat16":
        request.getfixturevalue("bfloat16")
    pixels = np.random.default_rng(0).normal(2, 3, (4, 6, 6, channels)).astype(np.float32)
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


@pytest.mark.parametrize(
    ("shape", "avx512", "small"),
    [((4, 6, 6, 24), True, (18, 8, 1, 24)), ((4, 6, 6, 16), True, None),
     ((4, 6, 6, 16), False, (18, 8, 1, 16)), ((4, 6, 6, 8), False, None),
     ((4, 5, 5, 16), False, None), ((None, 6, 6, 16), False, None)],
)  # fmt: skip
def test_batch_norm_sees_small_images_where_the_cpu_wants_them(monkeypatch, shape, avx512, small):
    if not tf_import.onednn():
        pytest.skip("The kernel in question is oneDNN's.")
    monkeypatch.setattr(layers, "sums_bfloat16", lambda: avx512)
    layer = BatchNorm()
    layer.build(shape)
    call = tf.function(lambda x: layer(x, training=True))
    graph = call.get_concrete_function(tf.TensorSpec(shape)).graph
    (kernel,) = (op for op in graph.get_operations() if op.type == "FusedBatchNormV3")
    assert kernel.inputs[0].shape.as_list() == list(small or shape)
    assert graph.outputs[0].shape.as_list() == list(shape)


def test_synchronised_batch_norm_is_that_of_all_images_on_one_device(logical_devices):
    """Outputs, statistics and gradients, which the synchronised layer computes by itself."""
    draw = np.random.default_rng(0).normal
    pixels, upstream = draw(3, 2, (2, 4, 5, 5, 6)), draw(size=(2, 4, 5, 5, 6))

    def computed(strategy, synchronized, pixels, upstream):
        with strategy.scope():
            layer = BatchNorm(synchronized=synchronized)
            layer.build(pixels.shape[1:])
            layer.gamma.assign(range(-1, 5))

        def run():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            images, slope = (tf.gather(tf.constant(x, "float32"), replica) for x in given)
            gamma, beta = (tf.convert_to_tensor(v) for v in (layer.gamma, layer.beta))
            with tf.GradientTape() as tape:
                tape.watch([images, gamma, beta])
                values = keras.StatelessScope([(layer.gamma, gamma), (layer.beta, beta)])
                with values, training_pass(replica) as present:
                    outputs = layer(images, training=True)
            gradients = tape.gradient(outputs, [images, gamma, beta], slope)
            return [x[tf.newaxis] for x in (outputs, *present.statistics[id(layer)], *gradients)]

        given = pixels, upstream
        return [strategy.gather(x, 0).numpy() for x in tf.function(strategy.run)(run)]

    whole = (x.reshape(1, 8, 5, 5, 6) for x in (pixels, upstream))
    one = computed(tf.distribute.get_strategy(), False, *whole)
    two = computed(devices.strategy(2), True, pixels, upstream)
    for place, (mine, theirs) in enumerate(zip(two, one, strict=True)):
        joined = mine.sum(0) if place > 3 else mine[0] if place in (1, 2) else mine  # scale, offset
        np.testing.assert_allclose(joined.reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-5)


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
