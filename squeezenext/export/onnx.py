"""A trained network as an ONNX file, written node by node: float32, or int8 in QDQ form.

Input `images` [N, 3, size, size] float32, RGB, pixels in 0..255; outputs `probabilities` and
`logits` [N, classes], and `known` [N, 1] if the model has that. The `onnx` package is imported
where it is used: requirements-onnx.txt.
"""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from squeezenext.errors import needs
from squeezenext.export.format import Format, Request, Run
from squeezenext.export.litert import describe
from squeezenext.litert import int8
from squeezenext.litert.int8 import Int8, Scale
from squeezenext.litert.writer import quantize_kernel
from squeezenext.network import known, rgb
from squeezenext.network.graph import Graph, Node
from squeezenext.network.known import Known
from squeezenext.network.model import Model

OPSET = 17  # published in 2022; every runtime that is still maintained reads it


def onnx_file(model: Model, precision: str, calibration: Sequence[np.ndarray] = ()) -> bytes:
    """Returns the content of the file.

    Args:
      model: the network.
      precision: "float32" or "int8".
      calibration: [size, size, 3] uint8, RGB, for int8.

    Raises:
      InputError: `onnx` is not installed, or int8 is asked for without images.
    """
    onnx = _onnx()
    helper = onnx.helper
    network, weights = rgb.take_rgb(model.graph, model.weights, model.config.images)
    network = pads_merged(network)
    nodes, constants = [], {}
    for node in network.nodes[1:]:
        if node.op == "global_pool":
            nodes += _mean(helper, network[node.inputs[0]], node.name, weights, constants)
        else:
            nodes += _nodes(helper, node, weights, constants)
    if precision == "int8":
        numbers = int8.calibrated(network, weights, calibration)
        nodes = quantized(helper, nodes, constants, network, numbers)
    last = network.logits.name
    constants["temperature"] = np.float32(model.temperature).reshape(())
    nodes += [
        helper.make_node("Identity", [last], ["logits"]),
        helper.make_node("Div", [last, "temperature"], ["tempered"]),
        helper.make_node("Softmax", ["tempered"], ["probabilities"], axis=1),
    ]
    if model.known:
        nodes += _known(helper, network, model.known, constants)
    return _file(onnx, model, precision, network, nodes, constants)


def _known(helper, network: Graph, score: Known, constants: dict[str, np.ndarray]) -> list:
    """Returns the nodes of what network/known.py says, and adds its numbers to `constants`."""
    constants[f"{known.NAME}/kernel"] = score.kernel[:, np.newaxis]
    constants[f"{known.NAME}/bias"] = np.float32([score.bias])
    features, logits = known.with_node(network).nodes[-1].inputs
    unit, squares, greatest, inputs = (f"{known.NAME}_{x}" for x in ("unit", "sq", "max", "all"))
    return [
        helper.make_node("GlobalAveragePool", [features], [f"{unit}_map"]),
        helper.make_node("Flatten", [f"{unit}_map"], [f"{unit}_mean"]),
        helper.make_node("LpNormalization", [f"{unit}_mean"], [unit], axis=1, p=2),
        helper.make_node("Mul", [unit, unit], [squares]),
        helper.make_node("ReduceMax", [logits], [greatest], axes=[1], keepdims=1),
        helper.make_node("Concat", [unit, squares, greatest], [inputs], axis=1),
        helper.make_node(
            "Gemm", [inputs, f"{known.NAME}/kernel", f"{known.NAME}/bias"], [f"{inputs}_sum"]
        ),
        helper.make_node("Sigmoid", [f"{inputs}_sum"], [known.NAME]),
    ]


def pads_merged(graph: Graph) -> Graph:
    """Returns a graph with padding in its convolutions: ncnn and pnnx have no node for it."""
    pads = {node.name: node for node in graph.nodes if node.op == "pad"}
    nodes = []
    for node in graph.nodes:
        if node.inputs and node.inputs[0] in pads:
            before = pads[node.inputs[0]]
            if node.op != "conv":
                raise ValueError(f"{node} cannot pad for itself.")
            (top, bottom), (left, right) = (
                (a + c, b + d) for (a, b), (c, d) in zip(node.padding, before.padding, strict=True)
            )
            padding = ((top, bottom), (left, right))
            node = dataclasses.replace(node, inputs=before.inputs, padding=padding)
        if node.op != "pad":
            nodes.append(node)
    return Graph(tuple(nodes))


def _onnx():
    with needs("onnx"):
        import onnx
        import onnxruntime  # noqa: F401  (checks the file)
    return onnx


def _file(onnx, model: Model, precision: str, network: Graph, nodes, constants) -> bytes:
    helper, kind, size = onnx.helper, onnx.TensorProto.FLOAT, model.config.images.size
    widths = dict.fromkeys(("probabilities", "logits"), len(model.labels))
    widths |= {known.NAME: 1} if model.known else {}
    body = helper.make_graph(
        nodes,
        model.name,
        [helper.make_tensor_value_info(network.nodes[0].name, kind, ["N", 3, size, size])],
        [helper.make_tensor_value_info(n, kind, ["N", width]) for n, width in widths.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="squeezenext",
    )
    helper.set_model_props(made, {"squeezenext": describe(model, precision)})
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def _nodes(helper, node: Node, weights, constants: dict[str, np.ndarray]) -> list:
    """Returns the ONNX nodes of a graph node, and adds its weights to `constants`."""
    names, out = list(node.inputs), node.name
    (top, bottom), (left, right) = node.padding
    window = {
        "kernel_shape": node.kernel,
        "strides": [node.strides] * 2,
        "pads": [top, left, bottom, right],
    }
    if node.op == "conv":
        if _pads_points(node):
            del window["pads"]
        constants[f"{out}/kernel"] = weights[f"{out}/kernel"].transpose(3, 2, 0, 1).copy()
        constants[f"{out}/bias"] = weights[f"{out}/bias"]
        names += [f"{out}/kernel", f"{out}/bias"]
        return _activated(helper, node, "Conv", names, group=node.groups, **window)
    if node.op == "max_pool":
        return [helper.make_node("MaxPool", names, [out], **window)]
    if node.op == "concat":
        return [helper.make_node("Concat", names, [out], axis=1)]
    if node.op == "add":
        return _activated(helper, node, "Add", names)
    constants[f"{out}/kernel"] = weights[f"{out}/kernel"]
    if not node.bias:
        return [helper.make_node("MatMul", [*names, f"{out}/kernel"], [out])]
    constants[f"{out}/bias"] = weights[f"{out}/bias"]
    return [helper.make_node("Gemm", [*names, f"{out}/kernel", f"{out}/bias"], [out])]


def _pads_points(node: Node) -> bool:
    """Returns whether a node is a padded 1x1 convolution, SqueezeNet 1.0's classifier.

    OpenCV 5.0 reads memory outside of its buffers for such a node, so `_mean` counts its padding.
    """
    return node.op == "conv" and node.kernel == (1, 1) and any(map(any, node.padding))


def _mean(helper, before: Node, name: str, weights, constants: dict[str, np.ndarray]) -> list:
    """Returns the nodes of the mean over the positions of `before`."""
    mean = helper.make_node("GlobalAveragePool", [before.name], [f"{name}_map"])
    if not _pads_points(before):
        return [mean, helper.make_node("Flatten", [f"{name}_map"], [name])]
    sides = zip(before.shape[:2], before.padding, strict=True)
    share = np.float32(np.prod([1 - sum(pad) / side for side, pad in sides]))
    bias = weights[f"{before.name}/bias"]  # all that the padding gives
    below = {"linear": bias, "relu": 0, "elu": np.expm1(bias)}[before.activation]
    constants[f"{name}/share"] = share.reshape(())
    constants[f"{name}/rest"] = (1 - share) * np.where(bias > 0, bias, below).astype(np.float32)
    return [
        mean,
        helper.make_node("Flatten", [f"{name}_map"], [f"{name}_inside"]),
        helper.make_node("Mul", [f"{name}_inside", f"{name}/share"], [f"{name}_part"]),
        helper.make_node("Add", [f"{name}_part", f"{name}/rest"], [name]),
    ]


def _activated(helper, node: Node, kind: str, inputs: list[str], **attributes) -> list:
    if node.activation == "linear":
        return [helper.make_node(kind, inputs, [node.name], **attributes)]
    before = f"{node.name}_linear"
    activation = {"relu": "Relu", "elu": "Elu"}[node.activation]
    return [
        helper.make_node(kind, inputs, [before], **attributes),
        helper.make_node(activation, [before], [node.name]),
    ]


def runner(content: bytes, threads: int = 1) -> Run:
    """Returns a function that runs the content of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])

    def run(image: np.ndarray) -> np.ndarray:
        images = image.transpose(2, 0, 1)[np.newaxis].astype(np.float32)
        return session.run(["probabilities"], {"images": images})[0][0]

    return run


def _write(request: Request, path: Path) -> list[tuple[str, Run]]:
    path.write_bytes(onnx_file(request.model, request.precision, request.images))
    return [(request.precision, runner(path.read_bytes()))]


FORMAT = Format(
    name="onnx",
    precisions=("float32", "int8"),
    write=_write,
    calibrated=("int8",),
    ending=".onnx",
    mark="squeezenext",
)


# int8: QuantizeLinear and DequantizeLinear around each operator, from which a runtime makes integer
# operators. The numbers are those of the LiteRT file (litert/int8.py): ranges from real images, a
# scale per output channel, biases that undo the mean shift of rounding.
#
# Kernels are stored as uint8 around 128. For uint8 activations and int8 kernels, processors without
# VNNI add pairs of products in 16 bits, which saturate: 2 x 255 x 127 is twice what these hold. For
# uint8 and uint8, runtimes use another instruction, slower and exact. On Haswell SqueezeNet 1.0
# named 57 of 100 images right with the former; with the latter 64, as in float32 (docs/export.md).
_FLOAT = ("global_pool", "dense")  # operators whose outputs stay float32


def quantized(
    helper, nodes: Sequence, constants: dict[str, np.ndarray], network: Graph, numbers: Int8
) -> list:
    """Inserts integers between the nodes of an ONNX graph, and returns all nodes.

    Args:
      helper: `onnx.helper`.
      nodes: the float32 graph's nodes, in order; changed.
      constants: the nodes' weights by name; changed.
      network: the graph that the nodes were made of.
      numbers: scales of its activations and weights.
    """
    made = []
    for node in network.weighted:
        kernel, bias = f"{node.name}/kernel", f"{node.name}/bias"
        values = constants.pop(kernel)
        if node.op == "dense":  # its bias stays float32
            made.append(_integers(helper, constants, kernel, *quantize_kernel(values, 1), axis=1))
            continue
        values = values.transpose(0, 2, 3, 1)
        (values, scale), sums = numbers.integers(values, constants.pop(bias), node.inputs[0])
        values = values.transpose(0, 3, 1, 2)
        made.append(_integers(helper, constants, kernel, values, scale))
        made.append(_integers(helper, constants, bias, *sums))
    source = network.nodes[0].name
    made += _rounded(helper, constants, source, f"{source}_stored", numbers.scales[source])
    rounded = numbers.scales.keys() - {x.name for x in network.nodes if x.op in _FLOAT}
    reads: collections.Counter[str] = collections.Counter()
    for node in nodes:
        node.input[:] = [f"{source}_stored" if x == source else x for x in node.input]
        for place, name in enumerate(node.input):
            # Each reader has a DequantizeLinear of its own, else OpenCV 5.0 fails on SqueezeNext.
            if name in rounded and reads[name]:
                node.input[place] = f"{name}_read{reads[name]}"
                made.append(_real(helper, name, node.input[place]))
            reads[name] += 1
        (name,) = node.output
        made.append(node)
        if name in rounded:
            node.output[:] = [f"{name}_real"]
            made += _rounded(helper, constants, f"{name}_real", name, numbers.scales[name])
    return made


def _integers(helper, constants, name: str, values: np.ndarray, scale: np.ndarray, axis: int = 0):
    """Adds integers, with a scale per entry of `axis`, and returns the node that makes floats."""
    zero = np.zeros(len(scale), values.dtype)
    if values.dtype == np.int8:
        values, zero = ((x.astype(np.int16) + 128).astype(np.uint8) for x in (values, zero))
    stored = {
        f"{name}_integers": np.ascontiguousarray(values),
        f"{name}_scale": scale.astype(np.float32),
        f"{name}_zero": zero,
    }
    constants.update(stored)
    return helper.make_node("DequantizeLinear", list(stored), [name], axis=axis)


def _rounded(helper, constants, source: str, name: str, scale: Scale) -> list:
    """Returns the nodes that round `source` to uint8 and give the result the name `name`."""
    names = [f"{name}_scale", f"{name}_zero"]
    constants[names[0]] = np.array(np.float32(scale.scale))
    constants[names[1]] = np.array(np.uint8(scale.zero + 128))
    return [
        helper.make_node("QuantizeLinear", [source, *names], [f"{name}_integers"]),
        _real(helper, name, name),
    ]


def _real(helper, name: str, target: str):
    """Returns the node that dequantizes an activation to floats with the name `target`."""
    stored = [f"{name}_{part}" for part in ("integers", "scale", "zero")]
    return helper.make_node("DequantizeLinear", stored, [target])
