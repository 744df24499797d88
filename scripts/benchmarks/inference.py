r"""Measures the latency of one image for each network in each runtime, in alternation.

    python scripts/benchmarks/inference.py [--networks NAME,...] [--data_dir RECORDS] \
        [--torch_python VENV/bin/python] [--ncnn_python VENV/bin/python] [--json] [--plot FILE.png]

A network is a published model, a model directory or a configuration. A configuration gets random
weights: its latency is real, its accuracy is not reported. The runtimes are LiteRT, ONNX Runtime,
TensorFlow (Keras' graph), PyTorch (channels_last) and ncnn. A runtime is skipped by name if it is
not installed or its logits differ from the network's by more than 1e-3. Precisions are float32 and,
for LiteRT and ONNX Runtime, int8, with 1 and 2 threads, at batch size 1.

Each runtime loads its network in its own process and waits. In each round, each of them in turn
runs a few images, so that a disturbance affects all alike. The measured time is from an array in
the runtime's layout to the logits as an array; the result is the median of the rounds' medians.
The images for accuracy, which is measured in the same processes, and for int8 ranges are those of
--data_dir; without it, ranges are those of noise.
"""

import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.benchmarks.peers import runtimes
from scripts.benchmarks.peers.runtimes import Row, Worker
from squeezenext import cli as command_line
from squeezenext import labels
from squeezenext.config import io as config_io
from squeezenext.config.zoo import PUBLISHED
from squeezenext.errors import InputError
from squeezenext.export import checking
from squeezenext.export import ncnn as export_ncnn
from squeezenext.export import onnx as export_onnx
from squeezenext.litert import int8, writer
from squeezenext.litert.writer import Float32
from squeezenext.model import loading
from squeezenext.network import graph, rgb
from squeezenext.network.model import Model
from squeezenext.records import samples

NETWORKS = "squeezenet_v1_0,squeezenet_v1_1,v_1_0_SqNxt_23,v_1_0_G_SqNxt_23,v_1_0_SqNxt_23_v5"


def load(name: str) -> tuple[Model, bool]:
    """Returns a network, and whether its weights are trained."""
    if name in PUBLISHED or Path(name).is_dir():
        return loading.load(name), True
    config = config_io.load(name)
    network, random, weights = graph.of(config), np.random.default_rng(0), {}
    for node in network.weighted:
        shape = network.kernel_shape(node.name)
        kernel = random.normal(0, (1 / np.prod(shape[:-1])) ** 0.5, shape)
        weights[f"{node.name}/kernel"] = kernel.astype(np.float32)
        if node.op == "conv" or node.bias:
            weights[f"{node.name}/bias"] = np.zeros(shape[-1:], np.float32)
    classes = tuple(labels.Label(f"{i}", f"{i}") for i in range(config.model.classes))
    return Model(name, config, classes, weights), False


def write_files(model: Model, folder: Path, images) -> list[Row]:
    """Writes what the runtimes load: networks that read RGB pixels and give logits.

    A fitted temperature is left out: the logits that are compared are the network's own.
    """
    model = dataclasses.replace(model, temperature=1.0)
    network, weights = rgb.take_rgb(model.graph, model.weights, model.config.images)
    rows = []
    for precision in ("float32", "int8"):
        integers = int8.calibrated(network, weights, images) if precision == "int8" else Float32()
        path = folder / f"{precision}.tflite"
        path.write_bytes(writer.write(network, weights, numbers=integers))
        rows.append(Row("litert", precision, path, (path,)))
        path = folder / f"{precision}.onnx"
        try:
            path.write_bytes(export_onnx.onnx_file(model, precision, images))
        except InputError as error:
            print(f"onnx is left out: {error}", file=sys.stderr)
        else:
            rows.append(Row("onnx", precision, path, (path,)))
    oihw = {n: a.transpose(3, 2, 0, 1).copy() if a.ndim == 4 else a for n, a in weights.items()}
    (folder / "nodes.json").write_text(json.dumps([dataclasses.asdict(x) for x in network.nodes]))
    np.savez(folder / "weights.npz", **oihw)
    param, weights = export_ncnn.ncnn_files(model, "float32")
    (folder / export_ncnn.PARAM).write_text(param)
    (folder / export_ncnn.BIN).write_bytes(weights)
    keras = folder / "network.keras"
    _keras(model, keras)
    return [
        *rows,
        Row("tensorflow", "float32", keras, (keras,)),
        Row("torch", "float32", folder, (folder / "weights.npz",)),
        Row("ncnn", "float32", folder, (folder / export_ncnn.PARAM, folder / export_ncnn.BIN)),
    ]


def _keras(model: Model, path: Path) -> None:
    from squeezenext.export import keras as export_keras

    export_keras.write(model, path)


def _images(name: str, model, is_trained: bool, values) -> tuple[list, list]:
    """Returns what int8 is calibrated on, and pairs of images and classes, if any are known."""
    data_dir, size = values["data_dir"].value, model.config.images.size
    if not data_dir or not is_trained:
        return [np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)] * 4, []
    calibration = checking.images(model, data_dir, checking.CALIBRATION_IMAGES)
    like = (values["images"].value, model.config.images, model.labels)
    return calibration, [*samples.read(data_dir, samples.TESTED, *like)]


def benchmark(name: str, values) -> list[dict]:
    """Returns a row for each runtime, precision and number of threads."""
    model, is_trained = load(name)
    calibration, tests = _images(name, model, is_trained, values)
    with tempfile.TemporaryDirectory() as place:
        folder, shown = Path(place), Path(place) / "images.npy"
        np.save(shown, np.stack([x for x, _ in tests] or calibration))
        rows = write_files(model, folder, calibration)
        pythons = {"torch": values["torch_python"].value, "ncnn": values["ncnn_python"].value}
        workers = runtimes.start(rows, [int(x) for x in values["threads"].value], pythons)
        workers = runtimes.right_ones(workers, model, shown)
        for _ in range(values["rounds"].value):
            for worker in workers:
                worker.run(shown, values["runs"].value)
        return [_row(name, worker, shown, [label for _, label in tests]) for worker in workers]


def _row(name: str, worker: Worker, images: Path, classes: list[int]) -> dict:
    right = (worker.answers(images).argmax(1) == classes).mean() if classes else None
    worker.end()
    return {
        "network": name,
        "runtime": worker.row.runtime,
        "version": worker.version,
        "precision": worker.row.precision,
        "threads": worker.threads,
        "milliseconds": round(statistics.median(worker.medians), 3),
        "rounds": [round(median, 3) for median in worker.medians],
        "bytes": worker.row.bytes,
        "top1": None if right is None else float(right),
        "images": len(classes),
    }


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
            axis.scatter(value, 100 * row["top1"], marker=marker, label=text)
    axes[0].set(xlabel="ms an image, 1 thread", ylabel="top-1, %")
    axes[1].set(xlabel="MB")
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(argv=None) -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_list("networks", NETWORKS, "Models, directories, configurations.", **at)
    flags.DEFINE_list("threads", "1,2", "Numbers of threads.", **at)
    flags.DEFINE_integer("rounds", 15, "Number of rounds.", 1, **at)
    flags.DEFINE_integer("runs", 20, "Number of images a turn.", 1, **at)
    flags.DEFINE_string("data_dir", None, "Records, for accuracy and the ranges of int8.", **at)
    flags.DEFINE_integer("images", 2000, "Maximum number of images for accuracy.", 1, **at)
    flags.DEFINE_string("torch_python", None, "A Python that has PyTorch.", **at)
    flags.DEFINE_string("ncnn_python", None, "A Python that has ncnn.", **at)
    flags.DEFINE_string("plot", None, "PNG to write: accuracy against latency and size.", **at)
    flags.DEFINE_bool("json", False, "Print JSON.", **at)

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
