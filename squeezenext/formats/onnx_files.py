"""Reads the weights of ONNX files, in which batch norm may be folded and weights may be int8.

Conv and Gemm stand in the order of computation, which is that of our networks; shapes, strides,
groups and the number of additions must agree, and nothing else may compute with weights. Reading
needs the package onnx (requirements-onnx.txt). Weights outside the file are refused.
"""

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from squeezenext.config import Config
from squeezenext.errors import InputError, needs
from squeezenext.formats import variables
from squeezenext.network import graph

MAX_NODES = 20_000  # of a file; SqueezeNext's have some 400, with int8 some 1,500
MAX_EDGES = 99  # inputs, outputs or attributes of a node; SqueezeNext's have 5 or so
_FLOATS = {1: "<f4", 10: "<f2", 11: "<f8"}  # TensorProto.DataType
_INTEGERS = {2: "u1", 3: "i1", 6: "<i4", 7: "<i8"}
_PERMITTED = frozenset(
    "Add AveragePool BatchNormalization Cast Concat Constant Conv DequantizeLinear Dropout Elu "
    "Flatten Gather Gemm GlobalAveragePool Identity LogSoftmax MaxPool Pad QuantizeLinear "
    "ReduceMean Relu Reshape Shape Slice Softmax Squeeze Transpose Unsqueeze".split()
)


def decode(data: bytes, config: Config, source: str) -> dict[str, np.ndarray]:
    """Returns the variables in a file by "model/layer/variable"; batch norm only adds the bias.

    Raises:
      InputError: the file is damaged or of another network, or onnx is not installed.
    """
    with needs("onnx"):
        import onnx
    from google.protobuf.message import DecodeError

    damages = (DecodeError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError)
    try:
        content = onnx.load_model_from_string(data).graph
        if len(content.node) > MAX_NODES or len(content.initializer) > MAX_NODES:
            raise ValueError("it has too many nodes")
        if any(
            max(len(x.input), len(x.output), len(x.attribute)) > MAX_EDGES for x in content.node
        ):
            raise ValueError("a node has too many inputs, outputs or attributes")
        with np.errstate(all="ignore"):  # what is not finite is refused later
            weights = _weights(content, graph.of(config))
    except damages as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{source} is damaged or of another network: {reason}.") from error
    found = variables.unfold(config, weights)
    return {name: found[name] for name in variables.shapes(config)}


def _weights(found: Any, network: graph.Graph) -> dict[str, np.ndarray]:
    layers = [node for node in found.node if node.op_type in ("Conv", "Gemm")]
    if len(layers) != len(network.weighted):
        raise ValueError(f"it has {len(layers)} layers, the network {len(network.weighted)}")
    _check_operations(found, sum(node.op == "add" for node in network.nodes))
    norms = _norms(found, {node.output[0] for node in layers})
    constants, weights = _constants(found), {}
    for theirs, node in zip(layers, network.weighted, strict=True):
        _check(theirs, node)
        kernel, bias = _layer(theirs, constants, network.kernel_shape(node.name))
        if theirs.output[0] in norms:
            kernel, bias = _folded(kernel, bias, norms[theirs.output[0]], constants)
        if bias.any() and not (node.bias or node.norm):
            raise ValueError(f"{theirs.name[:99]} has a bias, {node.name} has none")
        weights |= {f"{node.name}/kernel": kernel, f"{node.name}/bias": bias}
    return weights


def _check_operations(found: Any, wanted: int) -> None:
    """Refuses what would change a layer's weights outside of it, as Mul by a constant does."""
    if strange := {node.op_type for node in found.node} - _PERMITTED:
        raise ValueError(f"it computes {min(strange)[:40]}, which no network of this family does")
    constants = {tensor.name for tensor in found.initializer}
    adds = 0
    for node in found.node:
        if constants.issuperset(node.input):  # a Constant has no input
            constants.update(node.output)
        elif node.op_type == "Add":
            adds += 1
            if not constants.isdisjoint(node.input):
                raise ValueError(f"{node.name[:99]} adds a constant outside of a layer")
    if adds != wanted:
        raise ValueError(f"it adds {adds} times, the network {wanted} times")


def _norms(found: Any, outputs: Collection[str]) -> dict[str, Any]:
    """Returns the nodes of batch norm by the output of the layer that each follows."""
    nodes = [node for node in found.node if node.op_type == "BatchNormalization"]
    norms = {node.input[0]: node for node in nodes if node.input[0] in outputs}
    if len(norms) != len(nodes):
        raise ValueError(f"{len(norms)} of its {len(nodes)} batch norms follow a layer directly")
    return norms


def _check(theirs: Any, node: graph.Node) -> None:
    options = {x.name: list(x.ints[:9]) or x.i for x in theirs.attribute}
    told = options.get("strides", [1, 1]), options.get("group", 1), options.get("dilations", [1, 1])
    if theirs.op_type == "Conv" and told != ([node.strides] * 2, node.groups, [1, 1]):
        raise ValueError(f"{theirs.name[:99]} strides, groups and dilates by {told}")
    if any(x.name in ("alpha", "beta") and x.f != 1 for x in theirs.attribute):
        raise ValueError(f"{theirs.name[:99]} multiplies its weights")


# A tensor; or numbers, their scale and zero, and the axis along which scale and zero differ.
Constant = tuple[list[Any], int]


def _layer(
    node: Any, constants: dict[str, Constant], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias of a layer as float32, of the shape that the network has."""
    *window, inside, out = shape
    transposed = any(x.name == "transB" and x.i for x in node.attribute)
    if node.op_type == "Conv":
        kernel = _numbers(constants[node.input[1]], [(out, inside, *window)])
        kernel = kernel.transpose(2, 3, 1, 0)
    elif window not in ([], [1, 1]):
        raise ValueError(f"{node.name[:99]} is a Gemm, the network's layer a convolution")
    elif transposed:
        kernel = _numbers(constants[node.input[1]], [(out, inside)]).T
    else:
        kernel = _numbers(constants[node.input[1]], [(inside, out)])
    bias = np.zeros(1, np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = _numbers(constants[node.input[2]], [(out,), (1,), ()])
    return kernel.reshape(shape), np.broadcast_to(bias, (out,))


def _folded(
    kernel: np.ndarray, bias: np.ndarray, norm: Any, constants: dict[str, Constant]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias of a layer with the batch norm after it."""
    parts = [_numbers(constants[name], [bias.shape]) for name in norm.input[1:5]]
    gamma, beta, mean, variance = parts
    epsilon = next((x.f for x in norm.attribute if x.name == "epsilon"), 1e-5)
    factor = gamma / np.sqrt(variance + epsilon)
    return kernel * factor, (bias - mean) * factor + beta


def _constants(found: Any) -> dict[str, Constant]:
    """Returns the constants by name; no array is made before its shape is known to be right."""
    constants: dict[str, Constant] = {x.name: ([x], 0) for x in found.initializer}
    for node in found.node:
        if node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            parts = [constants.get(name, ([], 0))[0] for name in node.input]
            if any(len(part) != 1 for part in parts):
                raise ValueError(f"{node.name[:99]} has a scale that is no constant")
            axis = next((x.i for x in node.attribute if x.name == "axis"), 1)
            constants[node.output[0]] = [part[0] for part in parts], axis
    return constants


def _numbers(constant: Constant, shapes: Collection[tuple[int, ...]]) -> np.ndarray:
    """Returns a constant of one of some shapes as float32: (numbers - zero) * scale of int8."""
    (tensor, *others), axis = constant
    axis = axis if len(tensor.dims) > 1 else 0
    array = _array(tensor, shapes).astype(np.float32)
    if not others:
        return array
    sizes = {(), (1,), (array.shape[axis],)}
    scale, *zero = (_array(x, sizes).astype(np.float32) for x in others)
    array = np.moveaxis(array, axis, -1)  # where numpy broadcasts
    array = (array - sum(zero)) * scale
    return np.moveaxis(array, -1, axis)


def _array(tensor: Any, shapes: Collection[tuple[int, ...]]) -> np.ndarray:
    if tensor.data_location or tensor.data_type not in {**_FLOATS, **_INTEGERS}:
        raise ValueError(f"{tensor.name[:99]} lies in another file, or holds no numbers")
    shape = tuple(tensor.dims[:6])
    if len(tensor.dims) > 5 or shape not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"{tensor.name[:99]} has shape {shape}, not {wanted}")
    kind = {**_FLOATS, **_INTEGERS}[tensor.data_type]
    fields = {"<f4": "float_data", "<f8": "double_data", "<i8": "int64_data"}
    typed = getattr(tensor, fields.get(kind, "int32_data"))
    size = len(tensor.raw_data) // np.dtype(kind).itemsize if tensor.raw_data else len(typed)
    if math.prod(shape) != size:
        raise ValueError(f"{tensor.name[:99]} of shape {shape} has {size} numbers")
    if tensor.raw_data:
        return np.frombuffer(tensor.raw_data, kind).reshape(shape)
    if kind == "<f2":  # its bits, as whole numbers
        return np.array(typed).astype("<u2").view(kind).reshape(shape)
    return np.array(typed).astype(kind).reshape(shape)
