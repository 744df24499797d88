"""What one sees of a run: a line and a CSV row an epoch, TensorBoard, progress."""

import csv
import io
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from squeezenext.atomic import write_file

COLUMNS = (
    "epoch",
    "step",
    "examples_seen",
    "learning_rate",
    "loss",
    "top1",
    "top5",
    "validation_loss",
    "validation_top1",
    "validation_top5",
    "images_per_second",
    "seconds",
)
LOG = logging.getLogger("squeezenext")


def log_to(path: Path | None) -> None:
    """Sends the run's lines to standard error and, where given, to a file."""
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


class History:
    """history.csv and TensorBoard's curves, without doubled points after a restart.

    Points are held back until the checkpoint they belong to is committed (`commit`): what a kill
    makes the run do again is shown once.
    """

    def __init__(self, directory: Path, resumed_step: int):
        self._path = directory / "history.csv"
        self._rows = [row for row in _read_rows(self._path) if int(row["step"]) <= resumed_step]
        self._points: list[tuple[str, float, int]] = []
        self._writer = tf.summary.create_file_writer(str(directory / "tensorboard"))

    def point(self, step: int, **values: float) -> None:
        """Adds a point to each named curve."""
        self._points += [(name.replace("__", "/"), value, step) for name, value in values.items()]

    def row(self, **values: Any) -> None:
        """Adds a row to history.csv; a column without a value stays empty."""
        self._rows.append({name: values.get(name, "") for name in COLUMNS})

    def commit(self) -> None:
        """Writes everything held back."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_file(self._path, lambda file: file.write_text(text.getvalue(), "utf-8"))
        with self._writer.as_default():
            for name, value, step in self._points:
                tf.summary.scalar(name, value, step)
        self._writer.flush()
        self._points = []

    def images(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Shows [n, height, width, 3] uint8 images in TensorBoard."""
        with self._writer.as_default():
            tf.summary.image(name, pixels, step, max_outputs=16)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Shows the distribution of some numbers in TensorBoard."""
        with self._writer.as_default():
            tf.summary.histogram(name, values, step)

    def graph(self, function) -> None:
        """Shows a tf.function's graph in TensorBoard."""
        with self._writer.as_default():
            tf.summary.graph(function.get_concrete_function().graph)

    def close(self) -> None:
        self._writer.close()


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]


class ProgressBar:
    """A bar on a terminal, nothing elsewhere (a log has the epochs' lines)."""

    def __init__(self, total: int, done: int):
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]:.2f}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} images/s, loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty() or bool(os.environ.get("CI")),
        )
        self._task = self._bar.add_task(
            "train", total=total, completed=done, epoch=0, rate=0, loss=0
        )

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bar.stop()

    def update(self, step: int, epoch: float, rate: float, loss: float) -> None:
        self._bar.update(self._task, completed=step, epoch=epoch, rate=rate, loss=loss)
