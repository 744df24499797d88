"""Brings a compressed network to whole numbers: `IntegerNetwork`, which needs no float to run.

The values of a kernel's codebook become multiples, -127 to 127, of one scale for each layer. The
scales of activations come from images, as those of int8 LiteRT files do. A bias also makes up for
the shift of a filter's mean output that the rounding of its kernel causes.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from squeezenext.config.images import Images
from squeezenext.errors import InputError
from squeezenext.litert import int8
from squeezenext.network import integer
from squeezenext.network.graph import Graph, Node
from squeezenext.network.integer import IntegerLayer, IntegerNetwork, IntegerSum, MapScale

Weights = Mapping[str, np.ndarray]
_WEIGHT, _BIAS = 127, 2**15 - 1  # greatest stored weight and bias
_LEAST = 64  # least number of steps that the greatest weight of a layer is
_MULTIPLIER = 1 << 31
_SUM_BITS = 21  # bits of an add's multipliers, so that its sum has at most 31


class Calibration:
    """The ranges and means of a network's activations on the calibration images.

    Attributes:
      graph: the network, without pads.
      images: its preprocessing.
      scales: the scale of each activation, by node name.
      means: mean of each channel of every activation, by node name; of pixels for the image.
    """

    def __init__(self, graph: Graph, weights: Weights, images: Images, inputs: Sequence):
        """Measures a network's activations; `inputs` are normalized images, some hundred."""
        check_possible(graph)
        self.images = images
        ranges, self.means = int8.measured_ranges(graph, weights, inputs)
        self.graph = integer.without_pads(graph)
        int8.unify(self.graph, ranges)
        self.scales = {name: _scale(*pair) for name, pair in ranges.items()}
        first = graph.nodes[0].name
        self.scales[first] = MapScale(1.0, 0)
        pixels = self.means[first] * np.float64(images.std) + np.float64(images.mean)
        self.means[first] = pixels[integer.rgb_order(images)]

    def network(self, weights: Weights) -> IntegerNetwork:
        """Returns a network of these scales with other weights, by "layer/variable", float32."""
        weights = _of_pixels(self.graph, weights, self.images)
        made = {node.name: self._layer(node, weights) for node in self.graph.weighted}
        layers = {name: layer for name, (layer, _) in made.items()}
        sums = {node.name: self._sum(node) for node in self.graph.nodes if node.op == "add"}
        last = self.graph.weighted[-1]
        border = np.round(np.float64(self.images.mean)[integer.rgb_order(self.images)]).clip(0, 255)
        shift = max(0, _most(last, layers[last.name], self.graph).bit_length() - 31)
        border = tuple(int(x) for x in border)
        area = math.prod(last.shape[:2]) if last.op == "conv" else 1
        scale = np.float32(made[last.name][1] / area * 2.0**shift)
        return IntegerNetwork(self.graph, layers, sums, self.scales, border, shift, scale)

    def _layer(self, node: Node, weights: Weights) -> tuple[IntegerLayer, float]:
        """Returns a layer, and the value of its sum of 1."""
        kernel = weights[f"{node.name}/kernel"].astype(np.float64)
        kernel = kernel if kernel.ndim == 4 else kernel[np.newaxis, np.newaxis]
        bias = weights.get(f"{node.name}/bias", np.zeros(kernel.shape[-1]))
        source = self.graph[node.inputs[0]]
        means, before = self.means[source.name], self.scales[self._stored(source)]
        area = math.prod(self.graph[source.inputs[0]].shape[:2]) if node.op == "dense" else 1
        before = MapScale(before.scale / area, before.zero)
        # In a layer of tiny weights the bias would pass its bound.
        least = max(np.abs(bias).max() / before.scale / 2**26, 1e-12)
        scale = float(np.float32(max(step(kernel), least)))
        whole = np.round(kernel / scale)
        lost = np.moveaxis(kernel - whole * scale, -1, 0)
        bias = (bias + int8.mean_output(lost, means)) / (before.scale * scale)
        if node.op == "conv":
            bias = bias - before.zero * whole.sum((0, 1, 2))
        bias_shift = max(0, int(np.abs(bias).max()).bit_length() - 15)
        stored = np.round(bias / 2**bias_shift).clip(-_BIAS, _BIAS).astype(np.int16)
        multiplier, shift = 1, 1
        if node.name != self.graph.weighted[-1].name:
            multiplier, shift = _fixed(before.scale * scale / self.scales[node.name].scale)
        layer = IntegerLayer(whole.astype(np.int8), stored, bias_shift, multiplier, shift)
        return layer, before.scale * scale

    def _stored(self, source: Node) -> str:
        """Returns the name of the map behind the mean that a dense layer reads."""
        return source.inputs[0] if source.op == "global_pool" else source.name

    def _sum(self, node: Node) -> IntegerSum:
        """Returns the multipliers of an add, as large as 31 bits allow."""
        ratios = [self.scales[x].scale / self.scales[node.name].scale for x in node.inputs]
        shift = min(20, _SUM_BITS - 1 - math.frexp(max(ratios))[1])
        first, second = (round(ratio * 2**shift) for ratio in ratios)
        return IntegerSum((first, second), shift)


def pixels_of(inputs: Sequence[np.ndarray], images: Images) -> list[np.ndarray]:
    """Returns the RGB pixels, [size, size, 3] uint8, of normalized images."""
    std, mean = np.float32(images.std), np.float32(images.mean)
    found = [np.round(x * std + mean).clip(0, 255).astype(np.uint8) for x in inputs]
    return [x[..., integer.rgb_order(images)] for x in found]


def check_possible(graph: Graph) -> None:
    """Raises InputError for a network that whole numbers cannot compute here."""
    if any(node.activation == "elu" for node in graph.nodes):
        raise InputError("--integer: an ELU has no form in whole numbers; train with ReLU.")
    for node in graph.weighted:
        if math.prod(graph.kernel_shape(node.name)[:-1]) > integer.MAX_FILTER:
            raise InputError(f"--integer: the filters of {node.name} have too many weights.")


def _scale(low: float, high: float) -> MapScale:
    scale = (high - low) / integer.TOP
    return MapScale(float(np.float32(scale)), int(np.clip(round(-low / scale), 0, integer.TOP)))


def step(kernel: np.ndarray) -> float:
    """Returns the step of which the weights are nearly multiples, -127 to 127 of them."""
    values, counts = np.unique(kernel, return_counts=True)
    steps = np.abs(values).max() / np.arange(_LEAST, _WEIGHT + 1)
    ratios = values / np.maximum(steps, 1e-30)[:, np.newaxis]
    errors = np.square((ratios - np.round(ratios)) * steps[:, np.newaxis]) @ counts
    return float(steps[errors.argmin()])


def _fixed(factor: float) -> tuple[int, int]:
    """Returns multiplier and shift for a factor: multiplier / 2^shift."""
    shift = min(max(31 - math.frexp(factor)[1], 1), 53)
    return min(max(round(factor * 2.0**shift), 1), _MULTIPLIER - 1), shift


def _most(node: Node, layer: IntegerLayer, graph: Graph) -> int:
    """Returns a bound of the classifier's sums over all positions."""
    source = graph[node.inputs[0]]
    height, width, _ = (graph[source.inputs[0]] if node.op == "dense" else node).shape
    weights = np.abs(layer.kernel.astype(np.int64)).sum((0, 1, 2)) * integer.TOP
    return int((height * width * (weights + np.abs(layer.offsets))).max())


def _of_pixels(graph: Graph, weights: Weights, images: Images) -> dict[str, np.ndarray]:
    """Returns the weights of a network that takes RGB pixels, 0..255.

    Padding is the mean colour there, which 0 is after normalization.
    """
    (first,) = (node for node in graph.nodes if graph.nodes[0].name in node.inputs)
    kernel = weights[f"{first.name}/kernel"].astype(np.float64)
    std, mean = np.float64(images.std), np.float64(images.mean)
    bias = weights[f"{first.name}/bias"] - np.einsum("hwio,i->o", kernel, mean / std)
    kernel = (kernel / std[:, np.newaxis])[:, :, integer.rgb_order(images)]
    return {**weights, f"{first.name}/kernel": kernel, f"{first.name}/bias": bias}
