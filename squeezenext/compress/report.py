"""The report of a compression: a row per layer, and top-1 before and after."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from squeezenext.cli import say
from squeezenext.compress.allocation import Compressed
from squeezenext.config import Config
from squeezenext.images import geometry
from squeezenext.litert import writer
from squeezenext.litert.runner import Runner
from squeezenext.network.model import Model
from squeezenext.records import samples
from squeezenext.sqz.file import Encoded

# Formats of the table's columns.
_FORMATS = {"layer": "", "weights": ",", "density": ".3f", "values": "", "bits": ".2f"}
_FORMATS |= {"bytes": ",", "error": ".4f"}


def rows(model: Model, weights: Mapping[str, np.ndarray], encoded: Encoded) -> list[dict]:
    """Compares the file's weights, layer by layer, with the model's.

    Returns:
      Of each layer: its name; the number of weights, zeros included; the share that is not 0; the
      number of different values, without 0; the bits per weight and bytes of the file, about; the
      relative error of the weights, root mean square.
    """
    found = []
    for name, size in encoded.layers.items():
        dense, kernel = model.weights[f"{name}/kernel"], weights[f"{name}/kernel"]
        error = np.sqrt(np.square(kernel - dense, dtype=np.float64).sum())
        scale = np.sqrt(np.square(dense, dtype=np.float64).sum()) or 1.0
        row = {
            "layer": name,
            "weights": kernel.size,
            "density": round(float((kernel != 0).mean()), 4),
            "values": len(np.unique(kernel[kernel != 0])),
            "bits": round(8 * size / kernel.size, 3),
            "bytes": size,
            "error": round(float(error / scale), 5),
        }
        found.append(row)
    return found


def answers(
    model: Model,
    logits: Callable[[np.ndarray], np.ndarray],
    data_dir: str | Path,
    split: str,
    images: int,
) -> np.ndarray:
    """Returns label and first class of at most `images` images of a split, [images, 2] integers.

    `logits` is a function of RGB pixels, [size, size, 3] uint8.
    """
    read = samples.read(data_dir, (split,), images, model.config.images, model.labels)
    return np.array([(label, logits(pixels).argmax()) for pixels, label in read])


def _floats(model: Model, weights: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that computes the logits of a model with other weights."""
    runner = Runner(writer.write(model.graph, weights), 2, "the network")
    return lambda pixels: runner.run(normalized(pixels, model.config))[0]


def accuracy(
    model: Model, data_dir: str | Path, split: str, images: int
) -> Callable[[Compressed], dict]:
    """Classifies images of a split, on which nothing was trained, before the compression.

    Returns:
      A function of the compressed network that classifies the same images and returns {"split",
      "images", "before", "after", "agreement"}. The last three are shares: top-1 before and after,
      and the images with the same first class.
    """
    labels, before = answers(model, _floats(model, model.weights), data_dir, split, images).T

    def compare(made: Compressed) -> dict:
        logits = made.network.run if made.network else _floats(model, made.weights)
        after = answers(model, logits, data_dir, split, images)[:, 1]
        return {
            "split": split,
            "images": len(labels),
            "before": float((before == labels).mean()),
            "after": float((after == labels).mean()),
            "agreement": float((before == after).mean()),
        }

    return compare


def normalized(pixels: np.ndarray, config: Config) -> np.ndarray:
    """Returns the network's input, float32, for pixels of `samples.read`."""
    return geometry.normalize(pixels.astype(np.float32), config.images)


def print_table(report: dict) -> None:
    """Prints the report as a table."""
    table = Table()
    for column in _FORMATS:
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for row in report["layers"]:
        table.add_row(*(format(row[column], how) for column, how in _FORMATS.items()))
    Console().print(table)
    ratio = report["dense_bytes"] / report["bytes"]
    say(f"{report['file']}: {report['bytes']:,} bytes, 1/{ratio:.1f} of float32.")
    if accuracy := report["accuracy"]:
        say(
            f"top-1 on {accuracy['images']:,} {accuracy['split']} images: "
            f"{accuracy['before']:.4f} before, {accuracy['after']:.4f} after; the same answer on "
            f"{accuracy['agreement']:.2%}."
        )
