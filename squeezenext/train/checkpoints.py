"""A run's checkpoints: what is saved beside the arrays, and what a run that goes on demands."""

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import squeezenext
from squeezenext import tf_import
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.errors import InputError, RunAgain
from squeezenext.model import checkpoint
from squeezenext.model import directory as model_directory
from squeezenext.records import bad_records
from squeezenext.records.reader import Reader
from squeezenext.train import devices
from squeezenext.train.history import LOG, History
from squeezenext.train.loop import Loop, Sums

# The damaged records that a run leaves out: one list of all workers, written with each save.


def share(reader: Reader, strategy: tf.distribute.Strategy) -> None:
    """Tells all workers what any of them has left out; all must call this together.

    Raises:
      InputError: together that is too much.
    """
    if (bad := reader.bad) is None:
        return
    mine = bad.numbers
    most = devices.exchange(strategy, [len(mine)]).max()
    if most:
        rows = devices.exchange(strategy, mine + [-1] * (most - len(mine)))
        bad.merge(rows[rows >= 0].tolist())


def write(reader: Reader, model_dir: Path) -> None:
    """Lists them in the model directory. Raises OSError."""
    if reader.bad is not None:
        reader.bad.write(model_dir / bad_records.FILE)


_WARMUP = "training.warmup_epochs"


@dataclasses.dataclass
class Progress:
    """Where a run stands beside what its variables say.

    Attributes:
      epoch_sums: of the epoch's steps so far.
      epoch_seconds: that they took, but for a process's first, which builds the graph.
      epoch_timed: images trained on in these seconds.
      best: {"step", "top1"} of the best evaluation, or None.
      epoch_ended: saved at the end of an epoch whose evaluation is still to come.
      passed_over: examples left out of the order of training; see nan.py.
      rollbacks: what each of them was, as JSON.
    """

    epoch_sums: Sums = Sums(0, 0, 0.0, 0.0, 0.0)
    epoch_seconds: float = 0.0
    epoch_timed: int = 0
    best: dict[str, Any] | None = None
    epoch_ended: bool = False
    passed_over: int = 0
    rollbacks: list[dict[str, int]] = dataclasses.field(default_factory=list)

    def took(self, sums: Sums, seconds: float, images: int) -> None:
        """Adds a call; `images`: on which it trained in these seconds."""
        self.epoch_sums += sums
        self.epoch_seconds += seconds
        self.epoch_timed += images

    def new_epoch(self) -> None:
        """Begins the next epoch's sums."""
        self.epoch_sums = Sums(0, 0, 0.0, 0.0, 0.0)
        self.epoch_seconds, self.epoch_timed = 0.0, 0
        self.epoch_ended = False


class Snapshots:
    """Saves and takes up one run. Only the chief writes; all workers call all methods together.

    Args:
      loop: whose state it is.
      model_dir: on storage that all workers share.
      examples: in an epoch.
      chief: whether this process writes.
      keep: so many of the newest stay.
    """

    def __init__(self, loop: Loop, model_dir: Path, *, examples: int, chief: bool, keep: int):
        self._loop = loop
        self._model_dir = model_dir
        self._directory = model_dir / model_directory.CHECKPOINTS
        self._examples = examples
        self._chief = chief
        self._keep = keep

    @property
    def step(self) -> int:
        """At which the run stands."""
        return int(self._loop.update.step.numpy())

    def resume(self) -> Progress | None:
        """Takes up the newest whole checkpoint, the same on all workers; None: there is none.

        Raises:
          InputError: none is whole, it is of another network or recipe, or a worker has no sight
            of it.
        """
        found = self._agreed()
        if found is None:
            return None
        state, meta = found
        self._check(meta)
        try:
            exact = self._loop.restore(state, meta.get("precision"))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"The checkpoint in {self._model_dir} is of another recipe ({error}); choose "
                "another directory."
            ) from error
        if not exact:
            LOG.warning(
                "The run was saved on %d devices and goes on on %d: each begins with the mean of "
                "their moving statistics.",
                meta.get("replicas", 1),
                self._loop.share.total,
            )
        fields = {field.name for field in dataclasses.fields(Progress)} & set(meta)
        progress = Progress(**{name: meta[name] for name in fields})
        progress.epoch_sums = Sums(**meta["epoch_sums"])
        self._loop.passed_over = progress.passed_over
        return progress

    def _agreed(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The chief chooses: on storage with caches a worker may still see an older directory."""
        found = checkpoint.newest(self._directory, LOG.info) if self._chief else None
        strategy = self._loop.strategy
        mine = found[1]["step"] if found else -1
        step = int(devices.exchange(strategy, [mine])[0, 0])
        if step < 0:
            return None
        fault = ""
        if not self._chief:
            try:
                found = checkpoint.load(self._directory, step)
            except InputError as error:
                fault = str(error)
        blind = np.flatnonzero(devices.exchange(strategy, [bool(fault)])[:, 0])
        if fault or blind.size:
            raise InputError(
                f"Worker {', '.join(map(str, blind))} cannot read step {step} of "
                f"{self._directory}, which the chief resumes from; --model_dir must be on storage "
                f"that all workers share. {fault}".strip()
            )
        return found

    def _check(self, meta: dict[str, Any]) -> None:
        """Refuses to go on with another network, images, recipe or data; more epochs are welcome.

        So is the warm-up that a recipe derives from them, where it is over in both ways.

        Raises:
          InputError: the same.
        """
        if "seed" not in meta:
            raise InputError(
                f"{self._model_dir} holds imported weights; give --fine_tune_from "
                f"{self._model_dir} and another --model_dir."
            )
        before = config_io.from_json(json.dumps(meta["config"]), f"{self._directory}'s META.json")
        recipes = before.training, self._loop.config.training
        warm = max(each.frozen_epochs + each.warmup_epochs for each in recipes)
        welcome = {"training.epochs"} | ({_WARMUP} if meta["epoch"] >= warm else set())
        for name, old, value in _differences(before, self._loop.config):
            if name not in welcome:
                same = f", or give --set {name}={old}" if name == _WARMUP else ""
                raise InputError(
                    f"{self._model_dir} holds a run with {name} = {old}, not {value}; choose "
                    f"another --model_dir{same}."
                )
        if meta["seed"] != self._loop.seed or meta["examples"] != self._examples:
            raise InputError(
                f"{self._model_dir} holds a run with seed {meta['seed']} on {meta['examples']} "
                f"images, not {self._loop.seed} on {self._examples}; choose another directory."
            )
        self._tell_changes(meta)

    def _tell_changes(self, meta: dict[str, Any]) -> None:
        """Warns of what a run may go on with, though not to the same bits."""
        for name, word in (("precision", "in"), ("micro_batch", "with micro-batches of")):
            now = getattr(self._loop, name)
            if (old := meta.get(name, now)) != now:
                LOG.warning("The run was saved %s %s and goes on %s %s.", word, old, word, now)
        for name, version in versions().items():
            if meta["versions"].get(name, version) != version:
                LOG.warning(
                    "The run was saved by %s %s and goes on with %s: the figures may differ.",
                    *(name, meta["versions"][name], version),
                )

    def save(self, progress: Progress, state: dict[str, np.ndarray]) -> None:
        """Commits a checkpoint and removes those that are no longer to be kept.

        Args:
          progress: of the run.
          state: `Loop.state()`, which all workers must have called together.

        Raises:
          OSError: it cannot be written; those before it are still there.
        """
        if self._chief:
            step = int(state["update/step"])
            checkpoint.save(self._directory, step, state, self._meta(progress))
            best = progress.best["step"] if progress.best else None
            checkpoint.prune(self._directory, self._keep, best, step)

    def amend(self, progress: Progress) -> None:
        """Writes what has been found out since the checkpoint of this step was saved.

        Raises:
          OSError or InputError: it cannot be written, or has been damaged since.
        """
        if self._chief and self.step in checkpoint.steps(self._directory):
            checkpoint.amend(self._directory, self.step, self._meta(progress))

    def last(self) -> str:
        """Names the newest checkpoint."""
        steps = checkpoint.steps(self._directory)
        return f"step {steps[-1]}" if steps else "none"

    def _meta(self, progress: Progress) -> dict[str, Any]:
        seen = self._loop.update.seen
        return {
            "epoch": seen / self._examples,
            "examples_seen": seen,
            "examples": self._examples,
            "seed": self._loop.seed,
            "config": json.loads(config_io.to_json(self._loop.config)),
            "replicas": self._loop.share.total,
            "precision": self._loop.precision,
            "micro_batch": self._loop.micro_batch,
            "versions": versions(),
            **dataclasses.asdict(progress),
        }


def _differences(before: Config, now: Config) -> Iterator[tuple[str, Any, Any]]:
    """Yields (name, value before, value now) of each field that is another one now."""
    if type(before.model) is not type(now.model):
        yield "model", type(before.model).__name__, type(now.model).__name__
        return
    for group in ("model", "images", "training"):
        old, new = getattr(before, group), getattr(now, group)
        for field in dataclasses.fields(new):
            pair = getattr(old, field.name), getattr(new, field.name)
            if pair[0] != pair[1]:
                yield f"{group}.{field.name}", *pair


def versions() -> dict[str, str]:
    """Returns the versions that a run's figures may depend on."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "squeezenext": squeezenext.__version__,
        "onednn": "on" if tf_import.onednn() else "off",
    }


# When a run is saved, and what becomes of a save that fails.


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
