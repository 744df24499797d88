"""Reads Caffe's `.caffemodel` files of the official SqueezeNets and SqueezeNexts.

They are of github.com/forresti/SqueezeNet, github.com/songhan/SqueezeNet-Residual and
github.com/amirgholami/SqueezeNext. Convolutions, batch norms and scales stand in the order of the
prototxt, which is that of our networks; types, shapes, strides, padding and groups must agree.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable

import numpy as np

from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.network import graph

MAX_LAYERS = 10_000  # of a file; SqueezeNext's have some 300
MAX_PARTS = 64  # blobs of a layer, pieces of a blob, numbers of a list
# V1LayerParameter.LayerType
_NAMES_OF_V1 = {4: "Convolution", 14: "InnerProduct", 18: "ReLU", 25: "Eltwise"}

# The fields of caffe.proto that are read, {message: {field: (number, kind)}}; a star means
# repeated. Messages inside messages are declared as bytes and parsed one by one, so that their
# number is checked before objects are made of them. Packed floats are bytes, which numpy reads.
_MESSAGES = {
    "NetParameter": {"layer": (100, "bytes*"), "layers": (2, "bytes*")},
    "LayerParameter": {
        "name": (1, "bytes"), "type": (2, "bytes"), "blobs": (7, "bytes*"),
        "convolution_param": (106, "bytes"), "batch_norm_param": (139, "bytes"),
    },
    "V1LayerParameter": {
        "name": (4, "bytes"), "type": (5, "uint64"), "blobs": (6, "bytes*"),
        "convolution_param": (10, "bytes"),
    },
    "BlobProto": {
        "num": (1, "uint64"), "channels": (2, "uint64"), "height": (3, "uint64"),
        "width": (4, "uint64"), "data": (5, "bytes*"), "double_data": (8, "bytes*"),
        "shape": (7, "bytes"),
    },
    "BlobShape": {"dim": (1, "uint64*")},
    "ConvolutionParameter": {
        "pad": (3, "uint64*"), "pad_h": (9, "uint64"), "pad_w": (10, "uint64"),
        "stride": (6, "uint64*"), "stride_h": (13, "uint64"), "stride_w": (14, "uint64"),
        "group": (5, "uint64"), "dilation": (18, "uint64*"),
    },
    "BatchNormParameter": {"eps": (3, "float")},
}  # fmt: skip


class _Damaged(Exception):
    """What is wrong with a file."""


@dataclasses.dataclass
class Layer:
    """The parts of a layer that are read.

    Attributes:
      name: the layer's name.
      kind: the layer's type, in the words of newer files.
      blobs: float arrays without leading dimensions of 1.
      convolution: its ConvolutionParameter message, or None.
      epsilon: BatchNormParameter.eps, also where a file says nothing of it.
    """

    name: str
    kind: str
    blobs: list[np.ndarray]
    convolution: object | None
    epsilon: float = graph.EPSILON


@functools.cache
def _classes() -> dict[str, type]:
    # Imported here, since prediction imports this module and installs without protobuf.
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, fields in _MESSAGES.items():
        declared = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            declared.field.add(
                name=name,
                number=number,
                type=getattr(kinds, f"TYPE_{kind.rstrip('*').upper()}"),
                label=kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {m: message_factory.GetMessageClass(find(f"caffe.{m}")) for m in _MESSAGES}


def _parse(message: str, data: bytes):
    """Returns the message of this name that the bytes hold.

    Raises:
      _Damaged: they are no such message, or it has so many parts that reading would take long.
    """
    from google.protobuf.message import DecodeError

    try:
        found = _classes()[message].FromString(data)
    except DecodeError as error:
        raise _Damaged(f"no {message} can be read") from error
    most = MAX_LAYERS if message == "NetParameter" else MAX_PARTS
    repeated = [name for name, (_, kind) in _MESSAGES[message].items() if kind.endswith("*")]
    if any(len(getattr(found, name)) > most for name in repeated):
        raise _Damaged("it has too many fields")
    return found


def _layer(message: str, data: bytes) -> Layer:
    found = _parse(message, data)
    layer = Layer(_text(found.name), "", [_blob(blob) for blob in found.blobs], None)
    if found.HasField("convolution_param"):
        layer.convolution = _parse("ConvolutionParameter", found.convolution_param)
    if message == "V1LayerParameter":
        layer.kind = _NAMES_OF_V1.get(found.type, f"number {found.type}")
        return layer
    layer.kind = _text(found.type)
    norm = _parse("BatchNormParameter", found.batch_norm_param)
    layer.epsilon = norm.eps if norm.HasField("eps") else graph.EPSILON
    return layer


def _blob(data: bytes) -> np.ndarray:
    """Returns a BlobProto as an array of its shape, without leading dimensions of 1."""
    blob = _parse("BlobProto", data)
    sides = ("num", "channels", "height", "width")
    shape = [getattr(blob, side) if blob.HasField(side) else 1 for side in sides]
    if blob.HasField("shape"):
        shape = list(_parse("BlobShape", blob.shape).dim)
    kind, parts = ("<f8", blob.double_data) if blob.double_data else ("<f4", blob.data)
    content = b"".join(parts)
    if len(content) % np.dtype(kind).itemsize:
        raise _Damaged("a blob is cut")
    array = np.frombuffer(content, kind)
    shape = _trimmed(shape)
    if len(shape) > 4 or math.prod(shape) != array.size:
        raise _Damaged(f"a blob of shape {tuple(shape[:5])} has {array.size} numbers")
    return array.reshape(shape)


def _trimmed(shape: Iterable[int]) -> list[int]:
    """Returns a shape without leading dimensions of 1."""
    return list(itertools.dropwhile(lambda side: side == 1, shape)) or [1]


def _text(value: bytes) -> str:
    return value[:100].decode("utf-8", "replace")


_WEIGHTED = ("Convolution", "InnerProduct", "BatchNorm", "Scale")


def decode(data: bytes, config: Config, source: str) -> dict[str, np.ndarray]:
    """Returns the variables in a file by "model/layer/variable".

    Moving statistics are divided by Caffe's scale factor.

    Raises:
      InputError: the file is damaged, or of another network.
    """
    try:
        net, network = _parse("NetParameter", data), graph.of(config)
        # Files from before 2015 have `layers`.
        layers = [_layer("V1LayerParameter", layer) for layer in net.layers]
        layers += [_layer("LayerParameter", layer) for layer in net.layer]
        found = _variables(_with_norms(layers), network)
        _check_activations(layers, network)
    except _Damaged as error:
        raise InputError(f"{source} is damaged or of another network: {error}.") from error
    return found


def _with_norms(layers: list[Layer]) -> list[tuple[Layer, list[Layer]]]:
    """Returns the layers with weights and the additions, each with its batch norm and scale."""
    found: list[tuple[Layer, list[Layer]]] = []
    for layer in layers:
        if layer.blobs and layer.kind not in _WEIGHTED:
            raise _Damaged(f"its layer {layer.name} of type {layer.kind} has weights")
        if layer.kind in ("BatchNorm", "Scale"):
            if not found:
                raise _Damaged(f"its layer {layer.name} normalises nothing")
            found[-1][1].append(layer)
        elif layer.blobs or layer.kind == "Eltwise":
            found.append((layer, []))
    if all(layer.blobs for layer in layers):  # stripped, so that additions would not be seen
        raise _Damaged("it says nothing of layers without weights")
    return found


_KINDS = {"conv": "Convolution", "dense": "InnerProduct", "add": "Eltwise"}


def _variables(
    layers: list[tuple[Layer, list[Layer]]], network: graph.Graph
) -> dict[str, np.ndarray]:
    expected = [_KINDS[node.op] for node in network.nodes if node.op in _KINDS]
    kinds = [layer.kind for layer, _ in layers]
    if sorted(kinds) != sorted(expected):
        told = ", ".join(f"{kinds.count(k)} {k} ({expected.count(k)})" for k in _KINDS.values())
        raise _Damaged(f"of each type it has, and the network should have: {told}")
    weighted = [(layer, norms) for layer, norms in layers if layer.kind != "Eltwise"]
    found = {}
    for (layer, norms), node in zip(weighted, network.weighted, strict=True):
        found |= _weights(layer, node, network)
        if node.norm:
            found |= _norm(norms, node)
        elif norms:
            raise _Damaged(f"its layer {norms[0].name} normalises {node.name}")
    return found


def _check_activations(layers: list[Layer], network: graph.Graph) -> None:
    """Compares the number of layers of each activation."""
    for kind in ("ReLU", "ELU"):
        told = sum(layer.kind == kind for layer in layers)
        wanted = sum(node.activation == kind.lower() for node in network.nodes)
        if told != wanted:
            raise _Damaged(f"it has {told} {kind} layers, the network should have {wanted}")


def _weights(layer: Layer, node: graph.Node, network: graph.Graph) -> dict[str, np.ndarray]:
    shape = network.kernel_shape(node.name)
    order = (3, 2, 0, 1) if node.op == "conv" else (1, 0)
    theirs = [shape[axis] for axis in order]
    sizes = [_trimmed(theirs), list(node.shape[-1:])][: 1 + node.bias]
    told = [list(blob.shape) for blob in layer.blobs]
    if told != sizes:
        raise _Damaged(f"its layer {layer.name} has the shapes {told}, {node.name} {sizes}")
    if node.op == "conv" and layer.convolution is not None:
        _check_convolution(layer, node, network)
    kernel = layer.blobs[0].reshape(theirs)
    back = (2, 3, 1, 0) if node.op == "conv" else (1, 0)
    found = {f"model/{node.name}/kernel": kernel.transpose(back)}
    if node.bias:
        found[f"model/{node.name}/bias"] = layer.blobs[1]
    return found


def _check_convolution(layer: Layer, node: graph.Node, network: graph.Graph) -> None:
    """Compares stride, padding, groups and dilation, which the shapes do not show."""
    told = layer.convolution

    def pair(both: str, default: int) -> tuple[int, int]:
        values = list(getattr(told, both)) or [default]
        sides = zip((f"{both}_h", f"{both}_w"), (values[0], values[-1]), strict=True)
        height, width = (getattr(told, x) if told.HasField(x) else value for x, value in sides)
        return height, width

    before = network[node.inputs[0]]
    extra = before.padding[0][0] if before.op == "pad" else 0
    sides = tuple(side[0] + extra for side in node.padding)
    groups = told.group if told.HasField("group") else 1
    found = (pair("stride", 1), pair("pad", 0), groups, set(told.dilation or [1]))
    if found != ((node.strides, node.strides), sides, node.groups, {1}):
        raise _Damaged(
            f"its layer {layer.name} strides, pads, groups and dilates by {found}, {node.name} "
            "does not"
        )


def _norm(norms: list[Layer], node: graph.Node) -> dict[str, np.ndarray]:
    """Returns batch norm's variables from BatchNorm and Scale, or Intel Caffe's merged layer."""
    kinds = [norm.kind for norm in norms]
    blobs = [blob.reshape(-1) for norm in norms for blob in norm.blobs]
    counts = [len(norm.blobs) for norm in norms]
    if (kinds, counts) == (["BatchNorm"], [5]):
        if blobs[2].size != 1:  # intel/caffe's batch_norm_layer.cpp before MKL's
            blobs = [blobs[place] for place in (2, 3, 4, 0, 1)]
    elif (kinds, counts) != (["BatchNorm", "Scale"], [3, 2]):
        raise _Damaged(f"{node.name} is normalised by {kinds} with {counts} blobs")
    mean, variance, factor, gamma, beta = blobs  # mkl_batch_norm_layer.cpp
    if [x.size for x in blobs] != [node.shape[-1]] * 2 + [1] + [node.shape[-1]] * 2:
        raise _Damaged(f"the batch norm of {node.name} has other sizes")
    # float32's 1e-5 is not ours to the last digit, and a variance may be 0.
    same = math.isclose(norms[0].epsilon, graph.EPSILON, rel_tol=1e-6)
    more = 0.0 if same else norms[0].epsilon - graph.EPSILON
    with np.errstate(all="ignore"):  # numbers that are not finite are refused later, by name
        scale = 1.0 / np.float64(factor[0]) if factor[0] else 0.0  # batch_norm_layer.cpp: 0 is 0
        parts = {
            "gamma": gamma,
            "beta": beta,
            "moving_mean": mean * scale,
            "moving_variance": variance * scale + more,
        }
    return {f"model/{node.norm}/{part}": array for part, array in parts.items()}
