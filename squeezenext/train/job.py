"""One process's part in a training job: its devices, its workers, its loop."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from squeezenext.config import Config
from squeezenext.model import directory as model_directory
from squeezenext.model import loading
from squeezenext.records import bad_records
from squeezenext.records.manifest import Split
from squeezenext.records.reader import Reader, faults_named
from squeezenext.train import devices, exchange, history, losses, measure
from squeezenext.train import watchdog as train_watchdog
from squeezenext.train.cluster import Cluster
from squeezenext.train.history import LOG
from squeezenext.train.loop import Loop
from squeezenext.train.options import Options, Task
from squeezenext.train.run import Run
from squeezenext.train.stopping import StopSignals
from squeezenext.train.watchdog import Watchdog


def train(
    options: Options,
    task: Callable[[], Task],
    cluster: Cluster | None,
    signals: StopSignals,
) -> dict:
    """Does the work of `train.train`, in a model directory that is locked.

    Args:
      options: where and how.
      task: says what is trained; what it raises the other workers are told.
      cluster: the workers, where there are several.
      signals: which are heeded already.
    """
    model_dir = Path(options.model_dir)
    chief = cluster is None or cluster.index == 0
    history.log_to(model_dir / model_directory.LOG if chief else None)
    with train_watchdog.watched(model_dir, cluster, signals) as watchdog:
        given = task()
        config, splits = given.config, given.splits
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
            Reader(validation) if validation and validation.examples else None,
            options,
            chief=chief,
            watchdog=watchdog,
            signals=signals,
        )
        memory = devices.memory_named(config, strategy, loop.micro_batch)
        with faults_named(reader, *([job.validation] if job.validation else [])), memory:
            if not job.resume() and given.source:
                _fine_tune(loop, given.source)
            measure.choose(loop, reader, options.deterministic)
            if chief:
                exchange.create(model_dir, config, given.classes)
            return job.run()


def _strategy(
    options: Options, cluster: Cluster | None, watchdog: Watchdog | None
) -> tf.distribute.Strategy:
    if options.deterministic:
        devices.make_deterministic()
    if watchdog:
        watchdog.joining(devices.count(options.devices))
    strategy = devices.strategy(options.devices, cluster)
    if watchdog:
        devices.exchange(strategy, [0])  # waits until TensorFlow has connected all
        watchdog.joined()
    return strategy


def _reader(split: Split, options: Options) -> Reader:
    reader = Reader(split)
    if options.on_bad_record == "skip":
        listed = bad_records.listed(Path(options.model_dir) / bad_records.FILE)
        reader.leave_out(LOG.warning, listed)
    return reader


def _loop(
    config: Config, options: Options, strategy: tf.distribute.Strategy, reader: Reader
) -> Loop:
    policy = devices.precision(options.precision)
    with strategy.scope():
        how = config.training.distillation
        teacher = losses.teacher(how, config.model.classes, policy)
    loop = Loop(
        config,
        strategy=strategy,
        precision=policy,
        examples=reader.split.examples,
        micro_batch=devices.size(config, strategy, options.micro_batch_size),
        seed=options.seed,
        teacher=teacher,
    )
    _report(config, loop, reader, policy)
    return loop


def _profile(loop: Loop, reader: Reader) -> dict:
    memory = devices.memory_named(loop.config, loop.strategy, loop.micro_batch)
    with faults_named(reader), memory:
        measured = measure.profile(loop, reader)
    print(measured.report(loop.config.training.echo))
    return dataclasses.asdict(measured)


def _report(config: Config, loop: Loop, reader: Reader, precision: str) -> None:
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
    arrays = loading.variables(source, LOG.warning)
    with loop.strategy.scope():
        left = exchange.assign(loop.model, arrays, str(source), new_head=True)
        for weight, average in loop.update.averaged():
            average.assign(weight.numpy())
    LOG.info("Fine-tuning from %s; new: %s", source, ", ".join(left) or "nothing")
