"""Reads the weights of ONNX files, in which batch norm may be folded and weights may be int8.

Convolutions and matrix products stand in the order of computation, which is that of our networks;
shapes, strides, groups and the number of additions must agree. Reading needs the package onnx
(requirements-onnx.txt). Weights outside the file are refused.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.formats import variables
from squeezenext.network import graph

MAX_NODES = 20_000  # of a file; SqueezeNext's have some 400, with int8 some 1,500
MAX_UNPACKED = 512 << 20  # bytes of all arrays
_FLOATS = {1: "<f4", 10: "<f2", 11: "<f8"}  # TensorProto.DataType
_INTEGERS = {2: "u1", 3: "i1", 6: "<i4", 7: "<i8"}


def decode(data: bytes, config: Config, source: str) -> dict[str, np.ndarray]:
    """Returns the variables in a file by "model/layer/variable"; batch norm only adds the bias.

    Raises:
      InputError: the file is damaged or of another network, or onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise InputError(
            "ONNX files are read with onnx: pip install -r requirements-onnx.txt."
        ) from error
    from google.protobuf.message import DecodeError

    try:
        content = onnx.load_model_from_string(data).graph
        if len(content.node) > MAX_NODES or len(content.initializer) > MAX_NODES:
            raise ValueError("it has too many nodes")
        with np.errstate(all="ignore"):  # what is not finite is refused later
            weights = _weights(content, graph.of(config))
    except (DecodeError, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise InputError(f"{source} is damaged or of another network: {error}.") from error
    found = variables.unfold(config, weights)
    return {name: found[name] for name in variables.shapes(config)}


def _weights(found: Any, network: graph.Graph) -> dict[str, np.ndarray]:
    constants = _constants(found)
    adds = sum(
        node.op_type == "Add" and not set(node.input) & constants.keys() for node in found.node
    )
    wanted = sum(node.op == "add" for node in network.nodes)
    if adds != wanted:
        raise ValueError(f"it adds {adds} times, the network {wanted} times")
    layers = [
        (node, *_layer(node, constants, found))
        for node in found.node
        if node.op_type in ("Conv", "Gemm")
    ]
    if len(layers) != len(network.weighted):
        raise ValueError(f"it has {len(layers)} layers, the network {len(network.weighted)}")
    weights = {}
    for (theirs, kernel, bias), node in zip(layers, network.weighted, strict=True):
        shape = network.kernel_shape(node.name)
        _check(theirs, kernel, node, shape)
        if bias.any() and not (node.bias or node.norm):
            raise ValueError(f"{theirs.name[:99]} has a bias, {node.name} has none")
        weights[f"{node.name}/kernel"] = kernel.reshape(shape)
        weights[f"{node.name}/bias"] = bias
    return weights


def _check(theirs: Any, kernel: np.ndarray, node: graph.Node, shape: tuple[int, ...]) -> None:
    dense = kernel.ndim == 2 and shape[:-2] in ((), (1, 1)) and kernel.shape == shape[-2:]
    if kernel.shape != shape and not dense:
        raise ValueError(f"{theirs.name[:99]} has shape {kernel.shape}, {node.name} {shape}")
    options = {x.name: list(x.ints) or x.i for x in theirs.attribute}
    told = options.get("strides", [1, 1]), options.get("group", 1), options.get("dilations", [1, 1])
    if theirs.op_type == "Conv" and told != ([node.strides] * 2, node.groups, [1, 1]):
        raise ValueError(f"{theirs.name[:99]} strides, groups and dilates by {told}")


def _layer(node: Any, constants: Mapping[str, np.ndarray], found: Any) -> tuple:
    """Returns kernel and bias of a layer as float32, with the batch norm after it folded in."""
    kernel = constants[node.input[1]].astype(np.float32)
    bias = constants[node.input[2]] if len(node.input) > 2 else np.zeros(1)
    if node.op_type == "Conv":
        if kernel.ndim != 4:
            raise ValueError(f"{node.name[:99]} has a kernel of {kernel.ndim} dimensions")
        kernel = kernel.transpose(2, 3, 1, 0)
    elif any(x.name == "transB" and x.i for x in node.attribute):
        kernel = kernel.T
    bias = np.broadcast_to(bias.astype(np.float32), kernel.shape[-1:])
    for norm in found.node:
        if norm.op_type == "BatchNormalization" and norm.input[0] == node.output[0]:
            gamma, beta, mean, variance = (constants[name] for name in norm.input[1:5])
            epsilon = next((x.f for x in norm.attribute if x.name == "epsilon"), 1e-5)
            factor = gamma / np.sqrt(variance + epsilon)
            return kernel * factor, (bias - mean) * factor + beta
    return kernel, bias


def _constants(found: Any) -> dict[str, np.ndarray]:
    """Returns the arrays in a file by name, int8 weights in their own unit and under new names."""
    constants, total = {}, 0
    for tensor in found.initializer:
        array = _array(tensor)
        constants[tensor.name] = array
        total += array.nbytes
        if total > MAX_UNPACKED:
            raise ValueError("it unpacks to more than any network of this family has")
    for node in found.node:
        inputs = [constants.get(name) for name in node.input]
        if node.op_type == "Identity" and inputs[0] is not None:
            constants[node.output[0]] = inputs[0]
        elif node.op_type == "DequantizeLinear" and inputs[0] is not None:
            if any(array is None for array in inputs):
                raise ValueError(f"{node.name[:99]} has a scale that is no constant")
            axis = next((x.i for x in node.attribute if x.name == "axis"), 1)
            constants[node.output[0]] = _dequantized(axis, *inputs)
    return constants


def _dequantized(
    axis: int, array: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None
) -> np.ndarray:
    """Returns (array - zero) * scale, both of one number or of one for each place of an axis."""
    sides = [1] * array.ndim
    if scale.size > 1:
        if scale.size != array.shape[axis]:  # broadcast, two small arrays would make a huge one
            raise ValueError(f"it has {scale.size} scales for {array.shape[axis]} places")
        sides[axis] = scale.size
    shift = 0 if zero is None else zero.reshape(sides).astype(np.float32)
    return (array.astype(np.float32) - shift) * scale.reshape(sides).astype(np.float32)


def _array(tensor: Any) -> np.ndarray:
    if tensor.data_location or tensor.data_type not in {**_FLOATS, **_INTEGERS}:
        raise ValueError(f"{tensor.name[:99]} lies in another file, or holds no numbers")
    kind = {**_FLOATS, **_INTEGERS}[tensor.data_type]
    shape = tuple(tensor.dims)
    if tensor.raw_data:
        array = np.frombuffer(tensor.raw_data, kind)
    else:
        fields = {"<f4": "float_data", "<f8": "double_data", "<i8": "int64_data"}
        array = np.array(getattr(tensor, fields.get(kind, "int32_data"))).astype(kind)
    if any(side < 0 for side in shape) or math.prod(shape) != array.size:
        raise ValueError(f"{tensor.name[:99]} of shape {shape} has {array.size} numbers")
    return array.reshape(shape)
