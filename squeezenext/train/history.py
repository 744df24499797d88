"""What one sees of a run: a line and a CSV row an epoch, TensorBoard, progress."""

import collections
import contextlib
import csv
import functools
import io
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from squeezenext.errors import InputError
from squeezenext.files import write_text
from squeezenext.model import directory as model_directory
from squeezenext.progress import Bar

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
    "skipped",
)
LOG = logging.getLogger("squeezenext")
LINE_SECONDS = 60.0
_Held = collections.deque[tuple[int, Callable[[], object]]]  # (step, what writes a point)
_MOST_HELD = 10_000  # points: those of hours in which the disk is full; then the oldest are lost


class _File(logging.FileHandler):
    """A log file whose disk may fill up: that must not end a run."""

    def handleError(self, record):
        del record


def log_to(path: Path | None) -> None:
    """Sends the run's lines to standard error and, where given, to a file."""
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        handlers.append(_File(path, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


def note(reason: str) -> None:
    """Puts why a run ends into the log file alone; standard error is told by the command."""
    record = LOG.makeRecord(LOG.name, logging.ERROR, "", 0, f"error: {reason}", (), None)
    for handler in LOG.handlers:
        if isinstance(handler, _File):
            handler.handle(record)


class History:
    """history.csv and TensorBoard's curves, without doubled points after a restart.

    Points are held back until the checkpoint they belong to is committed: what a kill makes the
    run do again is shown once.
    """

    def __init__(self, directory: Path, resumed_step: int):
        self._path = directory / model_directory.HISTORY
        self._rows = [row for row in _read_rows(self._path) if int(row["step"]) <= resumed_step]
        self._held: _Held = collections.deque(maxlen=_MOST_HELD)
        self._writer = tf.summary.create_file_writer(str(directory / "tensorboard"))

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve, e.g. "train/loss"."""
        for name, value in values.items():
            self._hold(step, tf.summary.scalar, name, value, step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Adds the distribution of some numbers."""
        self._hold(step, tf.summary.histogram, name, values, step)

    def images(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Adds [n, height, width, 3] uint8 images."""
        self._hold(step, functools.partial(tf.summary.image, max_outputs=16), name, pixels, step)

    def graph(self, function) -> None:
        """Adds a tf.function's graph."""
        graph = function.get_concrete_function().graph
        self._hold(0, tf.summary.graph, graph)

    def _hold(self, step: int, write: Callable, *arguments) -> None:
        self._held.append((step, functools.partial(write, *arguments)))

    def row(self, step: int, **values: Any) -> None:
        """Adds a row to history.csv, in place of an earlier one of this step."""
        values["step"] = step
        self._rows = [row for row in self._rows if int(row["step"]) != step]
        self._rows.append({name: values.get(name, "") for name in COLUMNS})

    def rewind(self, step: int) -> None:
        """Forgets what was held back of later steps: the run goes back to this one."""
        kept = [held for held in self._held if held[0] <= step]
        self._held = collections.deque(kept, _MOST_HELD)
        self._rows = [row for row in self._rows if int(row["step"]) <= step]

    def write_rows(self) -> None:
        """Writes history.csv; before the checkpoint, since a resumed run drops later rows.

        Raises:
          OSError: the disk is full.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._path, text.getvalue())

    def commit(self) -> None:
        """Writes what was held back for TensorBoard; after the checkpoint.

        Raises:
          tf.errors.OpError: the disk is full.
        """
        with self._writer.as_default():
            while self._held:
                self._held[0][1]()
                self._held.popleft()  # only now, and never again: it has been written
        self._writer.flush()

    def close(self) -> None:
        """Closes TensorBoard's file; what a full disk keeps from it is lost."""
        with contextlib.suppress(tf.errors.OpError):
            self._writer.close()


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows that name a step, whatever a person or another release has made of others.

    Raises:
      InputError: it is no table at all.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            return [row for row in csv.DictReader(file) if (row.get("step") or "").isdecimal()]
    except csv.Error as error:
        raise InputError(f"{path} is no table ({error}); move it elsewhere and go on.") from error


class ProgressBar(Bar):
    """The progress of a training; elsewhere than on a terminal a line a minute."""

    def __init__(self, total: int, done: int):
        super().__init__(
            "Training",
            total,
            done=done,
            seconds=LINE_SECONDS,
            log=LOG.info,
            timed_from_first=True,  # before it the graph was built
        )
        self._steps = total

    def show(self, step: int, epoch: float, rate: float, loss: float) -> None:
        """Shows where the run stands; `rate` in images a second."""
        self.update(
            step,
            f"step {step} of {self._steps}, epoch {epoch:.2f}, loss {loss:.4f}, "
            f"{rate:.0f} images/s",
        )
