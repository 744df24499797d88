"""Where the curves of a run are shown, beside history.csv: TensorBoard, MLflow, Weights & Biases.

MLflow and Weights & Biases are extras, which write into the model directory. Their id of a run is
kept there, too, so that a resumed run goes on under it.
"""

import collections
import contextlib
import functools
import hashlib
import importlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from squeezenext import files
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.errors import InputError, needs
from squeezenext.train.log import LOG

MAX_NAME = 250  # characters that MLflow takes
MAX_HELD = 10_000  # entries; a disk that stays full for hours loses the oldest
PAUSE = 20  # training waits for a logger that fails for about a twentieth of the time
_PROJECT = "squeezenext"


class Logger(Protocol):
    """Shows the curves of a run.

    A logger may also have the methods `histogram`, `images` and `graph` of `Board`, which leaves
    out what a logger has no method for. A ValueError says that the library will never take these
    points: they are left out. After any other error the same points are tried again later.
    """

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
        self._next: dict[Logger, float] = {}  # time.monotonic() of the next try after an error

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve, e.g. {"train/loss": 1.2}."""
        self._hold("curves", step, values)

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Adds the distribution of some numbers."""
        self._hold("histogram", step, name, values)

    def images(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Adds images, [n, height, width, 3] uint8."""
        self._hold("images", step, name, pixels)

    def graph(self, step: int, function) -> None:
        """Adds the graph of a tf.function."""
        self._hold("graph", step, function)

    def _hold(self, kind: str, step: int, *what) -> None:
        for logger, held in self._held.items():
            if show := getattr(logger, kind, None):
                held.append((step, functools.partial(show, step, *what)))

    def rewind(self, step: int) -> None:
        """Drops what comes after `step` and is still held back."""
        for logger, held in self._held.items():
            self._held[logger] = collections.deque((x for x in held if x[0] <= step), MAX_HELD)

    def commit(self, step: int, must: bool = False) -> None:
        """Shows what was held back; what fails is tried again with a later checkpoint.

        A server that does not answer takes seconds or minutes to fail. It is left alone for
        `PAUSE` times as long, unless the run `must` save, since it may end.
        """
        for logger, held in self._held.items():
            began = time.monotonic()
            if began < self._next.get(logger, began) and not must:
                continue
            try:
                self._show(logger, held)
                logger.flush()
                self._next.pop(logger, None)
            except Exception as error:  # any, of a library that a run does not depend on
                self._warn(logger, step, error)
                now = time.monotonic()
                self._next[logger] = now + PAUSE * (now - began)

    def _show(self, logger: Logger, held: collections.deque) -> None:
        """Passes on what is held back, without what the library will never take."""
        while held:
            step, show = held[0]
            try:
                show()
            except ValueError as error:
                self._warn(logger, step, error)
            held.popleft()

    def _warn(self, logger: Logger, step: int, error: Exception) -> None:
        """Warns once for each logger, without the password of an address."""
        if logger not in self._warned:
            self._warned.add(logger)
            reason = re.sub(r"//\S*@", "//", str(error).partition("\n")[0].rstrip("."))
            what = "%s's curves up to step %d cannot be written: %s. Training goes on."
            LOG.warning(what, logger.name, step, reason)

    def close(self) -> None:
        """Closes all; what does not fit on a full disk is lost."""
        for logger in self._held:
            with contextlib.suppress(Exception):
                logger.close()


class MLflow:
    """MLflow, in the file mlflow.db of the model directory, or at MLFLOW_TRACKING_URI.

    Raises:
      InputError: MLflow would write its file elsewhere.
    """

    name = "MLflow"

    def __init__(self, model_dir: Path, config: Config):
        self._model_dir, self._config = model_dir.resolve(), config
        self._where = os.environ.get("MLFLOW_TRACKING_URI")
        if not self._where:
            if re.search("[?#%]", str(self._model_dir)):  # they have a meaning in an address
                raise InputError(
                    f"--log_to mlflow: {self._model_dir} must have no ?, # or % in its name, "
                    "e.g. /models/run-1, or MLFLOW_TRACKING_URI must name a server."
                )
            self._where = f"sqlite:///{self._model_dir}/mlflow.db"
        self._run: tuple[Any, str] | None = None  # the client and the run's id

    def _open_run(self) -> tuple[Any, str]:
        """Makes the run, or goes on in that of .mlflow-run; returns the client and its id."""
        from mlflow import tracking

        client, note = tracking.MlflowClient(self._where), self._model_dir / ".mlflow-run"
        if note.is_file():
            client.update_run(run := files.read_text(note), "RUNNING")
        else:
            found = client.get_experiment_by_name(_PROJECT)
            experiment = found.experiment_id if found else client.create_experiment(_PROJECT)
            run = client.create_run(experiment, run_name=self._model_dir.name).info.run_id
            files.write_text(note, run)
        if not client.get_run(run).data.params:  # an earlier try may have failed before them
            client.log_batch(run, params=_params(self._config))
        return client, run

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve, under the name that `_metric_name` makes."""
        from mlflow import entities, exceptions

        self._run = self._run or self._open_run()
        now, (client, run) = time.time_ns() // 1_000_000, self._run
        named = {_metric_name(name): float(value) for name, value in values.items()}
        points = [entities.Metric(name, value, now, step) for name, value in named.items()]
        try:
            client.log_batch(run, points)
        except exceptions.MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise ValueError(str(error)) from error
            raise

    def flush(self) -> None:
        """Does nothing, because MLflow writes at once."""

    def close(self) -> None:
        """Marks the run as finished."""
        if self._run:
            client, run = self._run
            client.set_terminated(run)


def _params(config: Config) -> list:
    """Returns the configuration as MLflow's parameters, e.g. training.epochs."""
    from mlflow import entities

    groups = json.loads(config_io.to_json(config)).items()
    return [
        entities.Param(f"{group}.{field}", str(value)[:500])
        for group, fields in groups
        if isinstance(fields, dict)
        for field, value in fields.items()
    ]


def _metric_name(name: str) -> str:
    """Returns a name that MLflow takes; different names stay different.

    Letters, digits, "_", "-", ".", " " and "/" stay; "_x3a_" stands for ":", as in hexadecimal
    Unicode, and "_x5f_" for a "_" before an "x". A digest ends a name that would be too long.
    """
    name = re.sub(r"[^\w\-. /]|_(?=x)", lambda found: f"_x{ord(found[0]):x}_", name)
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name[: MAX_NAME - 17]}-{digest}"


class WandB:
    """Weights & Biases, in the folder wandb of the model directory; WANDB_MODE=online sends it."""

    name = "Weights & Biases"

    def __init__(self, model_dir: Path, config: Config):
        self._model_dir, self._config = model_dir, config
        self._run: Any = None

    def _open_run(self):
        """Makes the run, or goes on in that of .wandb-run, and returns it."""
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
        self._run = self._run or self._open_run()
        self._run.log({name: float(value) for name, value in values.items()}, step=step)

    def flush(self) -> None:
        """Does nothing, because another process writes."""

    def close(self) -> None:
        """Waits until all is written."""
        if self._run:
            self._run.finish()


LOGGERS: dict[str, Callable[[Path, Config], Logger]] = {"mlflow": MLflow, "wandb": WandB}


def check_available(names: Sequence[str]) -> None:
    """Raises InputError if there is no such logger, or its library is not installed."""
    for name in names:
        if name not in LOGGERS:
            raise InputError(f"--log_to {name}: must be {' or '.join(LOGGERS)}.")
        with needs(name):
            importlib.import_module(name)
