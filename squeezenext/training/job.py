"""One process's part in a training job: its devices, its workers, its loop."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from squeezenext import data, labels
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.records import bad_records
from squeezenext.records.manifest import Split
from squeezenext.training import (
    departure,
    devices,
    distillation,
    history,
    model_directory,
    profiling,
    xla,
)
from squeezenext.training.cluster import Cluster
from squeezenext.training.history import LOG
from squeezenext.training.loop import Loop
from squeezenext.training.options import Options
from squeezenext.training.run import Run
from squeezenext.training.signals import StopSignals
from squeezenext.training.watchdog import Watchdog

_FEW = 16  # images for batch norm's statistics


def train(
    config: Config,
    options: Options,
    splits: Mapping[str, Split],
    classes: Sequence[labels.Label],
    cluster: Cluster | None,
    source: Path | None,
    signals: StopSignals,
) -> dict:
    """Does the work of `train.train`, which has checked the arguments.

    Args:
      config: with the data's number of classes.
      options: where and how.
      splits: "train" and, where there is one, "validation".
      classes: in label order.
      cluster: the workers, where there are several; the model directory is locked.
      source: the model directory to fine-tune from, or None.
      signals: which are heeded already.
    """
    model_dir = Path(options.model_dir)
    chief = cluster is None or cluster.index == 0
    history.log_to(model_dir / "train.log" if chief else None)
    with departure.watched(model_dir, cluster, signals) as watchdog:
        strategy = _strategy(options, cluster, watchdog)
        reader = _reader(splits["train"], options)
        loop = _loop(config, options, strategy, reader)
        if options.profile_input:
            return _profile(loop, reader)
        if watchdog:
            watchdog.feed(lambda: loop.fed)
        validation = splits.get("validation")
        job = Run(
            loop,
            reader,
            data.Reader(validation) if validation and validation.examples else None,
            options,
            chief=chief,
            watchdog=watchdog,
            signals=signals,
        )
        with data.faults_named(reader, *([job.validation] if job.validation else [])):
            if not job.resume() and source:
                _fine_tune(loop, source)
            xla.choose(loop, reader, options.deterministic)
            if chief:
                model_directory.create(model_dir, config, classes)
            return job.run()


def _strategy(
    options: Options, cluster: Cluster | None, watchdog: Watchdog | None
) -> tf.distribute.Strategy:
    if options.deterministic:
        devices.make_deterministic()
    strategy = devices.strategy(options.devices, cluster)
    if watchdog:
        devices.exchange(strategy, [0])
        watchdog.joined()
    return strategy


def _reader(split: Split, options: Options) -> data.Reader:
    reader = data.Reader(split)
    if options.on_bad_record == "skip":
        listed = bad_records.listed(Path(options.model_dir) / bad_records.FILE)
        reader.leave_out(LOG.warning, listed)
    return reader


def _loop(
    config: Config, options: Options, strategy: tf.distribute.Strategy, reader: data.Reader
) -> Loop:
    policy = devices.precision(options.precision)
    with strategy.scope():
        how = config.training.distillation
        teacher = distillation.teacher(how, config.model.classes, policy)
    loop = Loop(
        config,
        strategy=strategy,
        precision=policy,
        examples=reader.split.examples,
        micro_batch=_micro_batch(config, strategy, options.micro_batch_size),
        seed=options.seed,
        teacher=teacher,
    )
    _report(config, loop, reader, policy)
    return loop


def _profile(loop: Loop, reader: data.Reader) -> dict:
    with data.faults_named(reader):
        measured = profiling.profile(loop, reader)
    print(measured.report(loop.config.training.echo))
    return dataclasses.asdict(measured)


def _micro_batch(config: Config, strategy: tf.distribute.Strategy, wanted: int | None) -> int:
    """Returns how many images a replica takes at once, a divisor of its share of the batch."""
    batch, replicas = config.training.batch_size, strategy.num_replicas_in_sync
    share, rest = divmod(batch, replicas)
    if rest:
        raise InputError(f"--batch_size {batch} does not divide among {replicas} devices.")
    echo = config.training.echo
    if wanted:
        if wanted < 1 or share % wanted or wanted % echo:
            raise InputError(
                f"--micro_batch_size {wanted} does not divide each device's {share} images into "
                f"whole groups of training.echo {echo}."
            )
        return wanted
    limit = 256 if tf.config.list_physical_devices("GPU") else 32
    sizes = [s for s in range(echo, min(limit, share) + 1, echo) if share % s == 0]
    if not sizes:
        raise InputError(f"training.echo {echo} does not divide each device's {share} images.")
    if sizes[-1] < _FEW < share:
        LOG.warning(
            "A device's %d images go through in micro-batches of %d, few for batch norm; take a "
            "batch that a number from %d to %d divides, or --micro_batch_size.",
            *(share, sizes[-1], _FEW, limit),
        )
    return sizes[-1]


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


def _fine_tune(loop: Loop, source: Path) -> None:
    """Starts from the weights of another model.

    Raises:
      InputError: it is of another network.
    """
    arrays = model_directory.read_weights(source, LOG.info)
    with loop.strategy.scope():
        left = model_directory.assign(loop.model, arrays, str(source), new_head=True)
        for weight, average in loop.update.averaged():
            average.assign(weight.numpy())
    LOG.info("Fine-tuning from %s; new: %s", source, ", ".join(left) or "nothing")
