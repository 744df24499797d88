"""Trains a configuration. After any interruption the same command continues the run.

    python -m squeezenext.train --configuration NAME --data_dir DIR --model_dir DIR [flags]

DIR is a folder with manifest.json, written by datasets.convert. The configuration holds the recipe,
of which --set changes single fields; the other flags name folders and machines.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import filelock
from absl import flags

from squeezenext import files, tf_import
from squeezenext.arguments import checked
from squeezenext.cli import run
from squeezenext.config import Config, recipes
from squeezenext.config import io as config_io
from squeezenext.errors import InputError, RunAgain
from squeezenext.model import checkpoint, published
from squeezenext.model import directory as model_directory
from squeezenext.records import dataset
from squeezenext.records.reader import READS
from squeezenext.train import cluster, log, loggers
from squeezenext.train import source as learning_from
from squeezenext.train.options import (
    PRECISIONS,
    Cluster,
    Course,
    OnBadRecord,
    OnNan,
    Options,
    Task,
)
from squeezenext.train.stopping import StopSignals, watched


@checked()
def train(config: Config, options: Options, course: Course | None = None) -> dict:
    """Trains to the last epoch, resuming from `model_dir` if it holds a run.

    Args:
      config: a configuration; the number of classes becomes that of the data.
      options: where and how to train.
      course: chooses the number of epochs anew after each of them; not for several workers. The
        console then shows progress and warnings alone; train.log has all lines.

    Returns:
      The content of final.json: step, epoch, examples_seen, top1, top5, loss, weights_sha256.

    Raises:
      InputError: the arguments or the data are wrong.
      RunAgain: interrupted and saved, or another process trains in `model_dir`.
    """
    with StopSignals() as signals:  # first: a data set without a manifest is read through
        return _train(config, options, signals, course)


def _train(config: Config, options: Options, signals: StopSignals, course: Course | None) -> dict:
    workers = cluster.find_cluster(options.cluster)
    if workers and options.profile_input:
        raise InputError("--profile_input measures one machine; give --cluster none with it.")
    loggers.check_available(options.log_to)
    # One worker checks its data before it waits for TensorFlow. One of several does so while it is
    # watched: otherwise the others would wait for it instead of learning what is wrong.
    task = None if workers else _task(config, options)
    model_dir, worker = Path(options.model_dir), workers.index if workers else 0
    tf_import.check_installed()
    with locked(model_dir, f".lock-{worker}" if worker else ".lock"):  # the chief's is the run's
        if options.deterministic:
            tf_import.without_onednn()
        tf_import.import_tensorflow()
        from squeezenext.train import job  # only now: no error above waits for TensorFlow

        log.log_to(None if worker else model_dir / model_directory.LOG, brief=course is not None)
        with watched(model_dir, workers, options.lost_seconds, signals) as watchdog:
            task = task or _task(config, options)
            return job.train(task, options, workers, watchdog, signals, course)


def _task(config: Config, options: Options) -> Task:
    """Finds the data and the model to start from."""
    found = dataset.find_dataset(
        options.data_dir, options.training_file_pattern, options.validation_file_pattern
    )
    classes = dataset.classes_for(found, config)
    dataset.check_split(found, "train")
    model = dataclasses.replace(config.model, classes=len(classes))
    config = dataclasses.replace(config, model=model)
    if found.upright:
        images = dataclasses.replace(config.images, orientation="exif")
        config = dataclasses.replace(config, images=images)
    if config.training.distillation.teacher:
        learning_from.check_teacher(config.training.distillation.teacher, classes)
    if not options.fine_tune_from:
        return Task(config, found.splits, classes, None)
    source = published.resolve(options.fine_tune_from)
    if checkpoint.steps(Path(options.model_dir) / model_directory.CHECKPOINTS):
        return Task(config, found.splits, classes, source)  # the run that is there goes on
    theirs, known = model_directory.read(source)
    learning_from.check_network(str(options.fine_tune_from), theirs, config)
    return Task(config, found.splits, classes, source, known)


@contextlib.contextmanager
def locked(model_dir: Path, name: str = ".lock") -> Iterator[None]:
    """Locks a model directory, which is made, and removed again if nothing comes into it.

    Raises:
      RunAgain: another process holds the lock.
      InputError: the directory cannot be made or written.
    """
    try:
        made = files.make_missing(model_dir)
        model_directory.refuse_strangers(model_dir)
        os.close(files.open_own(model_dir / name, 0))  # filelock would empty what a link leads to
        lock = filelock.FileLock(model_dir / name, timeout=0)
        lock.acquire()
    except filelock.Timeout as error:
        raise RunAgain(
            f"Another process works in {model_dir}, which holds {name}; wait or stop it."
        ) from error
    except OSError as error:
        why = f"cannot be written: {error.strerror}"
        why = "is a file; name a folder" if model_dir.is_file() else why
        raise InputError(f"--model_dir {model_dir} {why}.") from error
    try:
        yield
    finally:
        files.remove_unused(model_dir, name, made)
        lock.release()


def _configured(values: flags.FlagValues) -> Config:
    """Returns the configuration with the command line's changes."""
    config = config_io.load(values["configuration"].value)
    fields = {
        "teacher": "training.distillation.teacher",
        "batch_size": "training.batch_size",
        "num_epochs": "training.epochs",
    }
    given = [f"{fields[n]}={values[n].value}" for n in fields if values[n].value is not None]
    return recipes.apply(values["recipe"].value, config, *values["set"].value, *given)


def _define(values: flags.FlagValues) -> None:
    string, integer, number = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    enum, at = flags.DEFINE_enum, {"flag_values": values}
    string("configuration", "v_1_0_SqNxt_23", "A module in configs/, or the path of a .py.", **at)
    string("data_dir", None, "Folder of the shards and manifest.json.", **at)
    string("training_file_pattern", None, "TF-slim shards, instead of --data_dir.", **at)
    string("validation_file_pattern", None, "TF-slim shards for validation.", **at)
    string("model_dir", None, "Directory of the run; a run that is there is resumed.", **at)
    string("fine_tune_from", None, "Model directory or published model to start from.", **at)
    enum("recipe", "published", recipes.NAMES, "Recipe that replaces the configuration's.", **at)
    string("teacher", None, "Model to learn from: directory, name or keras:NAME.", **at)
    integer("batch_size", None, "Global batch; overrides the configuration.", 1, **at)
    number("num_epochs", None, "Number of epochs; overrides the configuration.", **at)
    integer("micro_batch_size", None, "Images a device takes at once.", 1, **at)
    integer("devices", 0, "GPUs, or logical CPU devices; 0: all GPUs or one CPU.", 0, **at)
    enum("cluster", "auto", get_args(Cluster), "Workers; auto: those of TF_CONFIG if set.", **at)
    what = "Seconds of silence after which a worker is taken for dead, see docs/clusters.md."
    number("lost_seconds", 15.0, what, 5.0, 600.0, **at)
    enum("precision", "auto", ("auto", *PRECISIONS), "Precision of the computation.", **at)
    integer("seed", 0, "Seed of initial weights, data order and augmentation.", 0, **at)
    what = "The same bits each time; slower, on a CPU without oneDNN."
    flags.DEFINE_bool("deterministic", False, what, **at)
    what = "When a gradient is not finite: stop, or roll back and skip the batch."
    enum("on_nan", "stop", get_args(OnNan), what, **at)
    what = "Minutes between checkpoints; each epoch ends with one, too."
    number("checkpoint_minutes", 10.0, what, 0.0, **at)
    integer("keep_checkpoints", 2, "Newest checkpoints to keep, beside the best.", 1, **at)
    integer("evaluate_every_epochs", 1, "Epochs between evaluations; 0: one at the end.", 0, **at)
    what = "At a damaged training record: stop, or skip it (a few at most, see docs/data.md)."
    enum("on_bad_record", "stop", get_args(OnBadRecord), what, **at)
    integer("readers", READS, "Records read at once; more for a slow file server.", 1, **at)
    what = "Measure input and network apart and report which is the limit; trains nothing."
    flags.DEFINE_bool("profile_input", False, what, **at)
    what = f"Also show the curves in {' or '.join(loggers.LOGGERS)}; repeatable."
    flags.DEFINE_multi_enum("log_to", [], list(loggers.LOGGERS), what, **at)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE of the configuration; repeatable.", **at)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    values = flags.FlagValues()
    _define(values)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        named = {field.name for field in dataclasses.fields(Options)}
        options = Options(**{name: values[name].value for name in named})
        train(_configured(values), options)

    needed, places = ("model_dir",), ("data_dir",)
    return run(command, values, __doc__, argv, required=needed, resumes=True, addresses=places)
