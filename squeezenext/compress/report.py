"""The report of a compression: a row per layer, and top-1 before and after."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from squeezenext.config import Config
from squeezenext.images import geometry
from squeezenext.litert import writer
from squeezenext.litert.runner import Runner
from squeezenext.network.model import Model
from squeezenext.records import samples
from squeezenext.sqz.file import Encoded


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer of the report.

    Attributes:
      layer: its name.
      weights: number of weights, zeros included.
      density: share of the weights that are not 0.
      values: number of different values, without 0.
      bits: bits per weight, zeros included.
      bytes: bytes of the file, about.
      error: relative error of the weights, root mean square.
    """

    layer: str
    weights: int
    density: float
    values: int
    bits: float
    bytes: int
    error: float


def rows(model: Model, weights: Mapping[str, np.ndarray], encoded: Encoded) -> list[Row]:
    """Compares the file's weights, layer by layer, with the model's."""
    found = []
    for name, size in encoded.layers.items():
        dense, kernel = model.weights[f"{name}/kernel"], weights[f"{name}/kernel"]
        error = np.sqrt(np.square(kernel - dense, dtype=np.float64).sum())
        scale = np.sqrt(np.square(dense, dtype=np.float64).sum()) or 1.0
        found.append(
            Row(
                layer=name,
                weights=kernel.size,
                density=round(float((kernel != 0).mean()), 4),
                values=len(np.unique(kernel[kernel != 0])),
                bits=round(8 * size / kernel.size, 3),
                bytes=size,
                error=round(float(error / scale), 5),
            )
        )
    return found


def answers(
    model: Model,
    weights: Mapping[str, np.ndarray],
    data_dir: str | Path,
    split: str,
    images: int,
) -> np.ndarray:
    """Names images of a split.

    Args:
      model: the network.
      weights: its weights, or those of a compressed form.
      data_dir: records.
      split: one of `samples.TESTED`, on which nothing was trained.
      images: number of images, at most.

    Returns:
      [images, 2] integers: each image's class, and the class that the network puts first.
    """
    config = model.config
    runner = Runner(writer.write(model.graph, weights), 2, "the network")
    read = samples.read(data_dir, (split,), images, config.images, model.labels)
    return np.array(
        [(label, int(runner.run(normalized(x, config))[0].argmax())) for x, label in read]
    )


def accuracy(split: str, before: np.ndarray, after: np.ndarray) -> dict:
    """Returns {"split", "images", "before", "after", "agreement"} of two sets of `answers`.

    The last three are shares: top-1 before, top-1 after, and the images with the same first class.
    """
    labels = before[:, 0]
    return {
        "split": split,
        "images": len(labels),
        "before": float((before[:, 1] == labels).mean()),
        "after": float((after[:, 1] == labels).mean()),
        "agreement": float((before[:, 1] == after[:, 1]).mean()),
    }


def normalized(pixels: np.ndarray, config: Config) -> np.ndarray:
    """Returns the network's input, float32, for pixels of `samples.read`."""
    return geometry.normalize(pixels.astype(np.float32), config.images)


def print_table(report: dict) -> None:
    """Prints the report as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("layer", "weights", "density", "values", "bits", "bytes", "error"):
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for row in report["layers"]:
        table.add_row(
            row["layer"],
            f"{row['weights']:,}",
            f"{row['density']:.3f}",
            str(row["values"]),
            f"{row['bits']:.2f}",
            f"{row['bytes']:,}",
            f"{row['error']:.4f}",
        )
    console = Console()
    console.print(table)
    ratio = report["dense_bytes"] / report["bytes"]
    console.print(f"{report['file']}: {report['bytes']:,} bytes, 1/{ratio:.1f} of float32.")
    if accuracy := report["accuracy"]:
        console.print(
            f"top-1 on {accuracy['images']:,} {accuracy['split']} images: "
            f"{accuracy['before']:.4f} before, {accuracy['after']:.4f} after; the same answer on "
            f"{accuracy['agreement']:.2%}."
        )
