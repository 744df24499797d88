"""Trains a configuration; run again after any interruption, the same command goes on.

    python -m squeezenext.train --configuration NAME --data_dir DIR --model_dir DIR [flags]

DIR is a folder with manifest.json as datasets.convert writes it. The recipe is the configuration;
flags name places and machines, and --set changes a single field.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import filelock
import tensorflow as tf
from absl import flags

from squeezenext import (
    bad_records,
    config_io,
    data,
    dataset,
    devices,
    history,
    model_directory,
    weights,
)
from squeezenext.config import Config
from squeezenext.errors import InputError, RunAgain
from squeezenext.flags import run
from squeezenext.history import LOG
from squeezenext.loop import Loop
from squeezenext.run import Run


def train(
    config: Config,
    *,
    model_dir: str | Path,
    data_dir: str | Path | None = None,
    training_file_pattern: str | None = None,
    validation_file_pattern: str | None = None,
    fine_tune_from: str | None = None,
    devices_used: int = 0,
    precision: str = "auto",
    micro_batch_size: int | None = None,
    seed: int = 0,
    deterministic: bool = False,
    checkpoint_minutes: float = 10.0,
    keep_checkpoints: int = 2,
    evaluate_every_epochs: int = 1,
    on_bad_record: str = "stop",
) -> dict:
    """Trains until `config.training.epochs`, resuming from `model_dir` where it holds a run.

    Args:
      config: the network's classes are replaced by those of the data.
      model_dir: made if absent; see model_directory.py for what it will hold.
      data_dir: records with a manifest; else the two patterns of TF-slim shards.
      fine_tune_from: a model directory or a published model's name, whose weights to start from;
        the classifier is new where the number of classes differs.
      devices_used: the first so many GPUs, or logical CPU devices; 0: all GPUs, or one CPU.
      micro_batch_size: images a device takes at once; gradients are accumulated to the batch.
      deterministic: the same bits each time on the same machine; slower.
      on_bad_record: "stop" at a damaged training record, or "skip" it, see bad_records.py.

    Returns:
      What final.json holds: step, epoch, examples_seen, top1, top5, loss, weights_sha256.

    Raises:
      InputError: a fault in the arguments or the data.
      RunAgain: interrupted and saved, or another process trains in `model_dir`.
    """
    model_dir = Path(model_dir)
    found = dataset.find(data_dir, training_file_pattern, validation_file_pattern)
    classes = dataset.classes_for(found, config)
    config = _with_classes(config, len(classes))
    reader = data.open_split(found.splits, "train", found.source)
    if deterministic:
        devices.make_deterministic()
    strategy = devices.strategy(devices_used)
    chief = devices.is_chief(strategy)
    policy = devices.precision(precision)
    with _locked(model_dir, chief):
        history.log_to(model_dir / "train.log" if chief else None)
        if on_bad_record == "skip":
            listed = model_dir / bad_records.FILE if chief else None
            reader.bad = bad_records.BadRecords(reader.split.examples, LOG.warning, listed)
        loop = Loop(
            config,
            strategy=strategy,
            precision=policy,
            examples=reader.split.examples,
            micro_batch=_micro_batch(config, strategy, micro_batch_size),
            seed=seed,
        )
        _report(config, loop, reader, policy)
        job = Run(
            loop,
            reader,
            _validation(found),
            model_dir,
            chief=chief,
            checkpoint_minutes=checkpoint_minutes,
            keep_checkpoints=keep_checkpoints,
            evaluate_every_epochs=evaluate_every_epochs,
        )
        with data.faults_named(reader):
            if not job.resume() and fine_tune_from:
                _fine_tune(loop, fine_tune_from)
            if chief:
                model_directory.create(model_dir, config, classes)
            return _run(job)


def _validation(found: dataset.Dataset) -> data.Reader | None:
    split = found.splits.get("validation")
    return data.Reader(split) if split and split.examples else None


def _run(job: Run) -> dict:
    try:
        return job.run()
    except (tf.errors.UnavailableError, tf.errors.DeadlineExceededError) as error:
        reason = error.message.splitlines()[0]
        raise RunAgain(f"A worker is gone ({reason}); start all of them again.") from error


def _with_classes(config: Config, classes: int) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, classes=classes))


def _locked(model_dir: Path, chief: bool) -> contextlib.AbstractContextManager:
    """Returns a held lock on the model directory, which only the chief writes.

    Raises:
      RunAgain: another process holds it.
      InputError: the directory cannot be made or written.
    """
    if not chief:
        return contextlib.nullcontext()
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(model_dir / ".lock", timeout=0).acquire()
    except filelock.Timeout as error:
        raise RunAgain(f"Another process is training in {model_dir}; wait or stop it.") from error
    except OSError as error:
        raise InputError(f"--model_dir {model_dir} cannot be written: {error.strerror}.") from error


def _micro_batch(config: Config, strategy: tf.distribute.Strategy, wanted: int | None) -> int:
    """Returns how many images a replica takes at once, a divisor of its share of the batch."""
    batch, replicas = config.training.batch_size, strategy.num_replicas_in_sync
    share, rest = divmod(batch, replicas)
    if rest:
        raise InputError(f"--batch_size {batch} does not divide among {replicas} devices.")
    if wanted:
        if wanted < 1 or share % wanted:
            raise InputError(
                f"--micro_batch_size {wanted} does not divide each device's {share} images."
            )
        return wanted
    limit = 256 if tf.config.list_physical_devices("GPU") else 32
    return max(size for size in range(1, min(limit, share) + 1) if share % size == 0)


def _report(config: Config, loop: Loop, reader: data.Reader, precision: str) -> None:
    LOG.info(
        "%s parameters, %d training images, batch %d = %d replicas x %d images x %d, %s, "
        "TensorFlow %s",
        f"{loop.model.count_params():,}",
        reader.split.examples,
        config.training.batch_size,
        loop.strategy.num_replicas_in_sync,
        loop.micro_batch,
        loop.micro_steps,
        precision,
        tf.__version__,
    )


def _fine_tune(loop: Loop, source: str) -> None:
    """Starts from the weights of another model.

    Raises:
      InputError: there is no such model, or it is of another network.
    """
    directory = weights.resolve(source)
    arrays = model_directory.read_weights(directory, LOG.info)
    with loop.strategy.scope():
        left = model_directory.assign(loop.model, arrays, source, new_head=True)
        for average, weight in zip(loop.update.averages, loop.update.weights, strict=False):
            average.assign(weight.numpy())
    LOG.info("Fine-tuning from %s; new: %s", source, ", ".join(left) or "nothing")


def _configured(values: flags.FlagValues) -> Config:
    """Returns the configuration with the command line's changes."""
    config = config_io.load(values["configuration"].value)
    changes = list(values["set"].value)
    if values["batch_size"].value is not None:
        changes.append(f"training.batch_size={values['batch_size'].value}")
    if values["num_epochs"].value is not None:
        changes.append(f"training.epochs={values['num_epochs'].value}")
    for change in changes:
        config = config_io.override(config, change)
    return config


def _define(values: flags.FlagValues) -> None:
    string, integer, number = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    at = {"flag_values": values}
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
    integer("batch_size", None, "Global batch; overrides the configuration.", 1, **at)
    number("num_epochs", None, "Overrides the configuration.", **at)
    integer("micro_batch_size", None, "Images a device takes at once.", 1, **at)
    integer("devices", 0, "GPUs, or logical CPU devices; 0: all GPUs or one CPU.", 0, **at)
    string("precision", "auto", "auto, float32, mixed_float16 or mixed_bfloat16.", **at)
    integer("seed", 0, "Of the weights, order and augmentation.", 0, **at)
    flags.DEFINE_bool("deterministic", False, "The same bits each time; slower.", **at)
    number("checkpoint_minutes", 10.0, "Saves so often, and after each epoch.", 0.0, **at)
    integer("keep_checkpoints", 2, "The newest so many are kept, and the best.", 1, **at)
    integer("evaluate_every_epochs", 1, "0: only at the end.", 0, **at)
    what = "At a damaged training record: stop, or skip it (few may be, see docs/data.md)."
    flags.DEFINE_enum("on_bad_record", "stop", ["stop", "skip"], what, **at)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE of the configuration; repeatable.", **at)


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    _define(values)

    def command(values, positional):
        if positional:
            raise InputError(f"Unexpected argument {positional[0]!r}; flags begin with --.")
        if not values["model_dir"].value:
            raise InputError("--model_dir is missing: where the run shall live.")
        train(
            _configured(values),
            model_dir=values["model_dir"].value,
            data_dir=values["data_dir"].value,
            training_file_pattern=values["training_file_pattern"].value,
            validation_file_pattern=values["validation_file_pattern"].value,
            fine_tune_from=values["fine_tune_from"].value,
            devices_used=values["devices"].value,
            precision=values["precision"].value,
            micro_batch_size=values["micro_batch_size"].value,
            seed=values["seed"].value,
            deterministic=values["deterministic"].value,
            checkpoint_minutes=values["checkpoint_minutes"].value,
            keep_checkpoints=values["keep_checkpoints"].value,
            evaluate_every_epochs=values["evaluate_every_epochs"].value,
            on_bad_record=values["on_bad_record"].value,
        )

    return run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
