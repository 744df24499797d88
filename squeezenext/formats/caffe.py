"""Reads Caffe's `.caffemodel` for the networks of github.com/forresti/SqueezeNet,
github.com/songhan/SqueezeNet-Residual and github.com/amirgholami/SqueezeNext.

Convolutions, batch norms and scales stand in the order of the prototxt, which is that of our
networks; types, shapes, strides, padding and groups must agree.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.network import graph

# The parts of caffe.proto's messages that hold weights, read by the wire format alone.
#
# Fields by number. NetParameter: `layer` 100, and `layers` 2 of files before 2015. A layer: name,
# type, blobs, convolution_param, batch_norm_param. A blob: `data` 5 or `double_data` 8, packed, and
# `shape` 7, or num, channels, height and width 1 to 4. Everything else is passed over.


MAX_FIELDS = 200_000  # of a file; SqueezeNext's have some ten thousand
EPSILON = 1e-5  # BatchNormParameter.eps, where a file says nothing
_NAMES_OF_V1 = {
    4: "Convolution",
    14: "InnerProduct",
    18: "ReLU",
    25: "Eltwise",
}  # V1LayerParameter.LayerType
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LAYER = {1: "name", 2: "type", 7: "blob", 106: "convolution", 139: "norm"}
_LAYER_OF_V1 = {4: "name", 5: "type", 6: "blob", 10: "convolution"}
_REPEATED = (1, 3, 4, 6, 18)  # BlobShape.dim; ConvolutionParameter's pad, kernel, stride, dilation


class Damaged(Exception):
    """What is wrong with the bytes."""


@dataclasses.dataclass
class Layer:
    """A layer as far as it is read.

    Attributes:
      kind: its type, as the newer files name it.
      blobs: float arrays without leading dimensions of 1.
      convolution: ConvolutionParameter's integers by field, or None where the file has none.
      epsilon: BatchNormParameter's.
    """

    name: str = ""
    kind: str = ""
    blobs: list[np.ndarray] = dataclasses.field(default_factory=list)
    convolution: dict[int, list[int]] | None = None
    epsilon: float = EPSILON


def read_layers(data: bytes) -> list[Layer]:
    """Returns a NetParameter's layers in order.

    Raises:
      Damaged: the bytes are not such a message.
    """
    reader, found = _Reader(), []
    for number, kind, value in reader.fields(memoryview(data)):
        if number in (100, 2) and kind == _BYTES:
            found.append(reader.layer(value, first=number == 2))
    return found


class _Reader:
    """Reads messages, few enough fields in all that no file takes long."""

    def __init__(self):
        self._left = MAX_FIELDS

    def fields(self, data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
        """Yields (number, wire type, value) of a message."""
        place = 0
        while place < len(data):
            self._left -= 1
            if self._left < 0:
                raise Damaged("it has too many fields")
            key, place = _varint(data, place)
            number, kind = key >> 3, key & 7
            if kind == _VARINT:
                value, place = _varint(data, place)
            else:
                size = {_FIXED32: 4, _FIXED64: 8}.get(kind, -1)
                if kind == _BYTES:
                    size, place = _varint(data, place)
                if not 0 <= size <= len(data) - place or not number:
                    raise Damaged("a field is cut or of no kind")
                value, place = data[place : place + size], place + size
            yield number, kind, value

    def layer(self, data: memoryview, first: bool) -> Layer:
        """Reads a LayerParameter, or (`first`) a V1LayerParameter."""
        names, layer = _LAYER_OF_V1 if first else _LAYER, Layer()
        for number, kind, value in self.fields(data):
            what = names.get(number)
            if what == "type" and first and kind == _VARINT:
                layer.kind = _NAMES_OF_V1.get(value, f"number {value}")
            elif kind != _BYTES:
                continue
            elif what == "name":
                layer.name = _text(value)
            elif what == "type":
                layer.kind = _text(value)
            elif what == "blob":
                layer.blobs.append(self._blob(value))
            elif what == "convolution":
                layer.convolution = self._numbers(value)
            elif what == "norm":
                layer.epsilon = self._epsilon(value)
        return layer

    def _blob(self, data: memoryview) -> np.ndarray:
        """Returns a BlobProto as an array of its shape, without leading dimensions of 1."""
        legacy, shape, parts = {}, None, []
        for number, kind, value in self.fields(data):
            if kind == _VARINT and 1 <= number <= 4:
                legacy[number] = value
            elif number == 7 and kind == _BYTES:
                shape = self._numbers(value).get(1, [])
            elif number in (5, 8) and kind == _BYTES:
                numbers = np.dtype("<f4" if number == 5 else "<f8")
                if len(value) % numbers.itemsize:
                    raise Damaged("a blob is cut")
                parts.append(np.frombuffer(value, numbers))
        if shape is None:
            shape = [legacy.get(place, 1) for place in (1, 2, 3, 4)]
        array = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        if len(shape) > 8:
            raise Damaged("a blob has too many dimensions")
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
        if len(shape) > 4 or math.prod(shape) != array.size:
            raise Damaged(f"a blob of shape {tuple(shape[:5])} has {array.size} numbers")
        return array.reshape(shape)

    def _numbers(self, data: memoryview) -> dict[int, list[int]]:
        """Returns the integers of a message by field, packed or not."""
        found: dict[int, list[int]] = {}
        for number, kind, value in self.fields(data):
            if kind == _VARINT:
                found.setdefault(number, []).append(value)
            elif kind == _BYTES and number in _REPEATED and len(value) <= 64:
                place = 0
                while place < len(value):
                    one, place = _varint(value, place)
                    found.setdefault(number, []).append(one)
        return found

    def _epsilon(self, data: memoryview) -> float:
        epsilon = EPSILON
        for number, kind, value in self.fields(data):
            if number == 3 and kind == _FIXED32:
                epsilon = float(np.frombuffer(value, "<f4")[0])
        return epsilon


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, place
    raise Damaged("a number is cut")


def _text(value: memoryview) -> str:
    return bytes(value[:100]).decode("utf-8", "replace")


_WEIGHTED = ("Convolution", "InnerProduct", "BatchNorm", "Scale")


def decode(data: bytes, config: Config, source: str) -> dict[str, np.ndarray]:
    """Decodes a file.

    Args:
      data: the whole file.
      config: the network.
      source: named in messages.

    Returns:
      Variables by "model/layer/variable"; moving statistics divided by Caffe's scale factor.

    Raises:
      InputError: the file is damaged, or of another network.
    """
    try:
        layers, network = read_layers(data), graph.of(config)
        found = _variables(_with_norms(layers), network)
        _check_activations(layers, network)
        return found
    except Damaged as error:
        raise InputError(f"{source} is damaged or of another network: {error}.") from error


def _with_norms(layers: list[Layer]) -> list[tuple[Layer, list[Layer]]]:
    """Returns what has weights or adds, each with the batch norm and scale that follow it."""
    found: list[tuple[Layer, list[Layer]]] = []
    for layer in layers:
        if layer.blobs and layer.kind not in _WEIGHTED:
            raise Damaged(f"its layer {layer.name} of type {layer.kind} has weights")
        if layer.kind in ("BatchNorm", "Scale"):
            if not found:
                raise Damaged(f"its layer {layer.name} normalises nothing")
            found[-1][1].append(layer)
        elif layer.blobs or layer.kind == "Eltwise":
            found.append((layer, []))
    if all(layer.blobs for layer in layers):  # stripped, so that additions would not be seen
        raise Damaged("it says nothing of layers without weights")
    return found


def _variables(
    layers: list[tuple[Layer, list[Layer]]], network: graph.Graph
) -> dict[str, np.ndarray]:
    nodes = [node for node in network.nodes if node.op in ("conv", "dense", "add")]
    wanted = {"conv": "Convolution", "dense": "InnerProduct", "add": "Eltwise"}
    kinds, expected = [x.kind for x, _ in layers], [wanted[node.op] for node in nodes]
    if sorted(kinds) != sorted(expected):
        told = ", ".join(f"{kinds.count(k)} {k} ({expected.count(k)})" for k in wanted.values())
        raise Damaged(f"of each type it has, and the network should have: {told}")
    weighted = [(layer, norms) for layer, norms in layers if layer.kind != "Eltwise"]
    found = {}
    for (layer, norms), node in zip(weighted, network.weighted, strict=True):
        found |= _weights(layer, node, network)
        if node.norm:
            found |= _norm(norms, node)
        elif norms:
            raise Damaged(f"its layer {norms[0].name} normalises {node.name}")
    return found


def _check_activations(layers: list[Layer], network: graph.Graph) -> None:
    """Compares how often each activation stands there; where, the order of layers says."""
    for kind in ("ReLU", "ELU"):
        told = sum(layer.kind == kind for layer in layers)
        wanted = sum(node.activation == kind.lower() for node in network.nodes)
        if told != wanted:
            raise Damaged(f"it has {told} {kind} layers, the network should have {wanted}")


def _weights(layer: Layer, node: graph.Node, network: graph.Graph) -> dict[str, np.ndarray]:
    shape = network.kernel_shape(node.name)
    order = (3, 2, 0, 1) if node.op == "conv" else (1, 0)
    theirs = [shape[axis] for axis in order]
    while theirs[0] == 1:
        theirs = theirs[1:]
    sizes = [theirs, list(node.shape[-1:])][: 1 + node.bias]
    if [list(blob.shape) for blob in layer.blobs] != sizes:
        told = [blob.shape for blob in layer.blobs]
        raise Damaged(f"its layer {layer.name} has the shapes {told}, {node.name} {sizes}")
    if node.op == "conv" and layer.convolution is not None:
        _check_convolution(layer, node, network)
    kernel = layer.blobs[0].reshape([shape[axis] for axis in order])
    back = (2, 3, 1, 0) if node.op == "conv" else (1, 0)
    found = {f"model/{node.name}/kernel": kernel.transpose(back)}
    if node.bias:
        found[f"model/{node.name}/bias"] = layer.blobs[1]
    return found


def _check_convolution(layer: Layer, node: graph.Node, network: graph.Graph) -> None:
    """Compares stride, padding, groups and dilation, which no shape tells."""

    def pair(both: int, height: int, width: int, default: int) -> tuple[int, int]:
        values = layer.convolution.get(both) or [default]
        get = layer.convolution.get
        return (get(height) or values)[0], (get(width) or values[-1:])[0]

    before = network[node.inputs[0]]
    extra = before.padding[0][0] if before.op == "pad" else 0
    sides = tuple(side[0] + extra for side in node.padding)
    told = (
        pair(6, 13, 14, 1),
        pair(3, 9, 10, 0),
        (layer.convolution.get(5) or [1])[0],
        set(layer.convolution.get(18) or [1]),
    )
    if told != ((node.strides, node.strides), sides, node.groups, {1}):
        raise Damaged(
            f"its layer {layer.name} strides, pads, groups and dilates by {told}, {node.name} does "
            "not"
        )


def _norm(norms: list[Layer], node: graph.Node) -> dict[str, np.ndarray]:
    """Returns batch norm's variables: of BatchNorm and Scale, or of Intel Caffe's merged layer."""
    kinds = [norm.kind for norm in norms]
    blobs = [blob.reshape(-1) for norm in norms for blob in norm.blobs]
    counts = [len(norm.blobs) for norm in norms]
    if (kinds, counts) == (["BatchNorm"], [5]):
        if blobs[2].size != 1:  # intel/caffe's batch_norm_layer.cpp before MKL's
            blobs = [blobs[place] for place in (2, 3, 4, 0, 1)]
    elif (kinds, counts) != (["BatchNorm", "Scale"], [3, 2]):
        raise Damaged(f"{node.name} is normalised by {kinds} with {counts} blobs")
    mean, variance, factor, gamma, beta = blobs  # mkl_batch_norm_layer.cpp
    if [x.size for x in blobs] != [node.shape[-1]] * 2 + [1] + [node.shape[-1]] * 2:
        raise Damaged(f"the batch norm of {node.name} has other sizes")
    # float32's 1e-5 is not ours to the last digit, and a variance may be 0.
    same = math.isclose(norms[0].epsilon, graph.EPSILON, rel_tol=1e-6)
    more = 0.0 if same else norms[0].epsilon - graph.EPSILON
    with np.errstate(all="ignore"):  # what is not finite is refused afterwards, by name
        scale = 1.0 / np.float64(factor[0]) if factor[0] else 0.0  # batch_norm_layer.cpp: 0 is 0
        parts = {
            "gamma": gamma,
            "beta": beta,
            "moving_mean": mean * scale,
            "moving_variance": variance * scale + more,
        }
    return {f"model/{node.norm}/{part}": array for part, array in parts.items()}
