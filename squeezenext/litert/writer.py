"""A folded network as a LiteRT file, its numbers stored as numbers.py or int8.py says.

`write(graph, weights)` takes a tenth of a second and no TensorFlow; only built-in operators are
written. Convolutions carry their ReLU; an ELU is an operator of its own.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from squeezenext.litert.container import LitertFile
from squeezenext.network.graph import Graph, Node

# How a LiteRT file stores numbers whose activations are float32: kernels of 32, 16 or 8 bits.


class Float32:
    """How numbers are stored: activations and weights are float32."""

    versions: Mapping[str, int] = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1}
    integer = False  # activations

    @property
    def classifier(self) -> "Float32":
        """How a dense classifier's weights are stored; what it reads and gives is float32."""
        return self

    def activation(self, file: LitertFile, name: str, shape: Sequence[int]) -> int:
        """Adds the tensor of a node's output, `shape` without the batch."""
        return file.tensor(name, (1, *shape), np.float32)

    def weights(
        self,
        file: LitertFile,
        name: str,
        kernel: np.ndarray,
        bias: np.ndarray,
        source: str,
        axis: int = 0,
    ) -> list[int]:
        """Adds kernel and bias of the layer `name`, which reads `source`.

        Args:
          axis: of the kernel's output channels: the first, but the last in a depthwise one of
            [1, height, width, channels].
        """
        del source
        return [
            self._kernel(file, f"{name}/kernel", kernel, axis),
            file.tensor(f"{name}/bias", bias.shape, np.float32, bias),
        ]

    def _kernel(self, file: LitertFile, name: str, kernel: np.ndarray, axis: int) -> int:
        return file.tensor(name, kernel.shape, np.float32, kernel)


class Float16(Float32):
    """Kernels are float16 and made float32 once, when the file is loaded."""

    def _kernel(self, file: LitertFile, name: str, kernel: np.ndarray, axis: int) -> int:
        half = file.tensor(f"{name}_float16", kernel.shape, np.float16, kernel)
        whole = file.tensor(name, kernel.shape, np.float32)
        file.operator("DEQUANTIZE", 3, [half], [whole], {}, "DequantizeOptions")
        return whole


class DynamicRange(Float32):
    """Kernels are int8, a scale an output channel; activations and biases float32."""

    versions = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 12}

    def _kernel(self, file: LitertFile, name: str, kernel: np.ndarray, axis: int) -> int:
        values, scale = quantize_kernel(kernel, axis)
        return file.tensor(name, kernel.shape, np.int8, values, scale, axis=axis)


def quantize_kernel(
    kernel: np.ndarray, axis: int, least: np.ndarray | float = 1e-12
) -> tuple[np.ndarray, np.ndarray]:
    """Returns int8 values in -127..127 and the float32 scale of each entry of `axis`."""
    others = tuple(i for i in range(kernel.ndim) if i != axis)
    scale = np.maximum(np.abs(kernel).max(others) / 127, np.maximum(least, 1e-12))
    scale = scale.astype(np.float32)
    shaped = np.expand_dims(scale, others)
    return np.round(kernel / shaped).clip(-127, 127).astype(np.int8), scale


INPUT, LOGITS, SCORES = "images", "logits", "probabilities"
_FUSED = {
    "linear": schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "elu": schema.ActivationFunctionType.NONE,
}


def write(
    graph: Graph,
    weights: Mapping[str, np.ndarray],
    *,
    numbers: Float32 | None = None,
    outputs: Sequence[str] = (),
    softmax: float | None = None,
    description: str = "",
    metadata: Mapping[str, bytes] | None = None,
) -> bytes:
    """Writes a network for one image at a time.

    Args:
      graph, weights: as `graph.of` and `graph.fold` make them.
      numbers: how activations and weights are stored; default `Float32()`.
      outputs: names of nodes to give out beside the last, such as `graph.features`.
      softmax: give out softmax(softmax x logits) instead of the logits.
      metadata: named buffers to carry along.

    Returns:
      The file: from `images` [1, size, size, 3] to `logits` or `probabilities` [1, classes].
    """
    emitter = _Emitter(graph, weights, numbers or Float32(), LitertFile(description))
    first, *rest = graph.nodes
    emitter.input(first)
    for node in rest:
        getattr(emitter, node.op)(node)
    return emitter.finish(outputs, softmax, metadata)


class _Emitter:
    """Turns nodes into operators; a method an op, a tensor a node."""

    def __init__(self, graph: Graph, weights: Mapping[str, np.ndarray], numbers, file: LitertFile):
        self.graph, self.weights, self.numbers, self.file = graph, weights, numbers, file
        self.tensors: dict[str, int] = {}
        self.floats: dict[str, int] = {}

    def input(self, node: Node) -> None:
        self.tensors[node.name] = self.numbers.activation(self.file, node.name, node.shape)
        self.given = self.tensors[node.name]
        if self.numbers.integer:  # the caller gives pixels, 0..255, as they are
            self.given = self.file.tensor("pixels", (1, *node.shape), np.uint8, None, 1.0)
            self._operator("QUANTIZE", 1, [self.given], self.tensors[node.name], {})

    def conv(self, node: Node) -> None:
        source, padding = self._padded(node)
        kernel = self.weights[f"{node.name}/kernel"]
        bias = self.weights[f"{node.name}/bias"]
        output = self._before_elu(node)
        strides = {"strideW": node.strides, "strideH": node.strides, "padding": padding}
        options = strides | {"fusedActivationFunction": _FUSED[node.activation]}
        if kernel.shape[2] == 1 and node.groups == kernel.shape[3]:
            stored = self._stored(node, kernel.transpose(2, 0, 1, 3), bias, axis=3)
            options |= {"depthMultiplier": 1}
            self._operator("DEPTHWISE_CONV_2D", 0, [source, *stored], output, options)
        else:
            stored = self._stored(node, kernel.transpose(3, 0, 1, 2), bias)
            options |= {"groups": node.groups}  # which the shapes say; the version must, too
            self._operator("CONV_2D", 0, [source, *stored], output, options)
        self._elu(node, output)

    def _stored(self, node: Node, kernel: np.ndarray, bias: np.ndarray, axis=0) -> list[int]:
        return self.numbers.weights(self.file, node.name, kernel, bias, node.inputs[0], axis)

    def _padded(self, node: Node) -> tuple[int, int]:
        """Returns the tensor a window moves over and the padding mode, padding it first if need be.

        LiteRT knows no other padding than none and TensorFlow's "same".
        """
        source = self.tensors[node.inputs[0]]
        if node.padding == ((0, 0), (0, 0)):
            return source, schema.Padding.VALID
        before = self.graph[node.inputs[0]].shape
        same = [_same(side, k, node.strides) for side, k in zip(before, node.kernel, strict=False)]
        if tuple(same) == node.padding:
            return source, schema.Padding.SAME
        if node.op == "max_pool":
            raise ValueError(f"{node} pads as LiteRT's pooling cannot.")
        shape = [side + sum(pad) for side, pad in zip(before[:2], node.padding, strict=True)] + [
            before[2]
        ]
        padded = self._like(node.inputs[0], f"{node.name}_padded", shape)
        self._pad(source, padded, node.padding, f"{node.name}_paddings")
        return padded, schema.Padding.VALID

    def _like(self, source: str, name: str, shape: Sequence[int]) -> int:
        """Adds a tensor that stores its numbers as the output of the node `source` does."""
        if not self.numbers.integer:
            return self.numbers.activation(self.file, name, shape)
        return self.numbers.activation(self.file, name, shape, like=source)

    def _pad(self, source: int, output: int, padding, name: str) -> None:
        amounts = self.file.constant(name, ((0, 0), *padding, (0, 0)))
        self._operator("PAD", 1, [source, amounts], output, {})

    def _before_elu(self, node: Node) -> int:
        """Adds the tensor that an operator writes: the node's, or what its ELU reads."""
        name = f"{node.name}_linear" if node.activation == "elu" else node.name
        self.tensors[node.name] = self.numbers.activation(self.file, name, node.shape)
        return self.tensors[node.name]

    def _elu(self, node: Node, source: int) -> None:
        if node.activation == "elu":
            output = self.numbers.activation(self.file, node.name, node.shape)
            self.file.operator("ELU", 1, [source], [output])
            self.tensors[node.name] = output

    def _output(self, node: Node) -> int:
        number = self.numbers.activation(self.file, node.name, node.shape)
        self.tensors[node.name] = number
        return number

    def max_pool(self, node: Node) -> None:
        source, padding = self._padded(node)
        options = {
            "padding": padding,
            "strideW": node.strides,
            "strideH": node.strides,
            "filterHeight": node.kernel[0],
            "filterWidth": node.kernel[1],
        }
        self._operator("MAX_POOL_2D", 1, [source], self._output(node), options)

    def pad(self, node: Node) -> None:
        source = self.tensors[node.inputs[0]]
        self._pad(source, self._output(node), node.padding, f"{node.name}_paddings")

    def concat(self, node: Node) -> None:
        sources = [self.tensors[name] for name in node.inputs]
        self._operator("CONCATENATION", 1, sources, self._output(node), {"axis": 3})

    def add(self, node: Node) -> None:
        sources = [self.tensors[name] for name in node.inputs]
        output = self._before_elu(node)
        options = {"fusedActivationFunction": _FUSED[node.activation]}
        self._operator("ADD", 1, sources, output, options)
        self._elu(node, output)

    def global_pool(self, node: Node) -> None:
        # From here on all is float32: eight bits would make ties of the logits.
        axes = self.file.constant(f"{node.name}_axes", (1, 2))
        inputs = [self._float(self.graph[node.inputs[0]]), axes]
        self._float_operator("MEAN", 1, inputs, node, {"keepDims": False})

    def dense(self, node: Node) -> None:
        kernel = self.weights[f"{node.name}/kernel"]
        bias = self.weights.get(f"{node.name}/bias", np.zeros(node.shape, np.float32))
        numbers, source = self.numbers.classifier, node.inputs[0]
        stored = numbers.weights(self.file, node.name, kernel.T, bias, source)
        inputs = [self._float(self.graph[source]), *stored]
        version = numbers.versions["FULLY_CONNECTED"]
        self._float_operator("FULLY_CONNECTED", version, inputs, node, {})

    def _float_operator(self, name: str, version: int, inputs, node: Node, options) -> None:
        output = self.file.tensor(node.name, (1, *node.shape), np.float32)
        self.file.operator(name, version, inputs, [output], options, _KINDS[name])
        self.tensors[node.name] = self.floats[node.name] = output

    def _operator(self, name: str, version: int, inputs, output: int, options) -> None:
        """Adds an operator; integer activations raise the version where it is not the number's."""
        if name == "CONV_2D" and options.pop("groups") > 1:
            version = 6
        else:
            version = self.numbers.versions.get(name, version + self.numbers.integer)
        self.file.operator(name, version, inputs, [output], options, _KINDS[name])

    def finish(self, outputs: Sequence[str], softmax: float | None, metadata) -> bytes:
        last = self.graph.nodes[-1]
        given = {LOGITS: self._float(last)}
        if softmax is not None:
            scores = self.file.tensor(SCORES, (1, *last.shape), np.float32)
            options = {"beta": softmax}
            self.file.operator("SOFTMAX", 1, [given[LOGITS]], [scores], options, "SoftmaxOptions")
            given = {SCORES: scores}
        given |= {name: self._float(self.graph[name]) for name in outputs}
        return self.file.finish({INPUT: self.given}, given, metadata)

    def _float(self, node: Node) -> int:
        """Returns a node's tensor as float32."""
        if not self.numbers.integer:
            return self.tensors[node.name]
        if node.name not in self.floats:
            output = self.file.tensor(f"{node.name}_float", (1, *node.shape), np.float32)
            self._operator("DEQUANTIZE", 1, [self.tensors[node.name]], output, {})
            self.floats[node.name] = output
        return self.floats[node.name]


_KINDS = {
    "QUANTIZE": "QuantizeOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "PAD": "PadOptions",
    "CONCATENATION": "ConcatenationOptions",
    "ADD": "AddOptions",
    "MEAN": "ReducerOptions",
}


def _same(side: int, kernel: int, strides: int) -> tuple[int, int]:
    """TensorFlow's "same": as many outputs as strides fit, the odd zero at the end."""
    total = max((-(-side // strides) - 1) * strides + kernel - side, 0)
    return total // 2, total - total // 2
