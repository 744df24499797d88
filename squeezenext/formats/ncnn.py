"""Reads SqueezeNet from ncnn's two files (github.com/Tencent/ncnn).

`.param` is text: 7767517, the numbers of layers and blobs, then a line for each layer with type,
name, the numbers of inputs and outputs, their names, and attributes as key=value, both numbers.
`.bin` holds the weights of the convolutions in that order: a tag (float16 or float32), the numbers
of an out x in x height x width array filled up to 4 bytes, then the biases as float32. Neither
file stores the preprocessing.

The lines describe a graph. It is walked back from its output together with the configuration's
network, so that a file of another network is refused and layers are found whatever their names.
"""

import dataclasses
import math

import numpy as np

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNet
from squeezenext.errors import InputError
from squeezenext.network import graph

MAGIC = "7767517"


@dataclasses.dataclass(frozen=True)
class Layer:
    """A line of `.param`: a layer, its blobs by name and its attributes by number."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[int, int | float]


def parse(param: bytes, source: str) -> list[Layer]:
    """Returns the layers in order, each of which reads only blobs of layers before it."""
    try:
        magic, counts, *lines = param.decode("ascii").split("\n")
        layers = [_layer(line.split()) for line in lines if line.strip()]
        told = [int(number) for number in counts.split()]
    except (ValueError, IndexError) as error:
        raise InputError(f"{source}: the .param is not ncnn's text ({error}).") from error
    blobs: set[str] = set()
    for layer in layers:
        if not blobs.issuperset(layer.inputs) or not blobs.isdisjoint(layer.outputs):
            raise InputError(f"{source}: the .param's layer {layer.name} reads or makes no blob.")
        blobs.update(layer.outputs)
    unique = {layer.name for layer in layers}
    if magic.strip() != MAGIC or told != [len(layers), len(blobs)] or len(unique) != len(layers):
        raise InputError(f"{source}: the .param is not ncnn's: its first two lines do not fit.")
    return layers


def _layer(words: list[str]) -> Layer:
    kind, name, inputs, outputs, *rest = words
    first, second = int(inputs), int(inputs) + int(outputs)
    if not 0 <= first <= second <= len(rest):
        raise ValueError(f"layer {name} has other blobs than it says")
    attributes = {}
    for pair in rest[second:]:
        key, value = pair.split("=")
        attributes[int(key)] = float(value) if "." in value else int(value)
    return Layer(kind, name, tuple(rest[:first]), tuple(rest[first:second]), attributes)


MAX_PARAM = 1 << 20  # bytes; SqueezeNet's have 7 kB
_FLOAT16, _FLOAT32 = 0x01306B47, (0, 0x0002C056)  # modelbin.cpp
_PASSED = ("Split", "Dropout", "Noop")
_TAIL = (*_PASSED, "Softmax", "Reshape", "Flatten")  # between the logits and the output
_WEIGHTLESS = (*_TAIL, "Input", "Pooling", "Concat", "ReLU")
# Attributes of a convolution, convolution.cpp; each not named here must be 0.
_OUT, _WIDTH, _HEIGHT, _BIAS, _SIZE, _ACTIVATION = 0, 1, 11, 5, 6, 9
_DILATIONS, _STRIDES, _PADS = (2, 12), (3, 13), (4, 14, 15, 16)
_KNOWN = {_OUT, _WIDTH, _HEIGHT, _BIAS, _SIZE, _ACTIVATION, *_DILATIONS, *_STRIDES, *_PADS}


def decode(
    param: bytes, weights: bytes, config: Config, source: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the variables in `.param` and `.bin` by name, and sentences for the user.

    Raises:
      InputError: the files are damaged, or of another network.
    """
    if not isinstance(config.model, SqueezeNet) or config.model.bypass != "none":
        raise InputError("ncnn's files are read for SqueezeNet without bypass only.")
    if len(param) > MAX_PARAM:
        raise InputError(f"{source}: the .param is larger than any SqueezeNet's.")
    layers = parse(param, source)
    walk = _Walk(layers, graph.of(config), source)
    names = walk.names()
    arrays, offset = {}, 0
    for layer in layers:
        if layer.kind == "Convolution":
            kernel, bias, offset = _read(layer, weights, offset, source)
            arrays[f"model/{names[layer.name]}/kernel"] = kernel
            arrays[f"model/{names[layer.name]}/bias"] = bias
    if offset != len(weights):
        raise InputError(
            f"{source}: the .bin has {len(weights)} bytes; the .param promises {offset}."
        )
    return arrays, walk.notes


class _Walk:
    """Walks the file's graph and the network's together, from the logits back to the images."""

    def __init__(self, layers: list[Layer], network: graph.Graph, source: str):
        self._layers, self._network, self._source = layers, network, source
        self._makers = {blob: layer for layer in layers for blob in layer.outputs}
        self._names: dict[str, str] = {}
        self.notes: list[str] = []

    def names(self) -> dict[str, str]:
        """Returns the network's name of each convolution by the file's name."""
        read = {blob for layer in self._layers for blob in layer.inputs}
        ends = [blob for blob in self._makers if blob not in read]
        if len(ends) != 1:
            raise self._fault(f"it has {len(ends)} outputs")
        logits = self._maker(ends[0], _TAIL)
        self._match(logits, self._network[self._network.nodes[-1].name])
        for layer in self._layers:
            if layer.kind not in _WEIGHTLESS and layer.name not in self._names:
                raise self._fault(f"its layer {layer.name} ({layer.kind}) has no place there")
        return self._names

    def _fault(self, what: str) -> InputError:
        return InputError(f"{self._source} is not of this network: {what}.")

    def _maker(self, blob: str, passed: tuple[str, ...] = _PASSED) -> Layer:
        """Returns the layer that computes a blob, skipping those that only pass it on."""
        layer = self._makers[blob]
        while layer.kind in passed and len(layer.inputs) == 1:
            layer = self._makers[layer.inputs[0]]
        return layer

    def _match(self, layer: Layer, node: graph.Node) -> None:
        """Compares a layer with a node, then their inputs."""
        relu = layer.kind == "ReLU" and len(layer.inputs) == 1
        if relu:
            relu = not layer.attributes.get(0)  # slope of a leaky ReLU
            layer = self._maker(layer.inputs[0])
        if layer.name in self._names or node.name in self._names.values():
            if self._names.get(layer.name) != node.name:
                raise self._fault(f"its layer {layer.name} is not {node.name}")
            return
        inputs = [self._network[name] for name in node.inputs]
        padding = 0
        if inputs and inputs[0].op == "pad":  # in ncnn a part of the convolution
            padding = inputs[0].padding[0][0]
            inputs = [self._network[name] for name in inputs[0].inputs]
        if layer.kind != _KINDS[node.op] or len(layer.inputs) != len(inputs):
            raise self._fault(f"its layer {layer.name} ({layer.kind}) stands where {node.name} is")
        if node.op == "conv":
            padding = self._padding_of_head(layer, node, padding)
            fits = self._convolution_fits(layer.attributes, node, padding, relu)
        else:
            fits = not relu and _fits(layer.attributes, node)
        if node.op == "input" and not fits:
            told, side = layer.attributes.get(0), node.shape[0]
            raise self._fault(f"its images are {told} wide, the configuration's {side}")
        if not fits:
            raise self._fault(f"its layer {layer.name} has other attributes than {node.name}")
        self._names[layer.name] = node.name
        for blob, before in zip(layer.inputs, inputs, strict=True):
            self._match(self._maker(blob), before)

    def _padding_of_head(self, layer: Layer, node: graph.Node, padding: int) -> int:
        """Returns the file's padding of the classifier, the only attribute that may differ.

        ncnn-assets pads 1.1's by 1, as Caffe's 1.0 does; Caffe's own prototxt of 1.1 does not. The
        weights of a 1x1 convolution are the same.
        """
        told = layer.attributes.get(4, 0)
        if node.name != "conv10" or told == padding or told not in (0, 1):
            return padding
        self.notes.append(
            f"{self._source} pads the classifier by {told}, the configuration by {padding}: the "
            f"configuration's stays (--set model.head_padding={told} for the file's)."
        )
        return told

    def _convolution_fits(self, told: dict, node: graph.Node, padding: int, relu: bool) -> bool:
        shape = self._network.kernel_shape(node.name)
        width, left = told.get(_WIDTH), told.get(4, 0)
        top = told.get(14, left)
        found = (
            told.get(_OUT),
            told.get(_SIZE),
            (told.get(_HEIGHT, width), width),
            ((top, told.get(16, top)), (left, told.get(15, left))),
            tuple(told.get(key, told.get(3, 1)) for key in _STRIDES),
            tuple(told.get(key, told.get(2, 1)) for key in _DILATIONS),
        )
        sides = tuple((low + padding, high + padding) for low, high in node.padding)
        strides = (node.strides, node.strides)
        return (
            found == (shape[-1], math.prod(shape), shape[:2], sides, strides, (1, 1))
            and told.get(_BIAS) == 1
            and node.activation == "relu"
            and sorted([told.get(_ACTIVATION, 0), int(relu)]) == [0, 1]
            and not any(value for key, value in told.items() if key not in _KNOWN)
        )


_KINDS = {"input": "Input", "conv": "Convolution", "max_pool": "Pooling", "concat": "Concat",
          "global_pool": "Pooling"}  # fmt: skip


def _fits(told: dict, node: graph.Node) -> bool:
    """Says whether a layer without weights has the attributes of a node."""
    if node.op == "input":
        sides = enumerate(reversed(node.shape[:2]))
        return all(told.get(key, 0) in (0, side) for key, side in sides)
    if node.op == "max_pool":  # unpadded with Caffe's ceil, mode 0 of pooling.cpp
        sides = (told.get(1), told.get(11, told.get(1)), told.get(2), told.get(12, told.get(2)))
        others = [value for key, value in told.items() if key not in (1, 11, 2, 12)]
        return sides == (3, 3, 2, 2) and not any(others)
    if node.op == "concat":
        return not told.get(0)  # the axis: channels
    return told.get(0) == told.get(4) == 1 and not told.get(7)


def _read(
    layer: Layer, data: bytes, offset: int, source: str
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns kernel [height, width, in, out], bias [out] and the offset of the next layer."""
    get = layer.attributes.get
    out, size, width = int(get(_OUT)), int(get(_SIZE)), int(get(_WIDTH))
    height = int(get(_HEIGHT, width))
    tag = int.from_bytes(data[offset : offset + 4], "little")
    if tag != _FLOAT16 and tag not in _FLOAT32:
        raise InputError(
            f"{source}: the weights of {layer.name} are neither float16 nor float32 (tag {tag:#x})."
        )
    kind = np.dtype("<f2" if tag == _FLOAT16 else "<f4")
    start = offset + 4
    end = start + (size * kind.itemsize + 3) // 4 * 4
    if end + 4 * out > len(data):
        raise InputError(f"{source}: the .bin is cut in the layer {layer.name}.")
    kernel = np.frombuffer(data, kind, size, start).astype(np.float32)
    bias = np.frombuffer(data, "<f4", out, end)
    kernel = kernel.reshape(out, -1, height, width).transpose(2, 3, 1, 0)
    return kernel, bias, end + 4 * out
