"""A network in whole numbers: 8-bit weights and activations, 32-bit sums, exactly specified.

What `squeezenext.compress --integer` writes, this module computes, and so does the C runtime of
`export --format micro`, bit for bit up to the logits. docs/micro.md has the arithmetic:

    sum = bias + kernel * (outputs of the layer before, 0..255)
    output = (sum x multiplier + zero x 2^shift + 2^(shift - 1)) >> shift, limited to 0..255

A float32 or float64 matrix product gives these sums exactly, as none of its terms' sums passes 2^24
or 2^53; so numpy's BLAS computes them.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from squeezenext.config.images import Images
from squeezenext.errors import InputError
from squeezenext.network.graph import Graph, Node

TOP = 255  # greatest activation
MAX_FILTER = 50_000  # weights of a filter, so that no sum passes 31 bits


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerLayer:
    """The numbers of a conv or dense node.

    Attributes:
      kernel: int8 [height, width, in / groups, out], 1 x 1 of a dense.
      bias: int16 [out]; what is added to a sum is bias x 2^bias_shift.
      bias_shift: 0 to 13.
      multiplier: 1 to 2^31 - 1; 1 of the classifier, whose sums are not rescaled.
      shift: 1 to 53; 1 of the classifier.
    """

    kernel: np.ndarray
    bias: np.ndarray
    bias_shift: int
    multiplier: int
    shift: int

    @property
    def offsets(self) -> np.ndarray:
        """What is added to each sum, [out] int64."""
        return self.bias.astype(np.int64) << self.bias_shift


@dataclasses.dataclass(frozen=True)
class IntegerSum:
    """The numbers of an add node: (a x first + b x second) / 2^shift, inputs less their zeros."""

    multipliers: tuple[int, int]
    shift: int


@dataclasses.dataclass(frozen=True)
class MapScale:
    """How an activation is stored: q, 0..255, means scale x (q - zero)."""

    scale: float
    zero: int


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A network that takes RGB pixels and gives logits as whole numbers.

    Attributes:
      graph: the folded network, see `without_pads`.
      layers: by name of the node.
      sums: by name of the node.
      scales: of every node's output before the logits.
      border: red, green and blue of the pixels around the image where the first layer pads.
      shift: the logits are the classifier's sums / 2^shift, rounded towards 0.
      logit_scale: the value of a logit of 1.
    """

    graph: Graph
    layers: Mapping[str, IntegerLayer]
    sums: Mapping[str, IntegerSum]
    scales: Mapping[str, MapScale]
    border: tuple[int, int, int]
    shift: int
    logit_scale: np.float32

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the logits of RGB pixels [size, size, 3] uint8: [classes] int32."""
        return self._maps(pixels)[self.graph.logits.name]

    def outputs(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Returns as float32 what `class_maps.tap` makes a LiteRT file give.

        These are the logits, the classifier's input [height, width, channels] and, of a
        convolution, the class maps [height, width, classes].
        """
        maps, classifier = self._maps(pixels), self.graph.weighted[-1]
        source = self.graph[classifier.inputs[0]]
        source = self.graph[source.inputs[0]] if source.op == "global_pool" else source
        scale = self.scales[source.name]
        found = [maps[self.graph.logits.name] * self.logit_scale]
        found.append((maps[source.name].astype(np.float32) - scale.zero) * np.float32(scale.scale))
        if classifier.op == "conv":
            found.append(maps[classifier.name] * np.float32(_unit(self, classifier)))
        return [x.astype(np.float32) for x in found]

    def _maps(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the output of every node."""
        first, *nodes = self.graph.nodes
        maps = {first.name: pixels}
        for node in nodes:
            maps[node.name] = self._output(node, [maps[name] for name in node.inputs])
        return maps

    def _output(self, node: Node, inputs: list[np.ndarray]) -> np.ndarray:
        if node.op == "concat":
            return np.concatenate(inputs, -1)
        if node.op == "max_pool":
            # A padding of 0 never exceeds what is in the window.
            return padded_windows(inputs[0], node, np.zeros(1, np.uint8)).max((2, 3))
        if node.op == "add":
            return self._add(node, *inputs)
        if node.op == "global_pool":
            total = inputs[0].astype(np.int64).sum((0, 1))
            if node.inputs[0] == self.graph.weighted[-1].name:
                return self._logits(total)
            height, width, _ = inputs[0].shape
            return total - height * width * self.scales[node.inputs[0]].zero
        sums = self._sums(node, inputs[0])
        if node.op == "dense":
            return self._logits(sums[0, 0])
        if node.name == self.graph.weighted[-1].name:
            return np.maximum(sums, 0) if node.activation == "relu" else sums
        return self._rescaled(node, sums)

    def _sums(self, node: Node, inputs: np.ndarray) -> np.ndarray:
        """Returns a layer's sums, int64 [height, width, out]."""
        layer = self.layers[node.name]
        height, width, channels, filters = layer.kernel.shape
        if node.op == "dense":
            return (inputs @ layer.kernel[0, 0].astype(np.int64) + layer.offsets)[None, None]
        zero = self._border(node)
        seen = padded_windows(inputs, node, zero)
        most = TOP * int(np.abs(layer.kernel.astype(np.int64)).sum((0, 1, 2)).max())
        kind = np.float32 if most < 1 << 24 else np.float64
        seen = seen.reshape(-1, height * width, node.groups, channels).astype(kind)
        parts = np.split(layer.kernel.reshape(-1, filters).astype(kind), node.groups, 1)
        found = [seen[:, :, i].reshape(len(seen), -1) @ part for i, part in enumerate(parts)]
        total = np.concatenate(found, 1).astype(np.int64) + layer.offsets
        return total.reshape(node.shape)

    def _border(self, node: Node) -> np.ndarray:
        """Returns what a layer's padding holds, uint8 [1] or [3]."""
        source = node.inputs[0]
        image = source == self.graph.nodes[0].name
        return np.uint8(self.border if image else [self.scales[source].zero])

    def _rescaled(self, node: Node, sums: np.ndarray) -> np.ndarray:
        layer, zero = self.layers[node.name], self.scales[node.name].zero
        half = (zero << layer.shift) + (1 << layer.shift - 1)
        low = zero if node.activation == "relu" else 0
        return ((sums * layer.multiplier + half) >> layer.shift).clip(low, TOP).astype(np.uint8)

    def _add(self, node: Node, *inputs: np.ndarray) -> np.ndarray:
        rule, zero = self.sums[node.name], self.scales[node.name].zero
        total = (zero << rule.shift) + (1 << rule.shift - 1)
        for name, values, factor in zip(node.inputs, inputs, rule.multipliers, strict=True):
            total = total + (values.astype(np.int64) - self.scales[name].zero) * factor
        low = zero if node.activation == "relu" else 0
        return (total >> rule.shift).clip(low, TOP).astype(np.uint8)

    def _logits(self, sums: np.ndarray) -> np.ndarray:
        sizes = np.minimum(np.abs(sums) >> self.shift, np.iinfo(np.int32).max)
        return (np.sign(sums) * sizes).astype(np.int32)


def padded_windows(inputs: np.ndarray, node: Node, border: np.ndarray) -> np.ndarray:
    """Returns a node's windows of a map, [out height, out width, height, width, channels].

    Args:
      inputs: [height, width, channels].
      node: a conv or max_pool.
      border: the padding's value, [1] or [channels].
    """
    (top, bottom), (left, right) = node.padding
    height, width, channels = inputs.shape
    padded = np.empty((top + height + bottom, left + width + right, channels), inputs.dtype)
    padded[:] = border
    padded[top : top + height, left : left + width] = inputs
    view = np.lib.stride_tricks.sliding_window_view(padded, node.kernel, (0, 1))
    return view[:: node.strides, :: node.strides].transpose(0, 1, 3, 4, 2)


def without_pads(graph: Graph) -> Graph:
    """Returns a graph whose pad nodes are part of the convolutions that read them."""
    pads = {node.name: node for node in graph.nodes if node.op == "pad"}
    nodes = []
    for node in graph.nodes:
        if node.op == "pad":
            continue
        if node.inputs and node.inputs[0] in pads:
            pad = pads[node.inputs[0]]
            sides = zip(node.padding, pad.padding, strict=True)
            padding = tuple((a + c, b + d) for (a, b), (c, d) in sides)
            node = dataclasses.replace(node, inputs=pad.inputs, padding=padding)
        nodes.append(node)
    return Graph(tuple(nodes))


def rgb_order(images: Images) -> slice:
    """Returns the slice that brings channels from the images' order to RGB, and back."""
    return slice(None, None, -1) if images.channels == "BGR" else slice(None)


def floats(network: IntegerNetwork, images: Images) -> dict[str, np.ndarray]:
    """Returns the float weights that the whole numbers stand for, see `graph.fold`."""
    weights, graph = {}, network.graph
    for node in graph.weighted:
        layer, source = network.layers[node.name], graph[node.inputs[0]]
        stored = source.inputs[0] if source.op == "global_pool" else source.name
        zero = network.scales[stored].zero if node.op == "conv" else 0
        # In C's order: another order of the sums would change the last bit, and a file with it.
        kernel, unit = layer.kernel.astype(np.float64, order="C"), _unit(network, node)
        bias = (layer.offsets + zero * kernel.sum((0, 1, 2))) * unit
        kernel = kernel * unit / _input_scale(network, node)
        if source.name == graph.nodes[0].name:
            kernel = kernel[:, :, rgb_order(images)] * np.float64(images.std)[:, np.newaxis]
            shift = np.float64(images.mean) / np.float64(images.std)
            bias = bias + np.einsum("hwio,i->o", kernel, shift)
        kernel = kernel[0, 0] if node.op == "dense" else kernel
        weights[f"{node.name}/kernel"] = kernel.astype(np.float32)
        if node.op == "conv" or node.bias:
            weights[f"{node.name}/bias"] = bias.astype(np.float32)
    return weights


def _unit(network: IntegerNetwork, node: Node) -> float:
    """Returns the value of a layer's sum of 1."""
    layer, graph = network.layers[node.name], network.graph
    if node.name == graph.weighted[-1].name:
        unit = float(network.logit_scale) / 2.0**network.shift
        # The logit of a convolution is the mean of its sums, not their total.
        return unit * (math.prod(node.shape[:2]) if node.op == "conv" else 1)
    return layer.multiplier / 2.0**layer.shift * network.scales[node.name].scale


def _input_scale(network: IntegerNetwork, node: Node) -> float:
    """Returns the value of 1 in what a layer reads."""
    source = network.graph[node.inputs[0]]
    if source.op != "global_pool":
        return network.scales[source.name].scale
    area = math.prod(network.graph[source.inputs[0]].shape[:2])
    return network.scales[source.inputs[0]].scale / area


def check_numbers(network: IntegerNetwork, source: str) -> None:
    """Raises InputError for numbers that `source` cannot have been written with."""
    layers, sums = network.layers.values(), network.sums.values()
    good = all(
        1 <= x.multiplier < 1 << 31 and 1 <= x.shift <= 53 and x.bias_shift <= 13 for x in layers
    )
    good &= all(1 <= x.shift <= 20 and max(x.multipliers) < 1 << 21 for x in sums)
    good &= all(1e-30 < x.scale < 1e30 for x in network.scales.values())
    good &= all(x.kernel.min() >= -127 and x.kernel[..., 0].size <= MAX_FILTER for x in layers)
    good &= all(node.activation in ("relu", "linear") for node in network.graph.nodes)
    if not good:
        raise InputError(f"{source} is damaged: its plan has impossible numbers.")
