"""Writes weights as other programs do, by the formats' descriptions alone. No TensorFlow.

For networks of a few hundred weights, so that ten thousand damaged files are read in a minute.
"""

import dataclasses
import struct

import numpy as np

from squeezenext.config import Config
from squeezenext.config.images import Images
from squeezenext.config.network import Fire, SqueezeNet, SqueezeNext, Stage
from squeezenext.formats import variables
from squeezenext.network import graph

IMAGES = Images(size=32, resize=32)
SQUEEZENET = Config(
    model=SqueezeNet(
        stem_filters=8,
        stem_kernel=3,
        fires=(Fire(2, 4, 4), Fire(2, 4, 4)),
        pool_after=(2,),
        bypass="none",
        head_padding=1,
        activation="relu",
        initializer="caffe_xavier",
        dropout=0.5,
        classes=3,
    ),
    images=IMAGES,
)
SQUEEZENEXT = Config(
    model=SqueezeNext(
        stem_filters=8,
        stem_kernel=3,
        stages=(Stage(8, 2, 1), Stage(8, 1, 2)),
        groups=2,
        bottleneck_input="unit",
        relu_before_add=True,
        head_filters=8,
        classes=3,
    ),
    images=IMAGES,
)
BYPASS = dataclasses.replace(
    SQUEEZENET, model=dataclasses.replace(SQUEEZENET.model, bypass="simple")
)
VERSION_5 = dataclasses.replace(
    SQUEEZENEXT, model=dataclasses.replace(SQUEEZENEXT.model, bottleneck_input="shortcut")
)


def trained(config: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Random variables, rounded to float16 so that every format holds them exactly."""
    rng, found = np.random.default_rng(seed), {}
    for name, shape in variables.shapes(config).items():
        array = rng.normal(size=shape)
        array = 0.5 + np.abs(array) if name.endswith(("variance", "gamma")) else array
        found[name] = array.astype(np.float16).astype(np.float32)
    return found


def net(values):
    """Encodes arrays as a .net file, by the description alone."""
    parts, counts = [], []
    for array, biases in values:
        flat = array.reshape(-1)
        book = np.zeros(256, "<f4")
        book[1 : 1 + len(np.unique(flat[flat != 0]))] = np.unique(flat[flat != 0])
        codes, gaps, last = [], [], -1
        for place in np.flatnonzero(flat):
            while place - last > 16:
                last += 16
                codes.append(0)
                gaps.append(15)
            gaps.append(place - last - 1)
            codes.append(int(np.flatnonzero(book == flat[place])[0]))
            last = place
        counts.append(len(codes))
        gaps += [0] * (len(gaps) % 2)
        packed = bytes(low | high << 4 for low, high in zip(gaps[::2], gaps[1::2], strict=True))
        parts.append(book.tobytes() + biases.astype("<f4").tobytes() + bytes(codes) + packed)
    return np.array(counts, "<u4").tobytes() + b"".join(parts)


def net_of(config: Config, arrays: dict[str, np.ndarray]) -> bytes:
    """A .net file of SqueezeNet; arrays of few different values, as after sharing."""
    layers = [node.name for node in graph.of(config).weighted]
    kernels = [np.round(arrays[f"model/{name}/kernel"]) for name in layers]
    biases = [arrays[f"model/{name}/bias"] for name in layers]
    pairs = zip(kernels, biases, strict=True)
    return net([(kernel.transpose(3, 2, 0, 1), bias) for kernel, bias in pairs])


def ncnn_of(
    config: Config, arrays: dict[str, np.ndarray], half: bool = True, fused: bool = True
) -> tuple[bytes, bytes]:
    """The .param and .bin of SqueezeNet without bypass, ReLUs fused or not."""
    network, lines, content, blobs = graph.of(config), [], b"", 0
    uses = {}
    names = {}  # the blob that holds a node's output
    for node in network.nodes:
        for name in node.inputs:
            uses[name] = uses.get(name, 0) + 1
    for node in network.nodes:
        inputs = [names[name].pop(0) for name in node.inputs]
        extra = ""
        if node.op == "pad":
            names[node.name] = inputs
            continue
        kind = {"input": "Input", "conv": "Convolution", "max_pool": "Pooling",
                "concat": "Concat", "global_pool": "Pooling"}[node.op]  # fmt: skip
        if node.op == "input":
            extra = " 0={1} 1={0} 2=3".format(*node.shape)
        elif node.op == "max_pool":
            extra = " 0=0 1=3 2=2"
        elif node.op == "global_pool":
            extra = " 0=1 4=1"
        elif node.op == "conv":
            kernel = arrays[f"model/{node.name}/kernel"]
            pad = node.padding[0][0] + (config.model.head_padding if node.name == "conv10" else 0)
            extra = (
                f" 0={kernel.shape[3]} 1={kernel.shape[1]} 3={node.strides} 4={pad} 5=1"
                f" 6={kernel.size}" + " 9=1" * fused
            )
            flat = kernel.transpose(3, 2, 0, 1).astype("<f2" if half else "<f4").tobytes()
            tag = struct.pack("<I", 0x01306B47 if half else 0)
            content += tag + flat + b"\0" * (-len(flat) % 4)
            content += arrays[f"model/{node.name}/bias"].astype("<f4").tobytes()
        blob = node.name
        lines.append(f"{kind} {node.name} {len(inputs)} 1 {' '.join([*inputs, blob])}{extra}")
        blobs += 1
        if node.op == "conv" and not fused:
            lines.append(f"ReLU {blob}_relu 1 1 {blob} {blob}_relu")
            blob, blobs = f"{blob}_relu", blobs + 1
        names[node.name] = [blob]
        if uses.get(node.name, 0) > 1:
            made = [f"{blob}_{number}" for number in range(uses[node.name])]
            lines.append(f"Split {blob}_split 1 {len(made)} {blob} {' '.join(made)}")
            names[node.name], blobs = made, blobs + len(made)
    lines.append("Softmax prob 1 1 global_pool prob 0=0")
    text = "\n".join(["7767517", f"{len(lines)} {blobs + 1}", *lines, ""])
    return text.encode(), content


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | float | bytes | str) -> bytes:
    """A field of a protobuf message: varint, float or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(array: np.ndarray, kind: str = "") -> bytes:
    """A BlobProto; `kind`: "legacy" for four dimensions, "double" for doubles."""
    if kind == "legacy":
        shape = (1, 1, 1, 1, *array.shape)[-4:]
        head = b"".join(field(place, side) for place, side in enumerate(shape, start=1))
    else:
        head = field(7, field(1, b"".join(map(varint, array.shape))))
    if kind == "double":
        return head + field(8, array.astype("<f8").tobytes())
    return head + field(5, array.astype("<f4").tobytes())


def caffe_layer(name: str, kind: str, blobs=(), extra: bytes = b"", first: bool = False) -> bytes:
    """A layer of a NetParameter; `first`: of the files before 2015."""
    if first:
        kinds = {"Convolution": 4, "ReLU": 18, "Eltwise": 25, "Data": 5}
        body = field(4, name) + field(5, kinds[kind])
        return field(2, body + b"".join(field(6, one) for one in blobs) + extra)
    body = field(1, name) + field(2, kind)
    return field(100, body + b"".join(field(7, one) for one in blobs) + extra)


def caffemodel_of(
    config: Config, arrays: dict[str, np.ndarray], style: str = "", factor: float = 999.0
) -> bytes:
    """A .caffemodel; `style`: "legacy", "double", "merged" or "merged_before_mkl"."""
    network = graph.of(config)
    first = style == "legacy"
    out = field(1, "twin") + caffe_layer("data", "Data", first=first)
    for node in network.nodes:
        if node.op == "add":
            out += caffe_layer(node.name, "Eltwise", first=first)
            if node.activation == "relu":
                out += caffe_layer(f"{node.name}_relu", "ReLU", first=first)
        if node.op == "dense":
            out += caffe_layer(
                node.name, "InnerProduct", [blob(arrays[f"model/{node.name}/kernel"].T)]
            )
        if node.op != "conv":
            continue
        before = network[node.inputs[0]]
        more = before.padding[0][0] if before.op == "pad" else 0
        pads = [side[0] + more for side in node.padding]
        options = field(5, node.groups) + field(9, pads[0]) + field(10, pads[1])
        options += field(13, node.strides) + field(14, node.strides)
        blobs = [blob(arrays[f"model/{node.name}/kernel"].transpose(3, 2, 0, 1), style)]
        if node.bias:
            blobs.append(blob(arrays[f"model/{node.name}/bias"], style))
        extra = field(10 if first else 106, options)
        out += caffe_layer(node.name, "Convolution", blobs, extra, first)
        if node.norm:
            out += _norm(node.norm, arrays, style, factor)
        if node.activation == "relu":
            out += caffe_layer(f"{node.name}_relu", "ReLU", first=first)
    return out


def _norm(name: str, arrays: dict[str, np.ndarray], style: str, factor: float) -> bytes:
    get = {part: arrays[f"model/{name}/{part}"] for part in variables.NORM}
    scale = [get["gamma"], get["beta"]]
    statistics = [get["moving_mean"] * factor, get["moving_variance"] * factor, np.array([factor])]
    epsilon = field(139, field(3, 1e-5))
    if style == "merged":
        return caffe_layer(name, "BatchNorm", map(blob, statistics + scale), epsilon)
    if style == "merged_before_mkl":
        return caffe_layer(name, "BatchNorm", map(blob, scale + statistics), epsilon)
    return caffe_layer(name, "BatchNorm", map(blob, statistics), epsilon) + caffe_layer(
        f"{name}_scale", "Scale", map(blob, scale)
    )


def onnx_of(config: Config, arrays: dict[str, np.ndarray], style: str) -> bytes:
    """An ONNX file's weighted nodes and additions; `style`: "norm", "folded" or "int8" (QDQ)."""
    from onnx import helper, numpy_helper

    network, nodes, constants = graph.of(config), [], {}
    folded = graph.fold(config, variables.complete(config, arrays, "twin"))
    for node in network.nodes:
        name = node.name
        if node.op == "add":
            nodes.append(helper.make_node("Add", list(node.inputs), [name]))
        if node.op not in ("conv", "dense"):
            continue
        kernel = folded[f"{name}/kernel"]
        bias = folded.get(f"{name}/bias", np.zeros(kernel.shape[-1], np.float32))
        if style == "norm" and node.norm:
            kernel = arrays[f"model/{name}/kernel"]
            bias = arrays.get(f"model/{name}/bias", np.zeros(kernel.shape[-1], np.float32))
        kernel = kernel.transpose(3, 2, 0, 1) if node.op == "conv" else kernel.T
        constants |= {f"{name}.weight": kernel, f"{name}.bias": bias}
        inputs = [node.inputs[0], f"{name}.weight", f"{name}.bias"]
        if style == "int8":
            scale = np.abs(kernel).reshape(len(kernel), -1).max(axis=1) / 127 + 1e-9
            sides = scale.reshape(-1, *[1] * (kernel.ndim - 1))
            constants[inputs[1]] = np.round(kernel / sides).astype(np.int8)
            constants |= {f"{name}.scale": scale.astype(np.float32),
                          f"{name}.zero": np.zeros(len(kernel), np.int8)}  # fmt: skip
            quantized = [inputs[1], f"{name}.scale", f"{name}.zero"]
            inputs[1] += ".dequantized"
            nodes.append(helper.make_node("DequantizeLinear", quantized, [inputs[1]], axis=0))
        if node.op == "dense":
            nodes.append(helper.make_node("Gemm", inputs, [name], transB=1))
            continue
        strides = {"strides": [node.strides] * 2, "group": node.groups}
        nodes.append(helper.make_node("Conv", inputs, [name], **strides))
        if style == "norm" and node.norm:
            parts = {part: f"{node.norm}.{part}" for part in variables.NORM}
            constants |= {key: arrays[f"model/{node.norm}/{p}"] for p, key in parts.items()}
            inputs = [name, *parts.values()]
            output = [f"{name}.norm"]
            nodes.append(helper.make_node("BatchNormalization", inputs, output, epsilon=1e-5))
    tensors = [numpy_helper.from_array(np.ascontiguousarray(x), k) for k, x in constants.items()]
    made = helper.make_graph(nodes, "twin", [], [], tensors)
    return helper.make_model(made).SerializeToString()
