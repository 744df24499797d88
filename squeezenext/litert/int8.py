"""Integer numbers for LiteRT files: full int8, and int8 weights alone (dynamic range).

The rules are those of LiteRT's quantisation specification
(ai.google.dev/edge/litert/models/quantization_spec): kernels symmetric with a scale an output
channel, activations with one scale and zero point, sums in int32; concatenation and pooling keep
their inputs' scale. The ranges of activations come from real images (`calibrated`).
"""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from squeezenext.graph import Graph
from squeezenext.litert import writer
from squeezenext.litert.flatbuffer import LitertFile
from squeezenext.litert.writer import Float32

_LOW, _HIGH = -128, 127


@dataclasses.dataclass(frozen=True)
class Scale:
    """real = scale x (q - zero), q in -128..127."""

    scale: float
    zero: int


class DynamicRange(Float32):
    """Kernels are int8, a scale an output channel; activations and biases float32."""

    versions = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 12}

    def _kernel(self, file: LitertFile, name: str, kernel: np.ndarray) -> int:
        values, scale = quantize_kernel(kernel, _channel_axis(kernel))
        axis = _channel_axis(kernel)
        return file.tensor(name, kernel.shape, np.int8, values, scale, axis=axis)


class Int8(Float32):
    """Everything between the pixels and the last map is int8, sums are int32.

    Args:
      scales: of every activation, by the name of its node.
      means: of every activation's channels, [channels]. The rounding of a kernel shifts what a
        channel gives on average, since activations after a ReLU are not zero on average; the bias
        takes that back. On the published SqueezeNet 1.0 it halves the error of the logits.
    """

    versions = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 12}
    integer = True

    def __init__(self, scales: Mapping[str, Scale], means: Mapping[str, np.ndarray]):
        self.scales, self.means = scales, means

    def activation(
        self, file: LitertFile, name: str, shape: Sequence[int], like: str | None = None
    ) -> int:
        found = self.scales[like or name]
        return file.tensor(name, (1, *shape), np.int8, None, found.scale, found.zero)

    def weights(
        self, file: LitertFile, name: str, kernel: np.ndarray, bias: np.ndarray, source: str
    ) -> list[int]:
        before = self.scales[source].scale
        axis = _channel_axis(kernel)
        # A channel of next to no weight must not make its bias overflow the int32 sum.
        values, scale = quantize_kernel(kernel, axis, np.abs(bias) / (before * 2**30))
        lost = np.moveaxis(kernel, axis, -1) - np.moveaxis(values, axis, -1) * scale
        bias = bias + _mean_output(np.moveaxis(lost, -1, 0), self.means[source])
        sums = np.round(bias / (before * scale.astype(np.float64))).astype(np.int32)
        return [
            file.tensor(f"{name}/kernel", kernel.shape, np.int8, values, scale, axis=axis),
            file.tensor(f"{name}/bias", bias.shape, np.int32, sums, before * scale),
        ]


def _mean_output(kernel: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Returns what a kernel [out, ..., in/groups] gives on average for inputs of these means."""
    outputs, inputs = len(kernel), kernel.shape[-1]
    kernel = kernel.reshape(outputs, -1, inputs).sum(1)
    groups = len(means) // inputs
    return (kernel * means.reshape(groups, inputs).repeat(outputs // groups, 0)).sum(1)


def _channel_axis(kernel: np.ndarray) -> int:
    """Output channels are first, but last in a depthwise kernel [1, height, width, channels]."""
    return 3 if kernel.ndim == 4 and kernel.shape[0] == 1 else 0


def quantize_kernel(
    kernel: np.ndarray, axis: int, least: np.ndarray | float = 1e-12
) -> tuple[np.ndarray, np.ndarray]:
    """Returns int8 values in -127..127 and the float32 scale of each entry of `axis`."""
    others = tuple(i for i in range(kernel.ndim) if i != axis)
    scale = np.maximum(np.abs(kernel).max(others) / 127, np.maximum(least, 1e-12))
    scale = scale.astype(np.float32)
    shaped = np.expand_dims(scale, others)
    return np.round(kernel / shaped).clip(-127, 127).astype(np.int8), scale


def calibrated(
    graph: Graph, weights: Mapping[str, np.ndarray], images: Iterable[np.ndarray]
) -> Int8:
    """Finds how to store all activations, on images.

    Args:
      graph, weights: of the network that reads pixels (`pixels.take_rgb` with mean 0 and std 1).
      images: [size, size, 3] uint8, RGB; some hundred.
    """
    statistics: dict[str, _Statistics] = {}
    for activations in _activations(graph, weights, images):
        for name, values in activations.items():
            statistics.setdefault(name, _Statistics(values.shape[-1])).add(values)
    ranges = {name: known.range() for name, known in statistics.items()}
    ranges[graph.nodes[0].name] = (0.0, 255.0)
    _bound_sums(graph, ranges)
    _share(graph, ranges)
    scales = {name: _scale(*pair) for name, pair in ranges.items()}
    return Int8(scales, {name: known.mean() for name, known in statistics.items()})


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

    def range(self) -> tuple[float, float]:
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


def _bound_sums(graph: Graph, ranges: dict[str, tuple[float, float]]) -> None:
    """Keeps a sum's range and its terms' within XNNPACK's 2^-10 to 2^8 of each other."""
    for node in graph.nodes:
        if node.op == "add":
            widths = [high - low for low, high in (ranges[name] for name in node.inputs)]
            ranges[node.name] = _widened(ranges[node.name], max(widths) / 128)
            low, high = ranges[node.name]
            for name in node.inputs:
                ranges[name] = _widened(ranges[name], (high - low) / 512)


def _widened(pair: tuple[float, float], width: float) -> tuple[float, float]:
    low, high = pair
    factor = max(1.0, width / (high - low))
    return low * factor, high * factor


def _share(graph: Graph, ranges: dict[str, tuple[float, float]]) -> None:
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


def _scale(low: float, high: float) -> Scale:
    scale = (high - low) / (_HIGH - _LOW)
    zero = int(np.clip(round(_LOW - low / scale), _LOW, _HIGH))
    return Scale(float(np.float32(scale)), zero)
