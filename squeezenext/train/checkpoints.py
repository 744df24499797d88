"""A run's checkpoints: what is saved, what resuming demands, what a failed save means.

squeezenext/model/checkpoint.py has the files. `Loop.state` is the content of state.npz, `Progress`
and the facts of `Checkpoints._meta` that of META.json.
"""

import contextlib
import dataclasses
import json
import math
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
from squeezenext.train.history import History
from squeezenext.train.log import LOG
from squeezenext.train.loop import Loop, Sums
from squeezenext.train.options import Options

RETRY_SECONDS = 60.0  # after a save that failed
_WARMUP = "training.warmup_epochs"
_DOUBTFUL_ONEDNN = 2  # up to this format "onednn" was "on" even where TensorFlow left it off


@dataclasses.dataclass
class Progress:
    """Progress that no TensorFlow variable stores."""

    epoch_sums: Sums = Sums()  # over the steps of the present epoch
    epoch_seconds: float = 0.0  # their duration, without a process's first call: it builds graphs
    epoch_timed: int = 0  # images trained on in these seconds
    best: dict[str, Any] | None = None  # {"step", "top1"} of the best evaluation
    epoch_ended: bool = False  # the epoch is over and its evaluation is still to come
    skipped_examples: int = 0  # examples of the training order that rollbacks have skipped
    rollbacks: list[dict[str, int]] = dataclasses.field(default_factory=list)  # "step", "to"
    death: str = ""  # a sentence, once the network has died

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "Progress":
        """Reads the progress from META.json, which earlier releases may have written."""
        if "passed_over" in meta:  # its former name
            meta = meta | {"skipped_examples": meta["passed_over"]}
        names = {field.name for field in dataclasses.fields(cls)} & set(meta)
        known = {name: meta[name] for name in names}
        return cls(**known | {"epoch_sums": Sums(**meta["epoch_sums"])})

    def new_epoch(self) -> None:
        """Begins the next epoch."""
        self.epoch_sums = Sums()
        self.epoch_seconds, self.epoch_timed = 0.0, 0
        self.epoch_ended = False


class Checkpoints:
    """Saves and resumes one run. All workers call all methods together; only the chief writes.

    Args:
      loop: the network in training.
      reader: reader of the training split, which lists the damaged records that it skips.
      options: model directory, interval, number of checkpoints to keep.
      history: rows and curves, which are written with each checkpoint; the chief's alone.

    Attributes:
      complete: the newest checkpoint holds all that is known; False if an evaluation could not be
        added to it.
    """

    def __init__(self, loop: Loop, reader: Reader, options: Options, history: History | None):
        self._loop = loop
        self._reader = reader
        self._history = history
        self._model_dir = Path(options.model_dir)
        self._directory = self._model_dir / model_directory.CHECKPOINTS
        self._keep = options.keep_checkpoints
        self._seconds = 60 * options.checkpoint_minutes
        self._next = math.inf
        self.complete = True

    # Resuming

    def resume(self) -> Progress | None:
        """Restores the newest whole checkpoint, the same on all workers.

        Returns:
          Its progress, or None if there is no checkpoint.

        Raises:
          InputError: no checkpoint is whole, it belongs to another network or recipe, or a worker
            cannot read it.
        """
        if (found := self._load()) is None:
            return None
        state, meta = found
        self._check_recipe(meta)
        self._warn_of_changes(meta)
        try:
            exact = self._loop.restore(state, meta.get("precision"))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"The checkpoint in {self._model_dir} is of another recipe ({error}); choose "
                "another directory."
            ) from error
        if not exact:
            LOG.warning(
                "The number of devices was %d and is %d now: each begins with the mean of "
                "their moving statistics.",
                meta.get("replicas", 1),
                self._loop.share.total,
            )
        if "xla" in meta and meta.get("replicas") == self._loop.share.total:
            self._loop.use_xla(meta["xla"])
        return Progress.from_meta(meta)

    def _load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Loads the step that the chief chooses: a worker's cache may show an older directory."""
        loop = self._loop
        found = checkpoint.newest(self._directory, LOG.info) if loop.is_chief else None
        newest = found[1]["step"] if found else -1
        step = int(devices.exchange(loop.strategy, [newest])[0, 0])
        if step < 0:
            return None
        fault = ""
        try:
            found = found or checkpoint.load(self._directory, step)
        except InputError as error:
            fault = str(error)
        blind = np.flatnonzero(devices.exchange(loop.strategy, [bool(fault)])[:, 0])
        if fault or blind.size:
            raise InputError(
                f"Worker {', '.join(map(str, blind))} cannot read step {step} of "
                f"{self._directory}, which the chief resumes from; --model_dir must be on storage "
                f"that all workers share. {fault}".strip()
            )
        return found

    def _check_recipe(self, meta: dict[str, Any]) -> None:
        """Refuses another network, other images or data, or another recipe.

        Other epochs are allowed. So is another warm-up, which a recipe derives from the epochs,
        once it is over both before and now.
        """
        if "seed" not in meta:
            raise InputError(
                f"{self._model_dir} holds imported weights; give --fine_tune_from "
                f"{self._model_dir} and another --model_dir."
            )
        loop = self._loop
        before = config_io.from_json(json.dumps(meta["config"]), f"{self._directory}'s META.json")
        recipes = before.training, loop.config.training
        warm = max(each.schedule_start + each.warmup_epochs for each in recipes)
        allowed = {"training.epochs"} | ({_WARMUP} if meta["epoch"] >= warm else set())
        for name, old, new in _differences(before, loop.config):
            if name not in allowed:
                same = f", or give --set {name}={old}" if name == _WARMUP else ""
                raise InputError(
                    f"{self._model_dir} holds a run with {name} = {old}, not {new}; choose "
                    f"another --model_dir{same}."
                )
        examples = loop.update.examples_per_epoch
        if meta["seed"] != loop.seed or meta["examples"] != examples:
            raise InputError(
                f"{self._model_dir} holds a run with seed {meta['seed']} on {meta['examples']} "
                f"images, not {loop.seed} on {examples}; choose another directory."
            )

    def _warn_of_changes(self, meta: dict[str, Any]) -> None:
        """Logs changes with which a run may go on, though not bit for bit."""
        for name, word in (("precision", "in"), ("micro_batch", "with micro-batches of")):
            now = getattr(self._loop, name)
            if (old := meta.get(name, now)) != now:
                LOG.warning("The run was saved %s %s and goes on %s %s.", word, old, word, now)
        now, before = versions(), dict(meta["versions"])
        if meta["format_version"] <= _DOUBTFUL_ONEDNN and not tf_import.onednn_by_default():
            before["onednn"] = "off"  # TensorFlow's choice here, whatever was recorded
        for name, version in now.items():
            if before.get(name, version) != version:
                choice = f" ({tf_import.ONEDNN} chooses)" if name == "onednn" else ""
                LOG.warning(
                    "The run was saved by %s %s and goes on with %s%s: the figures may differ.",
                    *(name, before[name], version, choice),
                )

    # Saving

    def start_clock(self) -> None:
        """Starts the interval to the first checkpoint; loading and compiling do not count."""
        self._next = time.monotonic() + self._seconds

    @property
    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() >= self._next

    def collect(self) -> dict[str, np.ndarray]:
        """Returns the state to save, and brings the list of damaged records up to date.

        A collective, so it comes before anything that can fail on one worker alone.
        """
        self.share_bad_records()
        return self._loop.state()

    def save(self, progress: Progress, state: dict[str, np.ndarray], must: bool) -> None:
        """Commits a checkpoint of a state from `collect`; removes those that are no longer kept.

        Raises:
          RunAgain: it failed and `must` succeed. Earlier checkpoints are still there.
        """
        self._next = time.monotonic() + self._seconds

        def save() -> None:
            self._write_bad_records()
            if self._loop.is_chief:
                step = int(state["update/step"])
                checkpoint.save(self._directory, step, state, self._meta(progress))
                best = progress.best["step"] if progress.best else None
                checkpoint.remove_older(self._directory, self._keep, best, step)

        self._write(save, must, "Training goes on; the next try is in a minute")

    def amend(self, progress: Progress) -> None:
        """Adds the result of an evaluation to the checkpoint of this step."""
        step = self._loop.step

        def amend() -> None:
            if self._loop.is_chief and step in checkpoint.steps(self._directory):
                checkpoint.amend(self._directory, step, self._meta(progress))

        self.complete = self._write(amend, must=False, otherwise="It will be saved anew")

    def finish(self) -> None:
        """Writes the list of damaged records after the last checkpoint; RunAgain if it cannot."""
        self._write(self._write_bad_records, must=True)

    def _write(self, write: Callable[[], None], must: bool, otherwise: str = "") -> bool:
        """Writes the history's rows, calls `write`, then writes the curves; says if it worked."""
        step = self._loop.step
        try:
            if self._history:
                self._history.write_rows()
            write()
        except (OSError, InputError) as error:
            reason = getattr(error, "strerror", None) or str(error).rstrip(".")
            sentence = f"Step {step} cannot be saved in {self._model_dir}: {reason}"
            if must:
                raise RunAgain(
                    f"{sentence}; the last checkpoint is {self.last()}. Make room and run again "
                    "to go on from there."
                ) from error
            LOG.warning("%s. %s.", sentence, otherwise)
            self._next = time.monotonic() + RETRY_SECONDS
            return False
        if self._history:
            self._history.board.commit(step, must)
        return True

    def last(self) -> str:
        """Names the newest checkpoint."""
        steps = checkpoint.steps(self._directory)
        return f"step {steps[-1]}" if steps else "none"

    def _meta(self, progress: Progress) -> dict[str, Any]:
        loop = self._loop
        return {
            "epoch": loop.epoch,
            "examples_seen": loop.seen,
            "examples": loop.update.examples_per_epoch,
            "seed": loop.seed,
            "config": json.loads(config_io.to_json(loop.config)),
            "replicas": loop.share.total,
            "precision": loop.precision,
            "micro_batch": loop.micro_batch,
            **({} if loop.xla is None else {"xla": loop.xla}),
            "versions": versions(),
            **dataclasses.asdict(progress),
        }

    # Damaged records that training skips: one list of all workers

    def share_bad_records(self) -> None:
        """Tells all workers which damaged records any of them has skipped; a collective.

        Raises:
          InputError: together there are too many.
        """
        if (bad := self._reader.bad) is None:
            return
        most = devices.exchange(self._loop.strategy, [len(bad.numbers)]).max()
        if most:
            padded = bad.numbers + [-1] * (most - len(bad.numbers))
            rows = devices.exchange(self._loop.strategy, padded)
            bad.merge(rows[rows >= 0].tolist())

    def _write_bad_records(self) -> None:
        if self._loop.is_chief and self._reader.bad is not None:
            self._reader.bad.write(self._model_dir / bad_records.FILE)

    def close(self) -> None:
        """Writes the list as a run ends, for whatever reason; that reason matters more."""
        with contextlib.suppress(OSError):
            self._write_bad_records()


def _differences(before: Config, now: Config) -> Iterator[tuple[str, Any, Any]]:
    """Yields (name, value before, value now) of each field that has changed."""
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
