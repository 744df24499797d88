"""Measures operations of a training step and other ways to compute the same.

    python scripts/benchmarks/kernels.py [--rounds 8]

This table decides what convolutions.py, layers.py and fusing.py in squeezenext/network use. The
ways of a row take turns; the result is the shortest of the rounds, in milliseconds, for a batch of
32. Gradients are included if a way's name says so.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli as command_line

BATCH = 32
Ways = dict[str, Callable[[], object]]


def _images() -> Ways:
    import tensorflow as tf

    from squeezenext import config
    from squeezenext.images import augment, geometry
    from squeezenext.network.fusing import fused

    pixels = tf.cast(tf.random.uniform((BATCH, 227, 227, 3), 0, 256, tf.int32), tf.uint8)
    numbers = tf.random.uniform((BATCH, 1))

    def shown(pixels, numbers):
        mirrored = tf.cast(augment.horizontal_flip(pixels, numbers), tf.float32)
        return geometry.normalize(mirrored, config.CAFFE_SQUASH)

    return {
        "an operation after the other": lambda: shown(pixels, numbers),
        "one pass (fusing.py)": lambda: fused(shown)(pixels, numbers),
    }


def _dropouts() -> Ways:
    import tensorflow as tf

    from squeezenext.network.layers import Dropout

    x = tf.cast(tf.random.normal((BATCH, 14, 14, 512)), tf.bfloat16)
    layer = Dropout(0.5)
    layer.build(x.shape)
    seed = tf.constant((0, 1))  # captured: a literal would be folded, and the mask with it

    def theirs(x):
        return tf.nn.experimental.stateless_dropout(x, 0.5, seed)

    return {
        "stateless_dropout, gradient": lambda: _gradient(theirs, x),
        "16 bits and a product, gradient": lambda: _gradient(lambda x: layer(x, training=True), x),
    }


def _norm(x):
    import tensorflow as tf

    channels = x.shape[-1]
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=tf.ones(channels),
        offset=tf.zeros(channels),
        mean=[],
        variance=[],
        epsilon=1e-5,
    )[0]


def _norms(channels: int) -> Ways:
    import tensorflow as tf

    x = tf.cast(tf.random.normal((BATCH, 55, 55, channels)), tf.bfloat16)

    def cast(x):
        return tf.cast(_norm(tf.cast(x, tf.float32)), tf.bfloat16)

    return {
        "bfloat16, gradient": lambda: _gradient(_norm, x),
        "through float32, gradient": lambda: _gradient(cast, x),
    }


def _norm_views(channels: int) -> Ways:
    import tensorflow as tf

    x = tf.random.normal((BATCH, 55, 55, channels))

    def viewed(x):
        return tf.reshape(_norm(tf.reshape(x, (-1, 8, 1, channels))), x.shape)

    return {
        "whole images, gradient": lambda: _gradient(_norm, x),
        "images of 8 pixels, gradient": lambda: _gradient(viewed, x),
    }


def _pointwise(dtype: str, size: int, channels: int, filters: int) -> Ways:
    import tensorflow as tf

    x = tf.cast(tf.random.normal((BATCH, size, size, channels)), dtype)
    kernel = tf.cast(tf.random.normal((1, 1, channels, filters)), dtype)

    def matmul(x, kernel):
        flat = tf.matmul(tf.reshape(x, (-1, channels)), tf.reshape(kernel, (channels, filters)))
        return tf.reshape(flat, (BATCH, size, size, filters))

    return {
        "conv2d, gradients": lambda: _gradient(
            lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), x, kernel
        ),
        "matmul, gradients": lambda: _gradient(matmul, x, kernel),
    }


def _convolutions(size: int, channels: int, filters: int, side: int, strides: int) -> Ways:
    """Keras' layer and ours in bfloat16; the gradient of a stem's input nobody asks for."""
    import keras
    import tensorflow as tf

    from squeezenext.network.convolutions import Conv2D

    x = tf.cast(tf.random.normal((BATCH, size, size, channels)), tf.bfloat16)

    def way(kind: type) -> Callable[[], object]:
        layer = kind(filters, side, strides, use_bias=False, dtype="mixed_bfloat16")
        layer.build(x.shape)
        kernel = tf.cast(layer.kernel.value, tf.bfloat16)
        if channels == 3:
            return lambda: _gradient(lambda k: layer.convolution_op(x, k), kernel)
        return lambda: _gradient(layer.convolution_op, x, kernel)

    return {"Keras' layer, gradients": way(keras.layers.Conv2D), "ours, gradients": way(Conv2D)}


def _grouped(size: int, kernel: tuple[int, int], channels: int, filters: int) -> Ways:
    import tensorflow as tf

    from squeezenext.network.convolutions import GroupedConv2D

    x = tf.random.normal((BATCH, size, size, channels))

    def way(implementation: str) -> Callable[[], object]:
        layer = GroupedConv2D(filters, kernel, 2, "glorot_normal", implementation)
        layer.build(x.shape)

        def both():
            weights = tf.convert_to_tensor(layer.kernel)
            return _gradient(lambda x, k: layer.convolved(x, k), x, weights)

        return both

    return {f"{name}, gradients": way(name) for name in ("split", "dense")}


def _concats() -> Ways:
    import tensorflow as tf

    halves = [tf.cast(tf.random.normal((BATCH, 56, 56, 64)), tf.bfloat16) for _ in range(2)]

    @tf.custom_gradient
    def joined(x, y):
        return tf.concat((x, y), -1), lambda upstream: tf.split(upstream, 2, -1)

    return {
        "concat, gradients (slices)": lambda: _gradient(
            lambda x, y: tf.concat((x, y), -1), *halves
        ),
        "concat, gradients (split)": lambda: _gradient(joined, *halves),
    }


def _gradient(function, *inputs):
    """The gradients of half the sum of a function's squares."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
    return tape.gradient(outputs, inputs, outputs)  # nothing that is known beforehand


def rows() -> dict[str, Ways]:
    """Returns what is compared, by what it computes."""
    return {
        "mirror half of the images, BGR, subtract the mean": _images(),
        "dropout of 14 x 14 x 512, bfloat16": _dropouts(),
        "batch norm of 55 x 55 x 8, bfloat16": _norms(8),
        "batch norm of 55 x 55 x 16, bfloat16": _norms(16),
        "batch norm of 55 x 55 x 24, float32": _norm_views(24),
        "batch norm of 55 x 55 x 32, float32": _norm_views(32),
        "1x1, 55 x 55, 64 to 32, float32": _pointwise("float32", 55, 64, 32),
        "1x1, 55 x 55, 64 to 32, bfloat16": _pointwise("bfloat16", 55, 64, 32),
        "1x1, 13 x 13, 512 to 1000, bfloat16": _convolutions(13, 512, 1000, 1, 1),
        "1x1, 7 x 7, 512 to 256, bfloat16": _convolutions(7, 512, 256, 1, 1),
        "3x1 in 2 groups, 55 x 55, 16 to 16, float32": _grouped(55, (3, 1), 16, 16),
        "1x1 in 2 groups, 55 x 55, 64 to 32, float32": _grouped(55, (1, 1), 64, 32),
        "3x1 in 2 groups, 13 x 13, 64 to 64, float32": _grouped(13, (3, 1), 64, 64),
        "stem 7x7 to 64 channels, bfloat16": _convolutions(227, 3, 64, 7, 2),
        "stem 7x7 to 96 channels, bfloat16": _convolutions(227, 3, 96, 7, 2),
        "stem 3x3 to 64 channels, bfloat16": _convolutions(227, 3, 64, 3, 2),
        "concat of two 56 x 56 x 64, bfloat16": _concats(),
    }


def measure(ways: Ways, rounds: int) -> dict[str, float]:
    """Returns each way's shortest time in milliseconds; the first two calls do not count."""
    import tensorflow as tf

    compiled = {name: tf.function(way) for name, way in ways.items()}
    best = dict.fromkeys(ways, float("inf"))
    for number in range(rounds + 2):
        for name, function in compiled.items():
            started = time.perf_counter()
            for tensor in tf.nest.flatten(function()):
                tf.reshape(tensor, [-1])[0].numpy()  # waits for it
            if number > 1:
                best[name] = min(best[name], 1e3 * (time.perf_counter() - started))
    return best


def main(argv=None) -> int:
    values = flags.FlagValues()
    flags.DEFINE_integer("rounds", 8, "Number of turns for each way.", 1, flag_values=values)

    def command(values, _):
        print("| what | way | ms |\n|---|---|---|")
        for what, ways in rows().items():
            for way, best in measure(ways, values["rounds"].value).items():
                print(f"| {what} | `{way}` | {best:.1f} |", flush=True)

    return command_line.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
