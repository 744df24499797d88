"""Where the curves of a run are shown, beside history.csv: TensorBoard, MLflow, Weights & Biases.

MLflow and Weights & Biases are extras, which write into the model directory. Their id of a run is
kept there, too, so that a resumed run goes on under it.
"""

import collections
import contextlib
import functools
import importlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from squeezenext import files
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.errors import InputError, needs
from squeezenext.train.log import LOG

MAX_HELD = 10_000  # entries; a disk that stays full for hours loses the oldest
_PROJECT = "squeezenext"


class Logger(Protocol):
    """Shows curves, and other kinds of points if it has methods for them; errors end no run."""

    name: str

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve, e.g. {"train/loss": 1.2}."""

    def flush(self) -> None:
        """Writes what was added."""

    def close(self) -> None:
        """Closes the run, which may be resumed."""


class Board:
    """Holds points back until their checkpoint is committed, then passes them on once.

    A run that was killed repeats the steps since its last checkpoint.
    """

    def __init__(self, loggers: Sequence[Logger]):
        self._held = {logger: collections.deque(maxlen=MAX_HELD) for logger in loggers}
        self._warned: set[Logger] = set()

    def _hold(self, kind: str, step: int, *what) -> None:
        for logger, held in self._held.items():
            if show := getattr(logger, kind, None):
                held.append((step, functools.partial(show, step, *what)))

    curves = functools.partialmethod(_hold, "curves")  # (step, {name: value})
    histogram = functools.partialmethod(_hold, "histogram")  # (step, name, numbers)
    images = functools.partialmethod(_hold, "images")  # (step, name, [n, height, width, 3] uint8)
    graph = functools.partialmethod(_hold, "graph")  # (step, tf.function)

    def rewind(self, step: int) -> None:
        """Drops what comes after `step` and is still held back."""
        for logger, held in self._held.items():
            self._held[logger] = collections.deque((x for x in held if x[0] <= step), MAX_HELD)

    def commit(self, step: int) -> None:
        """Shows what was held back; what fails is tried again with the next checkpoint."""
        for logger, held in self._held.items():
            try:
                while held:
                    held[0][1]()
                    held.popleft()
                logger.flush()
            except Exception as error:  # any, of a library that a run does not depend on
                if logger not in self._warned:
                    reason = str(error).partition("\n")[0].rstrip(".")
                    what = "%s's curves up to step %d cannot be written: %s. Training goes on."
                    LOG.warning(what, logger.name, step, reason)
                self._warned.add(logger)

    def close(self) -> None:
        """Closes all; what does not fit on a full disk is lost."""
        for logger in self._held:
            with contextlib.suppress(Exception):
                logger.close()


class MLflow:
    """MLflow, in the file mlflow.db of the model directory, or at MLFLOW_TRACKING_URI."""

    name = "MLflow"

    def __init__(self, model_dir: Path, config: Config):
        self._model_dir, self._config = model_dir, config

    @functools.cached_property
    def _run(self):
        """Returns the client and the run's id."""
        from mlflow import entities, tracking

        where = os.environ.get("MLFLOW_TRACKING_URI")
        client = tracking.MlflowClient(where or f"sqlite:///{self._model_dir.resolve()}/mlflow.db")
        note = self._model_dir / ".mlflow-run"
        if note.is_file():
            client.update_run(run := files.read_text(note), "RUNNING")
            return client, run
        found = client.get_experiment_by_name(_PROJECT)
        experiment = found.experiment_id if found else client.create_experiment(_PROJECT)
        name = self._model_dir.resolve().name
        run = client.create_run(experiment, run_name=name).info.run_id
        parts = json.loads(config_io.to_json(self._config)).items()
        groups = [(group, part) for group, part in parts if isinstance(part, dict)]
        fields = {f"{group}.{f}": str(x)[:500] for group, part in groups for f, x in part.items()}
        client.log_batch(run, params=[entities.Param(*field) for field in fields.items()])
        files.write_text(note, run)
        return client, run

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve; in names, "_" replaces characters that MLflow refuses."""
        from mlflow.entities import Metric

        named = {re.sub(r"[^\w\-. /]", "_", name): float(value) for name, value in values.items()}
        now, (client, run) = time.time_ns() // 1_000_000, self._run
        client.log_batch(run, [Metric(name, value, now, step) for name, value in named.items()])

    def flush(self) -> None:
        """Does nothing, because MLflow writes at once."""

    def close(self) -> None:
        """Marks the run as finished."""
        if "_run" in vars(self):
            self._run[0].set_terminated(self._run[1])


class WandB:
    """Weights & Biases, in the folder wandb of the model directory; WANDB_MODE=online sends it."""

    name = "Weights & Biases"

    def __init__(self, model_dir: Path, config: Config):
        self._model_dir, self._config = model_dir, config

    @functools.cached_property
    def _run(self):
        import wandb

        note = self._model_dir / ".wandb-run"  # a file .wandb would be in its way
        if not note.is_file():
            files.write_text(note, secrets.token_hex(4))
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=self._model_dir.resolve().name,
            id=files.read_text(note),
            resume="allow",
            dir=self._model_dir,
            mode=os.environ.get("WANDB_MODE", "offline"),  # else it would ask for a key
            config=json.loads(config_io.to_json(self._config)),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        self._run.log({name: float(value) for name, value in values.items()}, step=step)

    def flush(self) -> None:
        """Does nothing, because another process writes."""

    def close(self) -> None:
        """Waits until all is written."""
        if "_run" in vars(self):
            self._run.finish()


LOGGERS: dict[str, Callable[[Path, Config], Logger]] = {"mlflow": MLflow, "wandb": WandB}


def check_available(names: Sequence[str]) -> None:
    """Raises InputError if there is no such logger, or its library is not installed."""
    for name in names:
        if name not in LOGGERS:
            raise InputError(f"--log_to {name}: must be {' or '.join(LOGGERS)}.")
        with needs(name):
            importlib.import_module(name)
