"""Convolutions, each computed as is fastest on the device at hand."""

import functools

import keras
import tensorflow as tf

from squeezenext import tf_import
from squeezenext.network.fusing import on_cpu


def sums_bfloat16() -> bool:
    """Returns whether this CPU's convolutions add their gradients in bfloat16 up to the right sum.

    oneDNN's do, in float32, where the CPU has AVX-512. TensorFlow's own (2.21), which compute where
    oneDNN is off or the CPU has AVX2 alone, add in bfloat16, where 256 + 1 is 256. Of a 1x1
    convolution of 32 x 113 x 113, on one thread, the kernel's gradient was 4 % off for terms around
    0 and 50 % for terms of one sign, the bias's 64 and 99 %.
    """
    return bfloat16_sum() == 1024


@functools.cache
def bfloat16_sum() -> int:
    """Returns the sum of 1024 ones: 512 of TensorFlow's own kernels, 0 where there is no kernel.

    TensorFlow hands bfloat16 to oneDNN on every CPU with AVX-512, which has no kernels for it under
    ONEDNN_MAX_CPU_ISA=AVX2: "could not create a primitive descriptor".
    """
    ones = functools.partial(tf.ones, dtype=tf.bfloat16)
    try:
        with tf.init_scope(), tf.device("CPU:0"):
            total = tf.raw_ops.Conv2DBackpropFilter(
                input=ones((1, 32, 32, 16)),
                filter_sizes=(1, 1, 16, 16),
                out_backprop=ones((1, 32, 32, 16)),
                strides=[1, 1, 1, 1],
                padding="VALID",
            )
            return int(tf.reduce_min(total))
    except tf.errors.OpError:
        return 0


@functools.cache
def _has_amx() -> bool:
    return "amx_bf16" in tf_import.cpu_features()


def _wants_float32(inputs) -> bool:
    return inputs.dtype == tf.bfloat16 and on_cpu() and not sums_bfloat16()


class Conv2D(keras.layers.Conv2D):
    """Keras' layer, of which two kinds are faster here in bfloat16 on a CPU.

    A 7x7 stem of 96 filters with its kernel's gradient takes 61 ms instead of 79, of 64 filters 40
    instead of 44, SqueezeNet's classifier (1x1 from 512 to 1000 channels) with its gradients 20
    instead of 30; a 3x3 stem so 29 instead of 22 (scripts/benchmarks/kernels.py). That is with AMX;
    without it the 7x7 stems take 169 instead of 144 and 113 instead of 91 on one core of an EPYC.

    Where `sums_bfloat16` says no, it computes in float32 between bfloat16 tensors. That is faster,
    too: SqueezeNet 1.1 trains at 12.4 images/s instead of 1.1 (AVX2, docs/benchmarks.md).
    """

    def call(self, inputs):
        if _wants_float32(inputs):
            return tf.cast(super().call(tf.cast(inputs, tf.float32)), inputs.dtype)
        if self.use_bias and self._is_wide(inputs):
            # Not Keras' BiasAdd, whose gradient adds in bfloat16 unless oneDNN joins it to that of
            # the kernel, here a matmul: SqueezeNet's classifier's was 76 % off for equal signs.
            outputs = self.convolution_op(inputs, self.kernel)
            return self.activation(tf.add(outputs, tf.cast(self.bias, outputs.dtype)))
        return super().call(inputs)

    def convolution_op(self, inputs, kernel):
        kernel = tf.cast(kernel, inputs.dtype)
        if self._is_wide(inputs):
            return _pointwise(inputs, kernel)
        return (_folded if self._is_stem(inputs) else super().convolution_op)(inputs, kernel)

    def _is_wide(self, inputs) -> bool:
        plain = self.kernel_size == (1, 1) == self.strides and self.groups == 1
        wide = min(inputs.shape[-1], self.filters) >= 256
        return inputs.dtype == tf.bfloat16 and plain and wide and on_cpu()

    def _is_stem(self, inputs) -> bool:
        rows, columns = self.kernel_size
        large = rows == columns and rows % 2 == 1 and rows >= 7
        ours = self.strides == (2, 2) and self.padding == "valid" and inputs.shape[-1] == 3
        return inputs.dtype == tf.bfloat16 and large and ours and on_cpu() and _has_amx()


def _folded(images, kernel):
    """A valid convolution of stride 2 and odd kernel, as one of stride 1 over 2 x 2 pixels."""
    rows, columns = (side % 2 for side in images.shape[1:3])
    images = tf.pad(images, ((0, 0), (0, rows), (0, columns), (0, 0)))
    half, channels, filters = (kernel.shape[0] + 1) // 2, *kernel.shape[2:]
    kernel = tf.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    kernel = tf.reshape(kernel, (half, 2, half, 2, channels, filters))
    kernel = tf.reshape(tf.transpose(kernel, (0, 2, 1, 3, 4, 5)), (half, half, -1, filters))
    return tf.nn.conv2d(tf.nn.space_to_depth(images, 2), kernel, 1, "VALID")


@tf.custom_gradient
def _pointwise(inputs, kernel):
    """A 1x1 convolution whose kernel's gradient is a product of two matrices."""

    def gradients(upstream):
        to_inputs = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(inputs),
            filter=kernel,
            out_backprop=upstream,
            strides=[1, 1, 1, 1],
            padding="VALID",
        )
        channels, filters = kernel.shape[2:]
        x, y = tf.reshape(inputs, (-1, channels)), tf.reshape(upstream, (-1, filters))
        return to_inputs, tf.reshape(tf.matmul(x, y, transpose_a=True), kernel.shape)

    return tf.nn.conv2d(inputs, kernel, 1, "VALID"), gradients


class GroupedConv2D(keras.layers.Layer):
    """A grouped convolution without bias, stride 1: `groups` convolutions side by side.

    Three ways to compute it share the weights: one convolution a group (`split`), one ordinary
    convolution with zeros between the groups (`dense`), TensorFlow's grouped kernel (`native`).
    `auto` takes native on a GPU. On a CPU, where Keras compiles its grouped layer with XLA for want
    of a native gradient, it takes dense for two groups, whose channels are few enough for the
    zeros to cost less than taking the image apart does, and split for more
    (scripts/benchmarks/kernels.py).

    Input: [batch, height, width, channels]; output: the same with `filters` channels. Kernel:
    [kernel_height, kernel_width, channels / groups, filters], group by group along the last axis.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: tuple[int, int],
        groups: int,
        kernel_initializer,
        implementation: str = "auto",
        **options,
    ):
        super().__init__(**options)
        if filters % groups:
            raise ValueError(f"filters is {filters}; it must be divisible by groups ({groups}).")
        if implementation not in ("auto", "split", "dense", "native"):
            raise ValueError(
                f"implementation is {implementation!r}; not auto, split, dense or native."
            )
        self.filters = filters
        self.kernel_size = kernel_size
        self.groups = groups
        self.implementation = implementation
        self.kernel_initializer = kernel_initializer

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.groups:
            raise ValueError(f"{channels} channels do not divide into {self.groups} groups.")
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, channels // self.groups, self.filters),
            initializer=self.kernel_initializer,
        )

    def call(self, inputs):
        return self.convolved(inputs, tf.convert_to_tensor(self.kernel))

    def convolved(self, inputs, kernel):
        """Returns `inputs` convolved with another kernel of the layer's shape."""
        if _wants_float32(inputs):
            wide = self.convolved(tf.cast(inputs, tf.float32), tf.cast(kernel, tf.float32))
            return tf.cast(wide, inputs.dtype)
        way = self._way()
        if way == "split":
            parts = zip(
                tf.split(inputs, self.groups, axis=-1),
                tf.split(kernel, self.groups, axis=-1),
                strict=True,
            )
            return tf.concat([_same(x, k) for x, k in parts], -1)
        return _same(inputs, _block_diagonal(kernel, self.groups) if way == "dense" else kernel)

    def _way(self) -> str:
        if self.implementation != "auto":
            return self.implementation
        if not on_cpu():
            return "native"
        return "dense" if self.groups == 2 else "split"

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)


def _same(inputs, kernel):
    return tf.nn.conv2d(inputs, kernel, strides=1, padding="SAME")


def _block_diagonal(kernel, groups: int):
    """[height, width, channels / groups, filters] -> [height, width, channels, filters]."""
    channels = kernel.shape[2]
    blocks = [
        tf.pad(block, ((0, 0), (0, 0), (i * channels, (groups - 1 - i) * channels), (0, 0)))
        for i, block in enumerate(tf.split(kernel, groups, axis=-1))
    ]
    return tf.concat(blocks, -1)
