"""Integer numbers for LiteRT and ONNX files: activations and kernels of eight bits.

The rules are those of LiteRT's quantisation specification
(ai.google.dev/edge/litert/models/quantization_spec): kernels symmetric with a scale an output
channel, activations with one scale and zero point, sums in int32; concatenation and pooling keep
their inputs' scale. The ranges of activations come from real images (ranges.py).
"""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from squeezenext.litert import writer
from squeezenext.litert.container import LitertFile
from squeezenext.litert.writer import DynamicRange, Float32, quantize_kernel
from squeezenext.network.graph import Graph

# The ranges of a network's activations on real images, as eight bits can hold them best.


Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Ranges:
    """Of every activation by its node's name: the range to be held, and its channels' means."""

    held: dict[str, Range]
    means: dict[str, np.ndarray]


def measured_ranges(
    graph: Graph, weights: Mapping[str, np.ndarray], images: Iterable[np.ndarray]
) -> Ranges:
    """Measures a network that reads pixels, on images of [size, size, 3] uint8, RGB."""
    statistics: dict[str, _Statistics] = {}
    for activations in _activations(graph, weights, images):
        for name, values in activations.items():
            statistics.setdefault(name, _Statistics(values.shape[-1])).add(values)
    ranges = {name: known.range() for name, known in statistics.items()}
    ranges[graph.nodes[0].name] = (0.0, 255.0)
    _bound_sums(graph, ranges)
    _share(graph, ranges)
    return Ranges(ranges, {name: known.mean() for name, known in statistics.items()})


def _activations(graph: Graph, weights, images: Iterable[np.ndarray]):
    """Yields, for each image, the activations of all nodes by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it takes memory: some ten megabytes here
        interpreter = Interpreter(
            model_content=writer.write(graph, weights),
            experimental_preserve_all_tensors=True,
        )
    interpreter.allocate_tensors()
    first = interpreter.get_input_details()[0]["index"]
    constants = {f"{node.name}/{part}" for node in graph.weighted for part in ("kernel", "bias")}
    watched = {
        tensor["name"]: tensor["index"]
        for tensor in interpreter.get_tensor_details()
        if tensor["dtype"] == np.float32 and tensor["name"] not in constants
    }
    for image in images:
        interpreter.set_tensor(first, image[np.newaxis].astype(np.float32))
        interpreter.invoke()
        yield {name: interpreter.get_tensor(index) for name, index in watched.items()}


class _Statistics:
    """Of one activation over all images: its extremes, its channels' means and a sample."""

    def __init__(self, channels: int):
        self._low = self._high = 0.0
        self._sums, self._count = np.zeros(channels), 0
        self._sample: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        flat = values.reshape(-1)
        self._low = min(self._low, float(flat.min()))
        self._high = max(self._high, float(flat.max()))
        places = values.reshape(-1, values.shape[-1])
        self._sums += places.mean(0)
        self._count += 1
        self._sample.append(flat[:: max(1, len(flat) // 997)].copy())

    def mean(self) -> np.ndarray:
        return self._sums / self._count

    def range(self) -> Range:
        """Returns the part of the extremes with the least squared error of 256 steps over it."""
        if self._high - self._low < 1e-9:
            return 0.0, 1.0  # nothing ever passes; XNNPACK refuses scales that are next to 0
        sample = np.concatenate(self._sample)
        shares = np.linspace(0.4, 1.0, 25)
        errors = [self._error(sample, share) for share in shares]
        best = shares[int(np.argmin(errors))]
        return self._low * best, self._high * best

    def _error(self, sample: np.ndarray, share: float) -> float:
        scale = (self._high - self._low) * share / 255
        kept = sample.clip(self._low * share, self._high * share)
        return float(np.square(np.round(kept / scale) * scale - sample).mean())


def _bound_sums(graph: Graph, ranges: dict[str, Range]) -> None:
    """Keeps a sum's range and its terms' within XNNPACK's 2^-10 to 2^8 of each other."""
    for node in graph.nodes:
        if node.op == "add":
            widths = [high - low for low, high in (ranges[name] for name in node.inputs)]
            ranges[node.name] = _widened(ranges[node.name], max(widths) / 128)
            low, high = ranges[node.name]
            for name in node.inputs:
                ranges[name] = _widened(ranges[name], (high - low) / 512)


def _widened(pair: Range, width: float) -> Range:
    low, high = pair
    factor = max(1.0, width / (high - low))
    return low * factor, high * factor


def _share(graph: Graph, ranges: dict[str, Range]) -> None:
    """Gives what only moves numbers and what it reads one range, the widest of them."""
    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            if node.op in ("concat", "max_pool", "pad"):
                names = (node.name, *node.inputs)
                lows, highs = zip(*(ranges[name] for name in names), strict=True)
                widest = (min(lows), max(highs))
                for name in names:
                    changed |= ranges[name] != widest
                    ranges[name] = widest


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
    found = measured_ranges(graph, weights, images)
    scales = {name: _scale(*pair) for name, pair in found.held.items()}
    return Int8(scales, found.means)


def _scale(low: float, high: float) -> Scale:
    scale = (high - low) / (_HIGH - _LOW)
    zero = int(np.clip(round(_LOW - low / scale), _LOW, _HIGH))
    return Scale(float(np.float32(scale)), zero)
