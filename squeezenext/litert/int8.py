"""Integer numbers for LiteRT and ONNX files: activations and kernels of eight bits.

The rules are those of LiteRT's quantisation specification
(ai.google.dev/edge/litert/models/quantization_spec): kernels symmetric with a scale an output
channel, activations with one scale and zero point, sums in int32; concatenation and pooling keep
their inputs' scale. The ranges of activations come from real images (ranges.py).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from squeezenext.litert import ranges
from squeezenext.litert.flatbuffer import LitertFile
from squeezenext.litert.numbers import DynamicRange, Float32, quantize_kernel
from squeezenext.network.graph import Graph

_LOW, _HIGH = -128, 127


@dataclasses.dataclass(frozen=True)
class Scale:
    """real = scale x (q - zero), q in -128..127."""

    scale: float
    zero: int


class Int8(Float32):
    """Everything between the pixels and the last map is int8, sums are int32.

    Args:
      scales: of every activation, by the name of its node.
      means: of every activation's channels, [channels]. The rounding of a kernel shifts what a
        channel gives on average, since activations after a ReLU are not zero on average; the bias
        takes that back. On the published SqueezeNet 1.0 it halves the error of the logits.
    """

    versions = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3}
    integer = True
    classifier = DynamicRange()

    def __init__(self, scales: Mapping[str, Scale], means: Mapping[str, np.ndarray]):
        self.scales, self.means = scales, means

    def activation(
        self, file: LitertFile, name: str, shape: Sequence[int], like: str | None = None
    ) -> int:
        found = self.scales[like or name]
        return file.tensor(name, (1, *shape), np.int8, None, found.scale, found.zero)

    def weights(
        self,
        file: LitertFile,
        name: str,
        kernel: np.ndarray,
        bias: np.ndarray,
        source: str,
        axis: int = 0,
    ) -> list[int]:
        found = self.integers(np.moveaxis(kernel, axis, 0), bias, source)
        values = np.moveaxis(found.kernel, 0, axis)
        return [
            file.tensor(f"{name}/kernel", kernel.shape, np.int8, values, found.scale, axis=axis),
            file.tensor(f"{name}/bias", bias.shape, np.int32, found.bias, found.bias_scale),
        ]

    def integers(self, kernel: np.ndarray, bias: np.ndarray, source: str) -> "Integers":
        """Returns the integers of a layer that reads `source`; kernel [out, ..., in/groups]."""
        before = self.scales[source].scale
        # A channel of next to no weight must not make its bias overflow the int32 sum.
        values, scale = quantize_kernel(kernel, 0, np.abs(bias) / (before * 2**30))
        lost = kernel - values * scale.reshape(-1, *[1] * (kernel.ndim - 1))
        bias = bias + _mean_output(lost, self.means[source])
        sums = np.round(bias / (before * scale.astype(np.float64))).astype(np.int32)
        return Integers(values, scale, sums, before * scale)


@dataclasses.dataclass(frozen=True, eq=False)
class Integers:
    """A layer's numbers: kernel int8 and bias int32, each with a scale an output channel."""

    kernel: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    bias_scale: np.ndarray


def _mean_output(kernel: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Returns what a kernel [out, ..., in/groups] gives on average for inputs of these means."""
    outputs, inputs = len(kernel), kernel.shape[-1]
    kernel = kernel.reshape(outputs, -1, inputs).sum(1)
    groups = len(means) // inputs
    return (kernel * means.reshape(groups, inputs).repeat(outputs // groups, 0)).sum(1)


def calibrated(
    graph: Graph, weights: Mapping[str, np.ndarray], images: Iterable[np.ndarray]
) -> Int8:
    """Finds how to store all activations, on images.

    Args:
      graph, weights: of the network that reads pixels (`pixels.take_rgb` with mean 0 and std 1).
      images: [size, size, 3] uint8, RGB; some hundred.
    """
    found = ranges.of(graph, weights, images)
    scales = {name: _scale(*pair) for name, pair in found.held.items()}
    return Int8(scales, found.means)


def _scale(low: float, high: float) -> Scale:
    scale = (high - low) / (_HIGH - _LOW)
    zero = int(np.clip(round(_LOW - low / scale), _LOW, _HIGH))
    return Scale(float(np.float32(scale)), zero)
