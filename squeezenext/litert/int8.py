"""Quantizes activations and kernels to eight bits, for LiteRT and ONNX files.

The rules are those of LiteRT's quantization specification
(ai.google.dev/edge/litert/models/quantization_spec): kernels are symmetric with a scale per output
channel, activations have one scale and zero point, sums are int32; concatenation and pooling keep
the scale of their inputs. The ranges of activations are measured on real images.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from squeezenext.errors import InputError
from squeezenext.litert import writer
from squeezenext.litert.writer import DynamicRange, Float32, quantize_kernel
from squeezenext.network.graph import Graph

if TYPE_CHECKING:
    from squeezenext.litert.container import LitertFile

_LOW, _HIGH = -128, 127
Range = tuple[float, float]  # of an activation, as eight bits represent it
Stored = tuple[np.ndarray, np.ndarray]  # integers, and the scale of each output channel


def calibrated(
    graph: Graph,
    weights: Mapping[str, np.ndarray],
    images: Sequence[np.ndarray],
    whole: bool = False,
) -> "Int8":
    """Finds the scales of all activations on images.

    Args:
      graph: a network that takes pixels (`rgb.take_rgb` with mean 0 and std 1).
      weights: its weights.
      images: [size, size, 3] uint8, RGB; some hundred.
      whole: returns `WholeInt8`.

    Raises:
      InputError: there are no images.
    """
    ranges, means = measured_ranges(graph, weights, images)
    ranges[graph.nodes[0].name] = (0.0, 255.0)
    _bound_sums(graph, ranges)
    unify(graph, ranges)
    scales = {name: Scale.of(*pair) for name, pair in ranges.items()}
    return (WholeInt8 if whole else Int8)(scales, means)


def measured_ranges(
    graph: Graph, weights: Mapping[str, np.ndarray], images: Sequence[np.ndarray]
) -> tuple[dict[str, Range], dict[str, np.ndarray]]:
    """Returns the range of every activation and the means of its channels, by node name.

    Args:
      graph: a network.
      weights: its weights.
      images: its inputs, [size, size, 3] of any type; some hundred.

    Raises:
      InputError: there are no images.
    """
    if not len(images):
        raise InputError("--precision int8 needs real images for its ranges: give --data_dir.")
    statistics = _measured(graph, weights, images)
    ranges = {name: known.range() for name, known in statistics.items()}
    return ranges, {name: known.mean() for name, known in statistics.items()}


def _measured(graph: Graph, weights, images: Sequence[np.ndarray]) -> dict[str, "_Statistics"]:
    """Returns the statistics of all nodes' activations by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning about memory, here some ten megabytes
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
    statistics = {}
    for image in images:
        interpreter.set_tensor(first, image[np.newaxis].astype(np.float32))
        interpreter.invoke()
        for name, index in watched.items():
            values = interpreter.get_tensor(index)
            statistics.setdefault(name, _Statistics(values.shape[-1])).add(values)
    return statistics


class _Statistics:
    """The extremes of one activation over all images, its channels' means, and a sample."""

    def __init__(self, channels: int):
        self._low = self._high = 0.0
        self._sums, self._count = np.zeros(channels), 0
        self._sample: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Adds the activation of an image, [1, ..., channels] float32."""
        flat = values.reshape(-1)
        self._low = min(self._low, float(flat.min()))
        self._high = max(self._high, float(flat.max()))
        self._sums += values.reshape(-1, values.shape[-1]).mean(0)
        self._count += 1
        self._sample.append(flat[:: max(1, len(flat) // 997)].copy())

    def mean(self) -> np.ndarray:
        """Returns the mean of each channel, [channels] float64."""
        return self._sums / self._count

    def range(self) -> Range:
        """Returns the scaled extremes at which 256 steps have the least squared error."""
        if self._high - self._low < 1e-9:
            return 0.0, 1.0  # always 0; XNNPACK refuses scales next to 0
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
    """Keeps the ranges of a sum and its terms within XNNPACK's ratios of 2^-10 to 2^8."""
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


def unify(graph: Graph, ranges: dict[str, Range]) -> None:
    """Gives concatenation, pooling and padding one range with their inputs, the widest."""
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


@dataclasses.dataclass(frozen=True)
class Scale:
    """How an activation is stored: the value of an integer q, -128..127, is scale x (q - zero)."""

    scale: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> "Scale":
        """Returns the scale of a range."""
        scale = (high - low) / (_HIGH - _LOW)
        zero = int(np.clip(round(_LOW - low / scale), _LOW, _HIGH))
        return cls(float(np.float32(scale)), zero)


class Int8(Float32):
    """Stores everything between the pixels and the last map as int8; sums are int32.

    Activations after a ReLU are not 0 on average, so rounding a kernel shifts the mean of its
    outputs; the bias undoes that. On the published SqueezeNet 1.0 this halves the logits' error.

    Args:
      scales: scale of every activation, by node name.
      means: [channels], mean of each channel of every activation, by node name.
    """

    versions = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3}
    integer = True
    classifier = DynamicRange()

    def __init__(self, scales: Mapping[str, Scale], means: Mapping[str, np.ndarray]):
        self.scales, self.means = scales, means

    def activation(
        self, file: "LitertFile", name: str, shape: Sequence[int], like: str = ""
    ) -> int:
        """Adds the tensor of a node's output, see `Float32.activation`."""
        found = self.scales[like or name]
        return file.tensor(name, (1, *shape), np.int8, None, found.scale, found.zero)

    def weights(
        self,
        file: "LitertFile",
        name: str,
        kernel: np.ndarray,
        bias: np.ndarray,
        source: str,
        axis: int = 0,
    ) -> list[int]:
        """Adds kernel and bias of a layer, see `Float32.weights`."""
        (values, scale), (sums, sum_scale) = self.integers(
            np.moveaxis(kernel, axis, 0), bias, source
        )
        values = np.moveaxis(values, 0, axis)
        if self.whole and kernel.ndim == 2:
            scale, sum_scale = scale[:1], sum_scale[:1]
        return [
            file.tensor(f"{name}/kernel", kernel.shape, np.int8, values, scale, axis=axis),
            file.tensor(f"{name}/bias", bias.shape, np.int32, sums, sum_scale),
        ]

    def integers(self, kernel: np.ndarray, bias: np.ndarray, source: str) -> tuple[Stored, Stored]:
        """Returns a layer's kernel as int8 and its bias as int32.

        Args:
          kernel: [out, ..., in / groups] float32.
          bias: [out] float32.
          source: name of the node that the layer reads.
        """
        before = self.scales[source].scale
        # Bounded below: in a channel of tiny weights the bias would overflow the int32 sum.
        least = np.abs(bias) / (before * 2**30)
        if self.whole and kernel.ndim == 2:  # a dense layer has one scale there
            least = np.maximum(least.max(), np.abs(kernel).max() / 127)
        values, scale = quantize_kernel(kernel, 0, least)
        lost = kernel - values * scale.reshape(-1, *[1] * (kernel.ndim - 1))
        bias = bias + mean_output(lost, self.means[source])
        sums = np.round(bias / (before * scale.astype(np.float64))).astype(np.int32)
        return (values, scale), (sums, before * scale)


class WholeInt8(Int8):
    """Stores pixels, mean, logits and probabilities as int8, too, for TensorFlow Lite Micro."""

    versions = {**Int8.versions, "MEAN": 2, "FULLY_CONNECTED": 4}
    whole = True

    @property
    def classifier(self) -> "WholeInt8":
        """See `Float32.classifier`; here its input and output are int8."""
        return self


def mean_output(kernel: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Returns the mean outputs of a kernel [out, ..., in / groups] for inputs of given means."""
    outputs, inputs = len(kernel), kernel.shape[-1]
    kernel = kernel.reshape(outputs, -1, inputs).sum(1)
    groups = len(means) // inputs
    return (kernel * means.reshape(groups, inputs).repeat(outputs // groups, 0)).sum(1)
