"""The network as it is shipped: batch norm folded, dropout gone, no TensorFlow.

    nodes = graph.of(config).nodes
    weights = graph.fold(config, variables)

`of` records the network of architecture.py as a list of plain nodes; `fold` computes their weights
from those of a checkpoint. Compression, the LiteRT and ONNX writers and the class-activation maps
read these.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from squeezenext.config import Config
from squeezenext.config.network import Activation
from squeezenext.errors import InputError
from squeezenext.network import architecture

EPSILON = 1e-5  # batch norm's; caffe.proto BatchNormParameter: eps
Op = Literal["input", "conv", "max_pool", "pad", "concat", "add", "global_pool", "dense", "known"]
Sides = tuple[tuple[int, int], tuple[int, int]]  # (top, bottom), (left, right)
_NONE: Sides = ((0, 0), (0, 0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One operation and its output, named after the layer it is.

    Attributes:
      op: the operation. A conv computes activation(convolution + bias), an add activation(sum),
        and known what known.py says.
      name: the layer's name.
      inputs: names of the nodes that it reads.
      shape: output without the batch: (height, width, channels) or (channels,).
      kernel: (height, width) of a conv or max_pool.
      strides: step of a conv or max_pool, in both directions.
      padding: rows and columns added by a conv, max_pool or pad; zeros, but ignored by max_pool.
      groups: channel groups of a conv.
      activation: activation of a conv or add.
      bias: whether the trained layer has a bias (a folded conv always has one).
      norm: name of the batch norm that is folded into a conv, or "".
    """

    op: Op
    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    kernel: tuple[int, int] = (1, 1)
    strides: int = 1
    padding: Sides = _NONE
    groups: int = 1
    activation: Activation | Literal["linear"] = "linear"
    bias: bool = False
    norm: str = ""


@dataclasses.dataclass(frozen=True)
class Graph:
    """The nodes in the order they are computed: the images first, the logits last.

    Only a node "known" may follow the logits.
    """

    nodes: tuple[Node, ...]

    def __getitem__(self, name: str) -> Node:
        """Returns the node of a name."""
        return next(node for node in self.nodes if node.name == name)

    def kernel_shape(self, name: str) -> tuple[int, ...]:
        """Returns height x width x in/groups x out of a conv, in x out of a dense."""
        node = self[name]
        channels = self[node.inputs[0]].shape[-1]
        if node.op == "dense":
            return channels, node.shape[-1]
        return *node.kernel, channels // node.groups, node.shape[-1]

    @property
    def weighted(self) -> tuple[Node, ...]:
        """The nodes that have weights: conv and dense."""
        return tuple(node for node in self.nodes if node.op in ("conv", "dense"))

    @property
    def logits(self) -> Node:
        """The node that gives the logits."""
        return self.nodes[-2 if self.nodes[-1].op == "known" else -1]

    @property
    def features(self) -> str:
        """The name of the last map before the global average: what the classifier sees."""
        return next(node.inputs[0] for node in self.nodes if node.op == "global_pool")


def of(config: Config, size: int | None = None) -> Graph:
    """Records the folded network of a configuration, for images of side `size`."""
    ops = Recorder()
    architecture.build_network(ops, config, size)
    return Graph(tuple(ops.nodes.values()))


def fold(config: Config, variables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Computes the weights of `of(config)`.

    Args:
      config: the network's configuration.
      variables: of the trained network, by "model/layer/variable", as a checkpoint holds them.

    Returns:
      Float32 arrays: "layer/kernel" [height, width, in/groups, out] and "layer/bias" [out] of each
      conv, "layer/kernel" [in, out] and, where it has one, "layer/bias" [out] of a dense.

    Raises:
      InputError: a variable is missing or has another shape.
    """
    graph, weights = of(config), {}
    for node in graph.weighted:
        kernel = _variable(variables, f"{node.name}/kernel", graph.kernel_shape(node.name))
        vector = node.shape[-1:]
        bias = _variable(variables, f"{node.name}/bias", vector) if node.bias else 0.0
        offset = np.broadcast_to(bias, vector)
        if node.norm:
            scale, shift = _norm(variables, node.norm, vector)
            kernel, offset = kernel * scale, offset * scale + shift
        weights[f"{node.name}/kernel"] = kernel.astype(np.float32)
        if node.op == "conv" or node.bias:
            weights[f"{node.name}/bias"] = offset.astype(np.float32)
    return weights


def _norm(variables, name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch norm as scale and offset, in float64."""
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    gamma, beta, mean, variance = (
        _variable(variables, f"{name}/{part}", shape).astype(np.float64) for part in names
    )
    scale = gamma / np.sqrt(variance + EPSILON)
    return scale, beta - mean * scale


def _variable(variables, name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = variables.get(f"model/{name}")
    if array is None or array.shape != shape:
        found = "absent" if array is None else f"of shape {array.shape}"
        raise InputError(f"The weights do not fit the network: {name} is {found}, not {shape}.")
    return array


class Recorder:
    """`architecture.Ops` whose tensors are the names of nodes."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def _record(self, op: Op, name: str, inputs: Sequence[str], shape, **fields) -> str:
        self.nodes[name] = Node(op=op, name=name, inputs=tuple(inputs), shape=shape, **fields)
        return name

    def input(self, size: int) -> str:
        return self._record("input", "images", (), (size, size, 3))

    def channels(self, x: str) -> int:
        return self.nodes[x].shape[-1]

    def conv(
        self,
        x: str,
        name: str,
        filters: int,
        kernel: architecture.Kernel,
        *,
        initializer: architecture.Start,
        strides: int = 1,
        groups: int = 1,
        same: bool = False,
        bias: bool = False,
    ) -> str:
        del initializer
        edges = [((side - 1) // 2, side // 2) if same else (0, 0) for side in kernel]
        window = {"kernel": kernel, "strides": strides, "padding": tuple(edges)}
        shape = (*self._windows(x, **window), filters)
        return self._record("conv", name, [x], shape, groups=groups, bias=bias, **window)

    def _windows(self, x: str, kernel, strides: int, padding: Sides) -> list[int]:
        sides = zip(self.nodes[x].shape[:2], kernel, padding, strict=True)
        return [(side + sum(pad) - window) // strides + 1 for side, window, pad in sides]

    def batch_norm(self, x: str, name: str) -> str:
        return self._change(x, norm=name)

    def activation(self, x: str, name: str, kind: Activation) -> str:
        del name
        return self._change(x, activation=kind)

    def _change(self, x: str, **fields) -> str:
        """Merges an operation into the node before it, which no other node may read."""
        node = self.nodes[x]
        read = any(x in other.inputs for other in self.nodes.values())
        if read or node.op not in ("conv", "add") or node.activation != "linear":
            raise ValueError(f"{fields} cannot become a part of {node}.")
        self.nodes[x] = dataclasses.replace(node, **fields)
        return x

    def max_pool(self, x: str, name: str) -> str:
        ends = tuple((0, 1 - side % 2) for side in self.nodes[x].shape[:2])  # Caffe's ceil
        window = {"kernel": (3, 3), "strides": 2, "padding": ends}
        shape = (*self._windows(x, **window), self.channels(x))
        return self._record("max_pool", name, [x], shape, **window)

    def pad(self, x: str, name: str, amount: int) -> str:
        height, width, channels = self.nodes[x].shape
        shape = (height + 2 * amount, width + 2 * amount, channels)
        return self._record("pad", name, [x], shape, padding=((amount, amount), (amount, amount)))

    def concat(self, tensors: Sequence[str], name: str) -> str:
        height, width, _ = self.nodes[tensors[0]].shape
        channels = sum(self.channels(x) for x in tensors)
        return self._record("concat", name, tensors, (height, width, channels))

    def add(self, tensors: Sequence[str], name: str) -> str:
        return self._record("add", name, tensors, self.nodes[tensors[0]].shape)

    def dropout(self, x: str, name: str, rate: float) -> str:
        del name, rate
        return x

    def global_pool(self, x: str, name: str) -> str:
        return self._record("global_pool", name, [x], (self.channels(x),))

    def dense(
        self, x: str, name: str, units: int, initializer: architecture.Start, bias: bool
    ) -> str:
        del initializer
        return self._record("dense", name, [x], (units,), bias=bias)
