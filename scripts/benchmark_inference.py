"""Measures one image's latency of each network in each runtime, alternating in one run.

    python scripts/benchmark_inference.py [--networks NAME,...] [--data_dir RECORDS] \\
        [--torch_python VENV/bin/python] [--ncnn_python VENV/bin/python] [--json] [--plot FILE.png]

A network is a published model, a model directory, or a configuration, whose weights are then
random: its latency is real, its accuracy is not told. Runtimes: LiteRT, ONNX Runtime, TensorFlow
(Keras' graph), PyTorch (channels_last) and ncnn; one that is not installed is left out by name.
float32 and, for LiteRT and ONNX Runtime, int8, at 1 and 2 threads, batch 1. Every runtime loads its
network in a process of its own and waits; in each round each of them in turn runs a few images, so
that a disturbance meets all alike. Told is the median of the rounds' medians. Accuracy and the
ranges of int8 come from --data_dir; without it the ranges are those of noise.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from squeezenext import config_io, export, graph, labels, photographs, trained
from squeezenext import flags as command_line
from squeezenext.errors import InputError
from squeezenext.exporting import export_litert, export_onnx, pixels
from squeezenext.foreign.published import PUBLISHED

WORKER = Path(__file__).with_name("inference_worker.py")
NETWORKS = "squeezenet_v1_0,squeezenet_v1_1,v_1_0_SqNxt_23,v_1_0_G_SqNxt_23,v_1_0_SqNxt_23_v5"


def load(name: str) -> tuple[trained.Trained, bool]:
    """Returns a network, and whether its weights are trained."""
    if name in PUBLISHED or Path(name).is_dir():
        return trained.load(name), True
    config = config_io.load(name)
    network, random, weights = graph.of(config), np.random.default_rng(0), {}
    for node in network.weighted:
        shape = network.kernel_shape(node.name)
        kernel = random.normal(0, (1 / np.prod(shape[:-1])) ** 0.5, shape)
        weights[f"{node.name}/kernel"] = kernel.astype(np.float32)
        if node.op == "conv":
            weights[f"{node.name}/bias"] = np.zeros(shape[-1:], np.float32)
    classes = tuple(labels.Label(f"{i}", f"{i}") for i in range(config.model.classes))
    return trained.Trained(name, config, classes, network, weights), False


def write_files(model: trained.Trained, folder: Path, images) -> list[tuple[str, str, Path]]:
    """Writes what the runtimes load; returns (runtime, precision, file) of each."""
    rows = []
    for precision in ("float32", "int8"):
        for runtime, ending, convert in (
            ("litert", "tflite", export_litert.convert),
            ("onnx", "onnx", export_onnx.convert),
        ):
            path = folder / f"{precision}.{ending}"
            try:
                path.write_bytes(convert(model, precision, images))
            except InputError as error:
                print(f"{runtime} is left out: {error}", file=sys.stderr)
                continue
            rows.append((runtime, precision, path))
    rows.append(("tensorflow", "float32", folder / "network.keras"))
    rows += [("torch", "float32", folder), ("ncnn", "float32", folder)]
    network, weights = pixels.take_rgb(model.graph, model.weights, model.config.images)
    nodes = [dataclasses.asdict(node) for node in network.nodes]
    (folder / "nodes.json").write_text(json.dumps(nodes))
    oihw = {n: a.transpose(3, 2, 0, 1).copy() if a.ndim == 4 else a for n, a in weights.items()}
    np.savez(folder / "weights.npz", **oihw)
    write_ncnn(network, oihw, folder)
    return rows


def write_ncnn(network: graph.Graph, weights: dict[str, np.ndarray], folder: Path) -> None:
    """Writes network.param and .bin (github.com/Tencent/ncnn, docs: param-and-model-file)."""
    readers = {
        n.name: sum(n.name in other.inputs for other in network.nodes) for n in network.nodes
    }
    lines, blobs, used, data = [], 0, {}, []

    def take(name: str) -> str:
        """Returns the blob that the next reader of a node reads: a copy where there are more."""
        used[name] = used.get(name, -1) + 1
        return name if readers[name] == 1 else f"{name}_copy{used[name]}"

    for node in network.nodes:
        out = "logits" if node is network.nodes[-1] else node.name
        (top, bottom), (left, right) = node.padding
        window = f"1={node.kernel[1]} 11={node.kernel[0]}"
        sources = [take(name) for name in node.inputs]
        kernel = weights.get(f"{node.name}/kernel")
        if node.op == "conv":
            kind = "Convolution" if node.groups == 1 else "ConvolutionDepthWise"
            act = {"linear": 0, "relu": 1, "elu": 0}[node.activation]
            target = out if node.activation != "elu" else f"{out}_linear"
            lines.append(
                f"{kind} {node.name} 1 1 {sources[0]} {target} 0={node.shape[-1]} {window} "
                f"3={node.strides} 13={node.strides} 4={left} 14={top} 15={right} 16={bottom} 5=1 "
                f"6={kernel.size} 7={node.groups} 9={act}"
            )
            data += [np.zeros(1, np.float32), kernel, weights[f"{node.name}/bias"]]
        elif node.op == "dense":
            lines.append(
                f"InnerProduct {node.name} 1 1 {sources[0]} {out} 0={node.shape[-1]} 1=0 "
                f"2={kernel.size}"
            )
            data += [np.zeros(1, np.float32), kernel.T]
        else:
            kinds = {
                "input": ("Input", ""),
                "max_pool": (
                    "Pooling",
                    f"0=0 {window} 2={node.strides} 12={node.strides} 3={left} 13={top} 14={right} "
                    f"15={bottom} 5=1",
                ),
                "pad": ("Padding", f"0={top} 1={bottom} 2={left} 3={right}"),
                "concat": ("Concat", "0=0"),
                "add": ("BinaryOp", "0=0"),
                "global_pool": ("Pooling", "0=1 4=1"),
            }
            kind, options = kinds[node.op]
            relu = node.op == "add" and node.activation == "relu"
            target = f"{out}_linear" if relu else out
            tail = " ".join([*sources, target])
            lines.append(f"{kind} {node.name} {len(sources)} 1 {tail} {options}")
            if relu:
                lines.append(f"ReLU {node.name}_relu 1 1 {target} {out}")
                blobs += 1
        if node.activation == "elu":
            lines.append(f"ELU {node.name}_elu 1 1 {out}_linear {out} 0=1.0")
            blobs += 1
        blobs += 1
        if readers[node.name] > 1:
            copies = [f"{node.name}_copy{i}" for i in range(readers[node.name])]
            lines.append(f"Split {node.name}_split 1 {len(copies)} {node.name} {' '.join(copies)}")
            blobs += len(copies)
    text = f"7767517\n{len(lines)} {blobs}\n" + "\n".join(lines) + "\n"
    (folder / "network.param").write_text(text)
    content = b"".join(np.ascontiguousarray(a, "<f4").tobytes() for a in data)
    (folder / "network.bin").write_bytes(content)
    (folder / "size").write_text(str(network.nodes[0].shape[0]))


class Worker:
    """A runtime with a network loaded, in a process that waits."""

    def __init__(self, python: str, runtime: str, path: Path, threads: int):
        environment_bound = [python, str(WORKER), runtime, str(path), str(threads)]
        self._process = subprocess.Popen(
            environment_bound, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        line = self._process.stdout.readline()
        if not line.startswith("ready "):
            told = self._process.stderr.read().strip().splitlines() or ["it ended"]
            self._process.wait()
            raise OSError(told[-1])
        self.version = line.split()[1]
        self.medians: list[float] = []

    def run(self, images: int) -> None:
        self._process.stdin.write(f"{images}\n")
        self._process.stdin.flush()
        self.medians.append(statistics.median(json.loads(self._process.stdout.readline())))

    def end(self) -> None:
        self._process.communicate(timeout=60)


def start(rows, threads: list[int], pythons: dict[str, str]) -> dict[tuple, Worker]:
    workers, missing = {}, set()
    for runtime, precision, path in rows:
        for count in () if runtime in missing else threads:
            python = pythons.get(runtime) or sys.executable
            try:
                workers[runtime, precision, count] = Worker(python, runtime, path, count)
            except OSError as error:
                print(f"{runtime} is left out: {error}", file=sys.stderr)
                missing.add(runtime)
                break
    return workers


def accuracy(model, precision: str, runtime: str, path: Path, tests) -> export.Measured:
    run = (
        export_litert.runner(path.read_bytes(), precision)
        if runtime == "litert"
        else export_onnx.runner(path.read_bytes())
    )
    return export.measure(run, export.reference(model), tests)


def benchmark(name: str, values) -> list[dict]:
    """Returns a row for each runtime, precision and number of threads."""
    model, is_trained = load(name)
    size, data_dir = model.config.images.size, values["data_dir"].value
    images, tests = [np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)] * 4, []
    if data_dir and is_trained:
        like = model.config.images, model.labels
        shown = photographs.read(data_dir, ("train", "validation"), 200, *like)
        images = [image for image, _ in shown]
        tests = [*photographs.read(data_dir, ("validation",), values["images"].value, *like)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = write_files(model, folder, images)
        _keras(model, folder / "network.keras")
        threads = [int(count) for count in values["threads"].value]
        pythons = {"torch": values["torch_python"].value, "ncnn": values["ncnn_python"].value}
        workers = start(rows, threads, pythons)
        for _ in range(values["rounds"].value):
            for worker in workers.values():
                worker.run(values["runs"].value)
        measured = {}
        for runtime, precision, path in rows if tests else ():
            if runtime in ("litert", "onnx"):
                measured[runtime, precision] = accuracy(model, precision, runtime, path, tests)
        sizes = {(runtime, precision): _bytes(runtime, path) for runtime, precision, path in rows}
    found = []
    for (runtime, precision, count), worker in workers.items():
        worker.end()
        known = measured.get((runtime, precision)) or measured.get(("litert", precision))
        found.append(
            {
                "network": name,
                "runtime": runtime,
                "version": worker.version,
                "precision": precision,
                "threads": count,
                "milliseconds": round(statistics.median(worker.medians), 3),
                "rounds": [round(median, 3) for median in worker.medians],
                "bytes": sizes[runtime, precision],
                "top1": known.top1 if known else None,
                "images": known.images if known else 0,
            }
        )
    return found


def _keras(model, path: Path) -> None:
    from squeezenext.exporting import export_keras

    export_keras.write_keras(model, path)


def _bytes(runtime: str, path: Path) -> int:
    names = {"torch": ["weights.npz"], "ncnn": ["network.param", "network.bin"]}.get(runtime)
    return sum((path / name).stat().st_size for name in names) if names else path.stat().st_size


def show(rows: list[dict]) -> None:
    print(f"{'network':22}{'runtime':12}{'numbers':9}{'threads':>7}{'ms':>9}{'bytes':>12}  top-1")
    for row in rows:
        top1 = "" if row["top1"] is None else f"{row['top1']:.4f} of {row['images']:,}"
        print(
            f"{row['network']:22}{row['runtime']:12}{row['precision']:9}{row['threads']:>7}"
            f"{row['milliseconds']:>9.2f}{row['bytes']:>12,}  {top1}"
        )


def plot(rows: list[dict], path: Path) -> None:
    """Draws accuracy (where it is known) against latency at one thread, and against size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row["top1"] is not None and row["threads"] == 1]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for row in rows:
        marker = "o" if row["precision"] == "float32" else "s"
        text = f"{row['network']}, {row['runtime']} {row['precision']}"
        for axis, value in zip(axes, (row["milliseconds"], row["bytes"] / 1e6), strict=True):
            axis.scatter(value, 100 * row["top1"], marker=marker)
            axis.annotate(text, (value, 100 * row["top1"]), fontsize=6)
    axes[0].set(xlabel="ms an image, 1 thread", ylabel="top-1, %")
    axes[1].set(xlabel="MB")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(argv=None) -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_list("networks", NETWORKS, "Models, directories, configurations.", **at)
    flags.DEFINE_list("threads", "1,2", "How many a run may use.", **at)
    flags.DEFINE_integer("rounds", 15, "How often all take their turn.", 1, **at)
    flags.DEFINE_integer("runs", 20, "Images a turn.", 1, **at)
    flags.DEFINE_string("data_dir", None, "Records, for accuracy and the ranges of int8.", **at)
    flags.DEFINE_integer("images", 2000, "Accuracy is measured on at most these.", 1, **at)
    flags.DEFINE_string("torch_python", None, "A Python that has PyTorch.", **at)
    flags.DEFINE_string("ncnn_python", None, "A Python that has ncnn.", **at)
    flags.DEFINE_string("plot", None, "A PNG of accuracy against latency and size.", **at)
    flags.DEFINE_bool("json", False, "One JSON document on standard output.", **at)

    def command(values, positional):
        if positional:
            raise InputError(f"Unexpected argument {positional[0]!r}; flags begin with --.")
        rows = [row for name in values["networks"].value for row in benchmark(name, values)]
        if values["plot"].value:
            plot(rows, Path(values["plot"].value))
        if values["json"].value:
            print(json.dumps(rows))
        else:
            show(rows)

    return command_line.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
