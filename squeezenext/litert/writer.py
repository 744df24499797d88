"""Writes a folded network as a LiteRT file, in a tenth of a second and without TensorFlow.

Only built-in operators are used. A ReLU is part of its convolution, an ELU an operator of its own.
The classes `Float32`, `Float16`, `DynamicRange` and int8.py's `Int8` choose how numbers are stored.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from squeezenext.network.graph import Graph, Node

if TYPE_CHECKING:
    from squeezenext.litert.container import LitertFile


class Float32:
    """Stores activations and weights as float32."""

    versions: Mapping[str, int] = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1}
    integer = False  # True for integer activations
    whole = False  # True if pixels, mean, logits and probabilities are integers, too

    @property
    def classifier(self) -> "Float32":
        """How a dense classifier's weights are stored; its input and output are float32."""
        return self

    def activation(
        self, file: "LitertFile", name: str, shape: Sequence[int], like: str = ""
    ) -> int:
        """Adds the tensor of a node's output; `shape` excludes the batch.

        An integer tensor has the scale of the node `like`, by default of its own.
        """
        del like
        return file.tensor(name, (1, *shape), np.float32)

    def weights(
        self,
        file: "LitertFile",
        name: str,
        kernel: np.ndarray,
        bias: np.ndarray,
        source: str,
        axis: int = 0,
    ) -> list[int]:
        """Adds kernel and bias of a layer and returns their tensors.

        Args:
          file: the file.
          name: name of the layer.
          kernel: float32, laid out as LiteRT's operator expects.
          bias: [out] float32.
          source: name of the node that the layer reads.
          axis: axis of output channels; 3 in the [1, height, width, channels] of a depthwise one.
        """
        del source
        return [
            self._kernel(file, f"{name}/kernel", kernel, axis),
            file.tensor(f"{name}/bias", bias.shape, np.float32, bias),
        ]

    def _kernel(self, file: "LitertFile", name: str, kernel: np.ndarray, axis: int) -> int:
        return file.tensor(name, kernel.shape, np.float32, kernel)


class Float16(Float32):
    """Stores kernels as float16; a runtime converts them to float32 once, on loading."""

    def _kernel(self, file: "LitertFile", name: str, kernel: np.ndarray, axis: int) -> int:
        half = file.tensor(f"{name}_float16", kernel.shape, np.float16, kernel)
        whole = file.tensor(name, kernel.shape, np.float32)
        file.operator("DEQUANTIZE", 3, [half], [whole])
        return whole


def quantize_kernel(
    kernel: np.ndarray, axis: int, least: np.ndarray | float = 1e-12
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a kernel as int8, -127..127, and the scales, [out] float32.

    Args:
      kernel: float32.
      axis: axis of output channels, each with a scale of its own.
      least: lower bound of the scales, a number or [out].
    """
    others = tuple(i for i in range(kernel.ndim) if i != axis)
    scale = np.maximum(np.abs(kernel).max(others) / 127, np.maximum(least, 1e-12))
    scale = scale.astype(np.float32)
    shaped = np.expand_dims(scale, others)
    return np.round(kernel / shaped).clip(-127, 127).astype(np.int8), scale


class DynamicRange(Float32):
    """Stores kernels as int8 with a scale per output channel, all else as float32."""

    versions = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 12}
    quantize = staticmethod(quantize_kernel)

    def _kernel(self, file: "LitertFile", name: str, kernel: np.ndarray, axis: int) -> int:
        values, scale = self.quantize(kernel, axis)
        return file.tensor(name, kernel.shape, np.int8, values, scale, axis=axis)


INPUT, LOGITS, SCORES = "images", "logits", "probabilities"
# Numbers of schema.fbs: ActivationFunctionType and Padding. The module would delay prediction.
_FUSED = {"linear": 0, "relu": 1, "elu": 0}
_SAME, _VALID = 0, 1


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
      graph: the network.
      weights: its folded weights by name.
      numbers: how activations and weights are stored; default `Float32()`.
      outputs: names of nodes that are outputs beside the last one, such as `graph.features`.
      softmax: factor of the logits before a softmax; without it the output are the logits.
      description: text for people.
      metadata: named buffers to add.

    Returns:
      The file, from `images` [1, size, size, 3] to `logits` or `probabilities` [1, classes]; the
      last output is `known` [1, 1] if the graph has that node.
    """
    from squeezenext.litert.container import LitertFile

    file = LitertFile(description)
    return emit(file, graph, weights, numbers or Float32(), outputs, softmax, metadata)


def emit(
    file: "LitertFile",
    graph: Graph,
    weights: Mapping[str, np.ndarray],
    numbers: Float32,
    outputs: Sequence[str] = (),
    softmax: float | None = None,
    metadata: Mapping[str, bytes] | None = None,
) -> bytes:
    """Fills a file with a network and finishes it; arguments as of `write`."""
    emitter = _Emitter(graph, weights, numbers, file)
    methods = {
        "input": emitter.input,
        "conv": emitter.conv,
        "max_pool": emitter.max_pool,
        "pad": emitter.pad,
        "concat": emitter.concat,
        "add": emitter.add,
        "global_pool": emitter.global_pool,
        "dense": emitter.dense,
        "known": emitter.known,
    }
    for node in graph.nodes:
        methods[node.op](node)
    return emitter.finish(outputs, softmax, metadata)


class _Emitter:
    """Turns each node into operators and one output tensor."""

    def __init__(
        self, graph: Graph, weights: Mapping[str, np.ndarray], numbers, file: "LitertFile"
    ):
        self.graph, self.weights, self.numbers, self.file = graph, weights, numbers, file
        self.tensors: dict[str, int] = {}  # output tensors by node name
        self.floats: dict[str, int] = {}  # the same as float32, if they were asked for

    def input(self, node: Node) -> None:
        self.fed = self._output(node)
        if self.numbers.integer and not self.numbers.whole:  # the input are pixels, 0..255
            self.fed = self.file.tensor("pixels", (1, *node.shape), np.uint8, None, 1.0)
            self._operator("QUANTIZE", [self.fed], self.tensors[node.name])

    def _output(self, node: Node) -> int:
        """Adds the tensor that an operator writes: the node's output, or its ELU's input."""
        name = f"{node.name}_linear" if node.activation == "elu" else node.name
        self.tensors[node.name] = self.numbers.activation(self.file, name, node.shape)
        return self.tensors[node.name]

    def _operator(self, name: str, inputs: Sequence[int], output: int, options=None) -> None:
        """Adds an operator on activations, whose second version reads integers."""
        self.file.operator(name, 1 + self.numbers.integer, inputs, [output], options)

    def _elu(self, node: Node) -> None:
        if node.activation == "elu":
            output = self.numbers.activation(self.file, node.name, node.shape)
            self.file.operator("ELU", 1, [self.tensors[node.name]], [output])
            self.tensors[node.name] = output

    def conv(self, node: Node) -> None:
        source, padding = self._padded(node)
        kernel, bias = (self.weights[f"{node.name}/{part}"] for part in ("kernel", "bias"))
        output = self._output(node)
        options = {
            "strideW": node.strides,
            "strideH": node.strides,
            "padding": padding,
            "fusedActivationFunction": _FUSED[node.activation],
        }
        if kernel.shape[2] == 1 and node.groups == kernel.shape[3]:
            name, order, axis = "DEPTHWISE_CONV_2D", (2, 0, 1, 3), 3
            options["depthMultiplier"] = 1
        else:
            name, order, axis = "CONV_2D", (3, 0, 1, 2), 0
        grouped = node.groups > 1 and name == "CONV_2D"
        version = 6 if grouped else self.numbers.versions[name]
        stored = self.numbers.weights(
            self.file, node.name, kernel.transpose(order), bias, node.inputs[0], axis
        )
        self.file.operator(name, version, [source, *stored], [output], options)
        self._elu(node)

    def _padded(self, node: Node) -> tuple[int, int]:
        """Returns a window operator's input tensor and padding mode, after padding if needed.

        LiteRT's operators only know no padding and TensorFlow's "same".
        """
        source = self.tensors[node.inputs[0]]
        if node.padding == ((0, 0), (0, 0)):
            return source, _VALID
        *sides, channels = self.graph[node.inputs[0]].shape
        same = [_same(side, k, node.strides) for side, k in zip(sides, node.kernel, strict=True)]
        if tuple(same) == node.padding:
            return source, _SAME
        if node.op == "max_pool":
            raise ValueError(f"{node} pads as LiteRT's pooling cannot.")
        shape = [side + sum(pad) for side, pad in zip(sides, node.padding, strict=True)]
        padded = self.numbers.activation(
            self.file, f"{node.name}_padded", (*shape, channels), like=node.inputs[0]
        )
        self._pad(source, padded, node)
        return padded, _VALID

    def _pad(self, source: int, output: int, node: Node) -> None:
        paddings = ((0, 0), *node.padding, (0, 0))
        amounts = self.file.constant(f"{node.name}_paddings", paddings)
        self._operator("PAD", [source, amounts], output)

    def max_pool(self, node: Node) -> None:
        source, padding = self._padded(node)
        options = {
            "padding": padding,
            "strideW": node.strides,
            "strideH": node.strides,
            "filterHeight": node.kernel[0],
            "filterWidth": node.kernel[1],
        }
        self._operator("MAX_POOL_2D", [source], self._output(node), options)

    def pad(self, node: Node) -> None:
        self._pad(self.tensors[node.inputs[0]], self._output(node), node)

    def concat(self, node: Node) -> None:
        sources = [self.tensors[name] for name in node.inputs]
        self._operator("CONCATENATION", sources, self._output(node), {"axis": 3})

    def add(self, node: Node) -> None:
        sources = [self.tensors[name] for name in node.inputs]
        options = {"fusedActivationFunction": _FUSED[node.activation]}
        self._operator("ADD", sources, self._output(node), options)
        self._elu(node)

    def global_pool(self, node: Node) -> None:
        """Adds the mean over all positions.

        Unless the numbers are whole, all that follows is float32: int8 logits tie more often.
        """
        axes = self.file.constant(f"{node.name}_axes", (1, 2))
        inputs = [self._float(self.graph[node.inputs[0]]), axes]
        self._float_operator("MEAN", 1, inputs, node, {"keepDims": False})

    def dense(self, node: Node) -> None:
        kernel = self.weights[f"{node.name}/kernel"]
        bias = self.weights.get(f"{node.name}/bias", np.zeros(node.shape, np.float32))
        numbers, source = self.numbers.classifier, node.inputs[0]
        stored = numbers.weights(self.file, node.name, kernel.T, bias, source)
        inputs = [self._float(self.graph[source]), *stored]
        self._float_operator("FULLY_CONNECTED", numbers.versions["FULLY_CONNECTED"], inputs, node)

    def known(self, node: Node) -> None:
        """Adds what network/known.py says, in float32 whatever the network's numbers are."""
        features, logits = (self._float(self.graph[name]) for name in node.inputs)
        (channels,) = self.graph[node.inputs[0]].shape[-1:]
        sizes = {"mean": channels, "unit": channels, "squares": channels, "greatest": 1}
        sizes |= {"inputs": 2 * channels + 1, "score": 1}
        made = {
            name: self.file.tensor(f"{node.name}_{name}", (1, size), np.float32)
            for name, size in sizes.items()
        }
        output = self.file.tensor(node.name, (1, 1), np.float32)
        kernel, bias = (self.weights[f"{node.name}/{part}"] for part in ("kernel", "bias"))
        stored = Float32().weights(self.file, node.name, kernel[np.newaxis], bias, "")
        sides, classes = (self.file.constant(f"{node.name}_{x}_axes", x) for x in ((1, 2), (1,)))
        add = self.file.operator
        add("MEAN", 1, [features, sides], [made["mean"]], {"keepDims": False})
        add("L2_NORMALIZATION", 1, [made["mean"]], [made["unit"]])
        add("MUL", 1, [made["unit"], made["unit"]], [made["squares"]])
        add("REDUCE_MAX", 1, [logits, classes], [made["greatest"]], {"keepDims": True})
        joined = [made["unit"], made["squares"], made["greatest"]]
        add("CONCATENATION", 1, joined, [made["inputs"]], {"axis": 1})
        add("FULLY_CONNECTED", 1, [made["inputs"], *stored], [made["score"]])
        add("LOGISTIC", 1, [made["score"]], [output])
        self.tensors[node.name] = self.floats[node.name] = output

    def _float_operator(self, name: str, version: int, inputs, node: Node, options=None) -> None:
        if self.numbers.whole:
            output = self.numbers.activation(self.file, node.name, node.shape)
            version = self.numbers.versions[name]
        else:
            output = self.file.tensor(node.name, (1, *node.shape), np.float32)
        self.file.operator(name, version, inputs, [output], options)
        self.tensors[node.name] = self.floats[node.name] = output

    def finish(self, outputs: Sequence[str], softmax: float | None, metadata) -> bytes:
        """Adds the outputs and returns the file; arguments as of `write`."""
        last = self.graph.logits
        results = {LOGITS: self._float(last)}
        if softmax is not None:
            whole = self.numbers.whole
            # The specification fixes the scale of an integer softmax.
            stored = (np.int8, None, 1 / 256, -128) if whole else (np.float32,)
            scores = self.file.tensor(SCORES, (1, *last.shape), *stored)
            options = {"beta": softmax}
            self.file.operator("SOFTMAX", 1 + whole, [results[LOGITS]], [scores], options)
            results = {SCORES: scores}
        known = [node.name for node in self.graph.nodes if node.op == "known"]
        results |= {name: self._float(self.graph[name]) for name in (*outputs, *known)}
        return self.file.finish({INPUT: self.fed}, results, metadata)

    def _float(self, node: Node) -> int:
        """Returns a node's tensor as float32, or as it is if all numbers are whole."""
        if self.numbers.whole or not self.numbers.integer:
            return self.tensors[node.name]
        if node.name not in self.floats:
            output = self.file.tensor(f"{node.name}_float", (1, *node.shape), np.float32)
            self._operator("DEQUANTIZE", [self.tensors[node.name]], output)
            self.floats[node.name] = output
        return self.floats[node.name]


def _same(side: int, kernel: int, strides: int) -> tuple[int, int]:
    """Returns TensorFlow's "same" padding of a side, the odd zero at the end."""
    total = max((-(-side // strides) - 1) * strides + kernel - side, 0)
    return total // 2, total - total // 2
