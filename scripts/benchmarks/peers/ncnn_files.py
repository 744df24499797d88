"""Writes a folded network as ncnn's two files (github.com/Tencent/ncnn, param-and-model-file)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from squeezenext.network.graph import Graph, Node

MAGIC = "7767517"
_ACTIVATIONS = {"linear": 0, "relu": 1}


def write(network: Graph, weights: Mapping[str, np.ndarray], folder: Path) -> None:
    """Writes network.param and network.bin: from `images` to `logits`.

    Args:
      network: that reads RGB pixels.
      weights: its kernels [out, in, height, width], or [in, out] of a dense, and biases.
    """
    writer = _Writer(network, weights)
    for node in network.nodes:
        writer.add(node)
    (folder / "network.param").write_text(writer.text())
    content = b"".join(np.ascontiguousarray(a, "<f4").tobytes() for a in writer.data)
    (folder / "network.bin").write_bytes(content)
    (folder / "size").write_text(str(network.nodes[0].shape[0]))


class _Writer:
    """Turns nodes into lines; a blob that several read is copied for each by a Split."""

    def __init__(self, network: Graph, weights: Mapping[str, np.ndarray]):
        self._network, self._weights = network, weights
        names = [name for node in network.nodes for name in node.inputs]
        self._readers = {node.name: names.count(node.name) for node in network.nodes}
        self._taken: dict[str, int] = {}
        self._lines: list[str] = []
        self._blobs = 0
        self.data: list[np.ndarray] = []

    def text(self) -> str:
        """Returns network.param."""
        return "\n".join([MAGIC, f"{len(self._lines)} {self._blobs}", *self._lines, ""])

    def add(self, node: Node) -> None:
        """Adds a node, its activation, and the copies of its output."""
        out = "logits" if node is self._network.nodes[-1] else node.name
        fused = node.op == "conv" and node.activation in _ACTIVATIONS
        apart = node.activation != "linear" and not fused
        target = f"{out}_linear" if apart else out
        kind, options = getattr(self, f"_{node.op}")(node)
        self._line(kind, node.name, [self._take(name) for name in node.inputs], [target], options)
        if apart:
            kind, options = {"relu": ("ReLU", ""), "elu": ("ELU", "0=1.0")}[node.activation]
            self._line(kind, f"{node.name}_{node.activation}", [target], [out], options)
        if self._readers[node.name] > 1:
            copies = [f"{node.name}_copy{i}" for i in range(self._readers[node.name])]
            self._line("Split", f"{node.name}_split", [node.name], copies, "")

    def _line(self, kind: str, name: str, sources, targets, options: str) -> None:
        counts = f"{len(sources)} {len(targets)}"
        words = [kind, name, counts, *sources, *targets, options]
        self._lines.append(" ".join(word for word in words if word))
        self._blobs += len(targets)

    def _take(self, name: str) -> str:
        """Returns the blob that the next reader of a node reads."""
        if self._readers[name] == 1:
            return name
        self._taken[name] = self._taken.get(name, -1) + 1
        return f"{name}_copy{self._taken[name]}"

    def _input(self, node: Node) -> tuple[str, str]:
        return "Input", ""

    def _conv(self, node: Node) -> tuple[str, str]:
        (top, bottom), (left, right) = node.padding
        kernel = self._weights[f"{node.name}/kernel"]
        self.data += [np.zeros(1, np.float32), kernel, self._weights[f"{node.name}/bias"]]
        kind, groups = (
            ("Convolution", "")
            if node.groups == 1
            else ("ConvolutionDepthWise", f" 7={node.groups}")
        )
        return kind, (
            f"0={node.shape[-1]} 1={node.kernel[1]} 11={node.kernel[0]} 3={node.strides} "
            f"13={node.strides} 4={left} 14={top} 15={right} 16={bottom} 5=1 6={kernel.size} "
            f"9={_ACTIVATIONS.get(node.activation, 0)}{groups}"
        )

    def _dense(self, node: Node) -> tuple[str, str]:
        kernel = self._weights[f"{node.name}/kernel"]
        self.data += [np.zeros(1, np.float32), kernel.T]
        if node.bias:
            self.data.append(self._weights[f"{node.name}/bias"])
        return "InnerProduct", f"0={node.shape[-1]} 1={int(node.bias)} 2={kernel.size}"

    def _max_pool(self, node: Node) -> tuple[str, str]:
        (top, bottom), (left, right) = node.padding
        return "Pooling", (
            f"0=0 1={node.kernel[1]} 11={node.kernel[0]} 2={node.strides} 12={node.strides} "
            f"3={left} 13={top} 14={right} 15={bottom} 5=1"
        )

    def _pad(self, node: Node) -> tuple[str, str]:
        (top, bottom), (left, right) = node.padding
        return "Padding", f"0={top} 1={bottom} 2={left} 3={right}"

    def _concat(self, node: Node) -> tuple[str, str]:
        return "Concat", "0=0"

    def _add(self, node: Node) -> tuple[str, str]:
        return "BinaryOp", "0=0"

    def _global_pool(self, node: Node) -> tuple[str, str]:
        return "Pooling", "0=1 4=1"
