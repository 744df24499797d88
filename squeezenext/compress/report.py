"""What compression tells: a row a layer, and top-1 before and after."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from squeezenext.images import decoding
from squeezenext.litert import writer
from squeezenext.litert.runner import Runner
from squeezenext.model.loading import Trained
from squeezenext.records import samples
from squeezenext.sqz.file import Encoded


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer of the report: `error` is the relative one of its weights, root mean square."""

    layer: str
    weights: int
    density: float
    values: int
    bits: float  # a weight, zeros included
    bytes: int
    error: float


def rows(model: Trained, weights: Mapping[str, np.ndarray], encoded: Encoded) -> list[Row]:
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


class Examination:
    """The same images of a split that no training saw, answered before and after.

    Args:
      model: the network; it is examined at once.
      data_dir: records.
      split: of them, one of `photographs.TESTED`.
      images: how many are looked at, at most.
    """

    def __init__(self, model: Trained, data_dir: str | Path, split: str, images: int):
        self._model, self._data_dir, self._images = model, data_dir, images
        self._split = split
        self._before = self._answers(model.weights)

    def _answers(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns [images, 2]: each one's class and what the network takes it for."""
        config = self._model.config
        runner = Runner(writer.write(self._model.graph, weights), 2, "the network")
        shown = samples.read(
            self._data_dir, (self._split,), self._images, config.images, self._model.labels
        )
        return np.array(
            [(label, int(runner.run(as_input(x, config))[0].argmax())) for x, label in shown]
        )

    def told(self, weights: Mapping[str, np.ndarray]) -> dict:
        """Returns {"split", "images", "before", "after", "agreement"}: top-1 as shares."""
        labels, before = self._before.T
        after = self._answers(weights)[:, 1]
        return {
            "split": self._split,
            "images": len(labels),
            "before": float((before == labels).mean()),
            "after": float((after == labels).mean()),
            "agreement": float((before == after).mean()),
        }


def as_input(pixels: np.ndarray, config) -> np.ndarray:
    """Returns what the network reads of `photographs.read`'s pixels."""
    return decoding.normalize(pixels.astype(np.float32), config.images)


def show(report: dict) -> None:
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
