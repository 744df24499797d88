"""When a run is saved, and what becomes of a save that fails."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from squeezenext.errors import InputError, RunAgain
from squeezenext.training.history import LOG, History
from squeezenext.training.snapshots import Progress, Snapshots

RETRY_SECONDS = 60.0  # after a save that failed


class Saver:
    """Saves one run every so many minutes, and when it is told to.

    Args:
      snapshots: of the run.
      history: the chief's; written with each checkpoint.
      model_dir: for messages.
      minutes: between two checkpoints.
      also: writes what else each save is to bring up to date; it may raise OSError.
    """

    def __init__(
        self,
        snapshots: Snapshots,
        history: History | None,
        model_dir: Path,
        minutes: float,
        also: Callable[[], None],
    ):
        self._snapshots = snapshots
        self._history = history
        self._model_dir = model_dir
        self._also = also
        self._seconds = 60 * minutes
        self.amended = True  # the newest checkpoint is as it should be
        self._next = time.monotonic() + self._seconds

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._next

    def save(self, progress: Progress, state: dict[str, np.ndarray], must: bool) -> None:
        """Commits a checkpoint; where that fails, training goes on unless it `must` succeed.

        Args:
          state: `Loop.state()`, which all workers must have called together.

        Raises:
          RunAgain: it had to.
        """
        self._next = time.monotonic() + self._seconds

        def save() -> None:
            self._also()
            self._snapshots.save(progress, state)

        self._write(save, must, "Training goes on; the next try is in a minute")

    def end(self) -> None:
        """Brings the rest up to date once more, after the last checkpoint. Raises as `save`."""
        self._write(self._also, must=True)

    def amend(self, progress: Progress) -> None:
        """Adds to the checkpoint of this step what an evaluation has found out."""
        write, later = lambda: self._snapshots.amend(progress), "It will be saved anew"
        self.amended = self._write(write, must=False, later=later)

    def _write(self, write: Callable[[], None], must: bool, later: str = "") -> bool:
        step = self._snapshots.step
        try:
            if self._history:
                self._history.write_rows()
            write()
        except (OSError, InputError) as error:
            reason = getattr(error, "strerror", None) or str(error).rstrip(".")
            sentence = f"Step {step} cannot be saved in {self._model_dir}: {reason}"
            if must:
                raise RunAgain(
                    f"{sentence}; the last checkpoint is {self._snapshots.last()}. Make room and "
                    "run again to go on from there."
                ) from error
            LOG.warning("%s. %s.", sentence, later)
            self._next = time.monotonic() + RETRY_SECONDS
            return False
        self._commit(step)
        return True

    def _commit(self, step: int) -> None:
        """TensorBoard's curves are no part of what a run needs to go on."""
        try:
            if self._history:
                self._history.commit()
        except tf.errors.OpError as error:
            reason = error.message.splitlines()[0]
            LOG.warning("TensorBoard's curves up to step %d cannot be written: %s.", step, reason)
