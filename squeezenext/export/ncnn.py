"""A trained network as ncnn's two files (github.com/Tencent/ncnn), `.param` and `.bin`.

`images` takes RGB pixels of 0..255, as `ncnn::Mat::from_pixels` makes them; `probabilities` and
`logits` are [classes]. formats/ncnn.py describes the files. The `ncnn` package runs them:
requirements-ncnn.txt.
"""

from pathlib import Path

import numpy as np

from squeezenext.errors import needs
from squeezenext.export.format import FolderKind, Format, Request, Run
from squeezenext.export.litert import describe
from squeezenext.export.onnx import pads_merged
from squeezenext.formats.ncnn import MAGIC
from squeezenext.model import card
from squeezenext.model import directory as model_directory
from squeezenext.model.loading import DESCRIPTION
from squeezenext.network import rgb
from squeezenext.network.graph import Graph, Node
from squeezenext.network.model import Model

PARAM, BIN = "model.param", "model.bin"
_ACTIVATIONS = {"linear": 0, "relu": 1}  # those that are a part of a convolution
_WEIGHTLESS = {
    "max_pool": ("Pooling", "0=0 1=3 2=2"),  # with Caffe's ceil
    "concat": ("Concat", "0=0"),
    "add": ("BinaryOp", "0=0"),
    "global_pool": ("Pooling", "0=1 4=1"),
}
_STORED = {"float32": (0, "<f4"), "float16": (0x01306B47, "<f2")}  # tag and type, modelbin.cpp


def ncnn_files(model: Model, precision: str) -> tuple[str, bytes]:
    """Returns the contents of `.param` and `.bin`, with kernels of this precision."""
    network, weights = rgb.take_rgb(model.graph, model.weights, model.config.images)
    network = pads_merged(network)
    writer = _Writer(network, weights, precision)
    for node in network.nodes:
        writer.add(node)
    tempered = "logits"
    if model.temperature != 1:
        tempered = "tempered"  # divided by a number
        writer.line("BinaryOp", tempered, ["logits"], f"0=3 1=1 2={float(model.temperature):.9e}")
    writer.line("Softmax", "probabilities", [tempered], "0=0 1=1")
    counts = f"{len(writer.lines)} {writer.blobs}"
    return "\n".join([MAGIC, counts, *writer.lines, ""]), b"".join(writer.content)


class _Writer:
    """Writes nodes as lines; a Split layer copies an output for each layer that reads it."""

    def __init__(self, network: Graph, weights, precision: str):
        self._network, self._weights, self._precision = network, weights, precision
        read = [name for node in network.nodes for name in node.inputs]
        self._copies = {
            name: [f"{name}_copy{i}" for i in range(read.count(name))]
            for name in read
            if read.count(name) > 1
        }
        self.lines: list[str] = []
        self.blobs = 0
        self.content: list[bytes] = []

    def line(self, kind: str, name: str, sources: list[str], options="", targets=()) -> None:
        """Adds a layer; its output has its name unless `targets` says otherwise."""
        targets = list(targets) or [name]
        words = [kind, name, f"{len(sources)} {len(targets)}", *sources, *targets, options]
        self.lines.append(" ".join(word for word in words if word))
        self.blobs += len(targets)

    def add(self, node: Node) -> None:
        """Adds a node, its activation, and the copies of its output."""
        out = "logits" if node is self._network.nodes[-1] else node.name
        sources = [self._copies[x].pop() if x in self._copies else x for x in node.inputs]
        apart = node.activation != "linear" and (node.op != "conv" or node.activation == "elu")
        kind, options = self._layer(node)
        self.line(kind, node.name, sources, options, [f"{out}_linear" if apart else out])
        if apart:
            kind, options = {"relu": ("ReLU", ""), "elu": ("ELU", "0=1.0")}[node.activation]
            self.line(kind, f"{node.name}_{node.activation}", [f"{out}_linear"], options, [out])
        if node.name in self._copies:
            self.line("Split", f"{node.name}_split", [out], "", self._copies[node.name])

    def _layer(self, node: Node) -> tuple[str, str]:
        """Returns kind and attributes of a node's layer, and adds its weights."""
        match node.op:
            case "input":
                return "Input", "0={1} 1={0} 2={2}".format(*node.shape)
            case "conv":
                return self._conv(node)
            case "dense":
                kernel = self._weights[f"{node.name}/kernel"].T
                self._add_weights(node, kernel)
                return "InnerProduct", f"0={node.shape[-1]} 1={int(node.bias)} 2={kernel.size}"
        return _WEIGHTLESS[node.op]

    def _add_weights(self, node: Node, kernel: np.ndarray) -> None:
        """Adds a kernel, [out, ...], after the tag of its type, and the bias as float32."""
        tag, kind = _STORED[self._precision]
        stored = kernel.astype(kind).tobytes()
        self.content += [tag.to_bytes(4, "little"), stored, bytes(-len(stored) % 4)]
        if node.op == "conv" or node.bias:
            self.content.append(self._weights[f"{node.name}/bias"].astype("<f4").tobytes())

    def _conv(self, node: Node) -> tuple[str, str]:
        (top, bottom), (left, right) = node.padding
        kernel = self._weights[f"{node.name}/kernel"].transpose(3, 2, 0, 1)
        self._add_weights(node, kernel)
        kind = "Convolution" if node.groups == 1 else "ConvolutionDepthWise"
        return kind, (
            f"0={node.shape[-1]} 1={node.kernel[1]} 11={node.kernel[0]} 3={node.strides} "
            f"13={node.strides} 4={left} 14={top} 15={right} 16={bottom} 5=1 6={kernel.size} "
            f"9={_ACTIVATIONS.get(node.activation, 0)}"
            + (f" 7={node.groups}" if node.groups > 1 else "")
        )


def runner(folder: Path) -> Run:
    """Returns a function that runs the files in a folder, in one thread and float32."""
    with needs("ncnn"):
        import ncnn
    network = ncnn.Net()
    network.opt.num_threads = 1
    for shorter in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic",
                    "use_bf16_storage"):  # fmt: skip
        setattr(network.opt, shorter, False)
    network.load_param(str(folder / PARAM))
    network.load_model(str(folder / BIN))

    def run(image: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
        with network.create_extractor() as extractor:
            extractor.input("images", ncnn.Mat(pixels))  # a view of `pixels`
            return np.array(extractor.extract("probabilities")[1])

    return run


def _write(request: Request, path: Path) -> list[tuple[str, Run]]:
    path.mkdir()
    param, weights = ncnn_files(request.model, request.precision)
    (path / PARAM).write_text(param, "ascii", newline="\n")
    (path / BIN).write_bytes(weights)
    (path / DESCRIPTION).write_bytes(describe(request.model, request.precision).encode())
    return [(request.precision, runner(path))]


FORMAT = Format(
    name="ncnn",
    precisions=("float32", "float16"),
    write=_write,
    # People call files of their own model.param, too.
    folder=FolderKind(
        (PARAM, BIN, DESCRIPTION, card.FILE),
        lambda folder: "squeezenext" in model_directory.read_json(folder / DESCRIPTION),
    ),
)
