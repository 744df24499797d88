"""Eight-bit integers in an ONNX file, as QuantizeLinear and DequantizeLinear around each operator.

The numbers are those of the LiteRT file (litert/int8.py): ranges from real images, a scale an
output channel, biases that take the rounding's shift back. A runtime makes integer operators of
what stands between; the mean over all places and what follows stay float32.
"""

from collections.abc import Sequence

import numpy as np

from squeezenext.litert.int8 import Int8, quantize_kernel
from squeezenext.network.graph import Graph

_FLOAT = ("global_pool", "dense")


def quantized(
    helper, nodes: Sequence, constants: dict[str, np.ndarray], network: Graph, numbers: Int8
) -> list:
    """Returns the nodes of an ONNX graph with integers between them, and changes `constants`.

    Args:
      helper: `onnx.helper`.
      nodes: of the float32 graph, in order.
      constants: by name, as the nodes read them.
      network: which the nodes were made of.
      numbers: how its activations and weights are stored.
    """
    added = _Added(helper, constants)
    for node in network.weighted:
        added.dense(node.name) if node.op == "dense" else _conv(added, node, numbers)
    source = network.nodes[0].name
    added.activation(source, f"{source}_stored", numbers.scales[source])
    kept_float = {node.name for node in network.nodes if node.op in _FLOAT}
    for node in nodes:
        node.input[:] = [f"{source}_stored" if x == source else x for x in node.input]
        (name,) = node.output
        added.nodes.append(node)
        if name in numbers.scales and name not in kept_float:
            node.output[:] = [f"{name}_real"]
            added.activation(f"{name}_real", name, numbers.scales[name])
    return added.nodes


def _conv(added: "_Added", node, numbers: Int8) -> None:
    kernel, bias = (added.constants.pop(f"{node.name}/{part}") for part in ("kernel", "bias"))
    found = numbers.integers(kernel.transpose(0, 2, 3, 1), bias, node.inputs[0])
    added.constant(f"{node.name}/kernel", found.kernel.transpose(0, 3, 1, 2), found.scale, 0)
    added.constant(f"{node.name}/bias", found.bias, found.bias_scale, 0)


class _Added:
    """Nodes and constants that have come to be."""

    def __init__(self, helper, constants: dict[str, np.ndarray]):
        self._helper, self.constants = helper, constants
        self.nodes: list = []

    def constant(self, name: str, values: np.ndarray, scale: np.ndarray, axis: int) -> None:
        """Adds integers with a scale an entry of `axis`, to be read as float32 under `name`."""
        stored = {
            f"{name}_integers": np.ascontiguousarray(values),
            f"{name}_scale": scale.astype(np.float32),
            f"{name}_zero": np.zeros(len(scale), values.dtype),
        }
        self.constants.update(stored)
        made = self._helper.make_node("DequantizeLinear", list(stored), [name], axis=axis)
        self.nodes.append(made)

    def dense(self, name: str) -> None:
        """Stores a classifier's kernel [in, out] as integers; its bias stays float32."""
        values, scale = quantize_kernel(self.constants.pop(f"{name}/kernel"), 1)
        self.constant(f"{name}/kernel", values, scale, 1)

    def activation(self, source: str, name: str, scale) -> None:
        """Rounds `source` to eight bits, unsigned, and calls the result `name`."""
        names = [f"{name}_scale", f"{name}_zero"]
        numbers = (np.float32(scale.scale), np.uint8(scale.zero + 128))
        self.constants.update(zip(names, map(np.array, numbers), strict=True))
        integers = f"{name}_integers"
        self.nodes += [
            self._helper.make_node("QuantizeLinear", [source, *names], [integers]),
            self._helper.make_node("DequantizeLinear", [integers, *names], [name]),
        ]
