"""Trains a configuration; run again after any interruption, the same command goes on.

    python -m squeezenext.train --configuration NAME --data_dir DIR --model_dir DIR [flags]

DIR is a folder with manifest.json as datasets.convert writes it. The recipe is the configuration;
flags name places and machines, and --set changes a single field.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import filelock
from absl import flags

from squeezenext import tf_import
from squeezenext.cli import run
from squeezenext.config import Config, recipes
from squeezenext.config import io as config_io
from squeezenext.errors import InputError, RunAgain
from squeezenext.model import directory as model_directory
from squeezenext.model import published
from squeezenext.records import dataset
from squeezenext.train import cluster, log
from squeezenext.train.options import PRECISIONS, Cluster, OnBadRecord, OnNan, Options, Task
from squeezenext.train.stopping import StopSignals


def train(config: Config, options: Options) -> dict:
    """Trains to the last epoch, resuming from `model_dir` if it holds a run.

    Args:
      config: a configuration; the number of classes becomes that of the data.
      options: where and how to train.

    Returns:
      The content of final.json: step, epoch, examples_seen, top1, top5, loss, weights_sha256.

    Raises:
      InputError: the arguments or the data are wrong.
      RunAgain: interrupted and saved, or another process trains in `model_dir`.
    """
    with StopSignals() as signals:  # first: a data set without a manifest is read through
        return _train(config, options, signals)


def _train(config: Config, options: Options, signals: StopSignals) -> dict:
    workers = cluster.find(options.cluster)
    if workers and options.profile_input:
        raise InputError("--profile_input measures one machine; give --cluster none with it.")
    # One worker checks its data before it waits for TensorFlow. One of several does so while it is
    # watched: otherwise the others would wait for it instead of learning what is wrong.
    task = None if workers else _task(config, options)
    model_dir, worker = Path(options.model_dir), workers.index if workers else 0
    with _locked(model_dir, worker):
        if options.deterministic:
            tf_import.without_onednn()
        tf_import.import_tensorflow()
        from squeezenext.train import job  # only now: no error above waits for TensorFlow
        from squeezenext.train.watchdog import watched

        log.log_to(None if worker else model_dir / model_directory.LOG)
        with watched(model_dir, workers, signals) as watchdog:
            task = task or _task(config, options)
            return job.train(task, options, workers, watchdog, signals)


def _task(config: Config, options: Options) -> Task:
    """Finds the data and the model to start from.

    Raises:
      InputError: they are missing or do not fit the configuration.
    """
    found = dataset.find(
        options.data_dir, options.training_file_pattern, options.validation_file_pattern
    )
    classes = dataset.classes_for(found, config)
    dataset.check_split(found, "train")
    source = published.resolve(options.fine_tune_from) if options.fine_tune_from else None
    model = dataclasses.replace(config.model, classes=len(classes))
    return Task(dataclasses.replace(config, model=model), found.splits, classes, source)


def _locked(model_dir: Path, worker: int) -> contextlib.AbstractContextManager:
    """Returns a worker's held lock; the chief's keeps other runs out."""
    return locked(model_dir, f".lock-{worker}" if worker else ".lock")


def locked(model_dir: Path, name: str = ".lock") -> contextlib.AbstractContextManager:
    """Returns a held lock on a model directory, which is made if absent.

    Raises:
      RunAgain: another process holds it.
      InputError: the directory cannot be made or written.
    """
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(model_dir / name, timeout=0).acquire()
    except filelock.Timeout as error:
        raise RunAgain(
            f"Another process works in {model_dir}, which holds {name}; wait or stop it."
        ) from error
    except OSError as error:
        raise InputError(f"--model_dir {model_dir} cannot be written: {error.strerror}.") from error


def _configured(values: flags.FlagValues) -> Config:
    """Returns the configuration with the command line's changes."""
    config = config_io.load(values["configuration"].value)
    fields = {
        "teacher": "training.distillation.teacher",
        "batch_size": "training.batch_size",
        "num_epochs": "training.epochs",
    }
    given = [f"{fields[n]}={values[n].value}" for n in fields if values[n].value is not None]
    # Before the recipe, which may reckon with them, and after it, for they win.
    config = _changed(config, given)
    config = recipes.apply(values["recipe"].value, config)
    return _changed(config, [*values["set"].value, *given])


def _changed(config: Config, changes: Sequence[str]) -> Config:
    for change in changes:
        config = config_io.override(config, change)
    return config


def _define(values: flags.FlagValues) -> None:
    string, integer, number = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    enum, at = flags.DEFINE_enum, {"flag_values": values}
    string("configuration", "v_1_0_SqNxt_23", "A module in configs/, or a path to a .py.", **at)
    string("data_dir", None, "Folder with the shards and manifest.json.", **at)
    string(
        "training_file_pattern",
        None,
        "TF-slim shards made elsewhere, in place of --data_dir.",
        **at,
    )
    string("validation_file_pattern", None, "The same for validation.", **at)
    string("model_dir", None, "Where the run lives; resumes what is there.", **at)
    string("fine_tune_from", None, "Model directory or published model to start from.", **at)
    enum("recipe", "published", recipes.NAMES, "How to train.", **at)
    string("teacher", None, "Model to learn from: directory, name or keras:NAME.", **at)
    integer("batch_size", None, "Global batch; overrides the configuration.", 1, **at)
    number("num_epochs", None, "Overrides the configuration.", **at)
    integer("micro_batch_size", None, "Images a device takes at once.", 1, **at)
    integer("devices", 0, "GPUs, or logical CPU devices; 0: all GPUs or one CPU.", 0, **at)
    enum("cluster", "auto", get_args(Cluster), "Who trains; auto: TF_CONFIG where set.", **at)
    enum("precision", "auto", ("auto", *PRECISIONS), "In which the network computes.", **at)
    integer("seed", 0, "Of the weights, order and augmentation.", 0, **at)
    flags.DEFINE_bool(
        "deterministic", False, "The same bits each time; slower, on a CPU without oneDNN.", **at
    )
    what = "A gradient not finite: stop, or roll back and go past it."
    enum("on_nan", "stop", get_args(OnNan), what, **at)
    number("checkpoint_minutes", 10.0, "Saves so often, and after each epoch.", 0.0, **at)
    integer("keep_checkpoints", 2, "The newest so many are kept, and the best.", 1, **at)
    integer("evaluate_every_epochs", 1, "0: only at the end.", 0, **at)
    what = "At a damaged training record: stop, or skip it (few may be, see docs/data.md)."
    enum("on_bad_record", "stop", get_args(OnBadRecord), what, **at)
    what = "Measure input and network apart, say which is the limit, and train nothing."
    flags.DEFINE_bool("profile_input", False, what, **at)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE of the configuration; repeatable.", **at)


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    _define(values)

    def command(values, _):
        named = {field.name for field in dataclasses.fields(Options)}
        options = Options(**{name: values[name].value for name in named})
        train(_configured(values), options)

    return run(command, values, __doc__, argv, required=("model_dir",))
