"""One process's part in a training job: its devices, its workers, its loop."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from squeezenext import data, labels
from squeezenext.config import Config
from squeezenext.errors import EXIT_CODES, InputError, RunAgain
from squeezenext.records import bad_records
from squeezenext.records.manifest import Split
from squeezenext.training import devices, distillation, history, model_directory, profiling
from squeezenext.training.cluster import Cluster
from squeezenext.training.history import LOG
from squeezenext.training.loop import Loop
from squeezenext.training.options import Options
from squeezenext.training.run import Run
from squeezenext.training.watchdog import LOST_SECONDS, Watchdog

# What a collective ends with when one of its workers is gone (TensorFlow 2.21).
_WORKER_GONE = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


def train(
    config: Config,
    options: Options,
    splits: Mapping[str, Split],
    classes: Sequence[labels.Label],
    cluster: Cluster | None,
    source: Path | None,
) -> dict:
    """Does the work of `train.train`, which has checked the arguments.

    Args:
      config: with the data's number of classes.
      options: where and how.
      splits: "train" and, where there is one, "validation".
      classes: in label order.
      cluster: the workers, where there are several; the model directory is locked by the chief.
      source: the model directory to fine-tune from, or None.
    """
    model_dir = Path(options.model_dir)
    chief = cluster is None or cluster.index == 0
    history.log_to(model_dir / "train.log" if chief else None)
    with _watched(model_dir, cluster) as watchdog:
        if options.deterministic:
            devices.make_deterministic()
        strategy = devices.strategy(options.devices, cluster)
        if watchdog:
            devices.exchange(strategy, [0])
            watchdog.joined()
        reader = data.Reader(splits["train"])
        if options.on_bad_record == "skip":
            reader.leave_out(LOG.warning, bad_records.listed(model_dir / bad_records.FILE))
        policy = devices.precision(options.precision)
        loop = Loop(
            config,
            strategy=strategy,
            precision=policy,
            examples=reader.split.examples,
            micro_batch=_micro_batch(config, strategy, options.micro_batch_size),
            seed=options.seed,
            teacher=_teacher(config, strategy, policy),
        )
        _report(config, loop, reader, policy)
        if options.profile_input:
            with data.faults_named(reader):
                measured = profiling.profile(loop, reader)
            print(measured.report(config.training.echo))
            return dataclasses.asdict(measured)
        validation = splits.get("validation")
        job = Run(
            loop,
            reader,
            data.Reader(validation) if validation and validation.examples else None,
            options,
            chief=chief,
            watchdog=watchdog,
        )
        with data.faults_named(reader, *([job.validation] if job.validation else [])):
            if not job.resume() and source:
                _fine_tune(loop, source)
            _choose_jit(loop, reader, options)
            if chief:
                model_directory.create(model_dir, config, classes)
            return job.run()


@contextlib.contextmanager
def _watched(model_dir: Path, cluster: Cluster | None) -> Iterator[Watchdog | None]:
    """Beats and watches inside the block; puts the reason of a fault into train.log.

    Raises:
      RunAgain: a worker is gone, and nobody knows which.
    """
    watchdog = Watchdog(model_dir, cluster, _leave, LOG.warning) if cluster else None
    try:
        if watchdog:
            watchdog.start()
        yield watchdog
    except BaseException as error:
        if watchdog and isinstance(error, _WORKER_GONE):
            # TensorFlow notices first; the watchdog ends this process as soon as it has a name.
            watchdog.wait(2 * LOST_SECONDS - 5)
            _leave(f"a worker is gone ({error.message.splitlines()[0]})")
        reason = str(error) if isinstance(error, tuple(EXIT_CODES)) else repr(error)
        if watchdog:
            watchdog.left(reason.rstrip("."))
        history.note(reason)
        raise


def _leave(reason: str) -> None:
    """Ends the process: its main thread may sit in a collective that never ends."""
    sentence = f"{reason[0].upper()}{reason[1:]}; end what is left and start all workers again."
    history.note(sentence)
    os.write(2, f"error: {sentence}\n".encode())
    os._exit(EXIT_CODES[RunAgain])


def _teacher(config: Config, strategy: tf.distribute.Strategy, precision: str):
    with strategy.scope():
        how = config.training.distillation
        return distillation.teacher(how, config.model.classes, precision)


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


def _choose_jit(loop: Loop, reader: data.Reader, options: Options) -> None:
    """Lets XLA compile the network where that is faster on this very GPU.

    Not on the CPU, where it takes three times as long (SqueezeNet 1.1, 16 images, 2 cores under
    load: 6.1 s with, 2.1 s without, by `Loop.measure_jit`), nor with several replicas, where
    TensorFlow breaks (keras#19005, tensorflow#53140).
    """
    if not tf.config.list_physical_devices("GPU"):
        why = "the CPU's own kernels are faster"
    elif loop.strategy.num_replicas_in_sync > 1:
        why = "TensorFlow does not compile for several devices"
    elif options.deterministic:
        why = "a choice by time is not deterministic"
    else:
        seconds = loop.measure_jit(loop.batches(reader))
        LOG.info(
            "XLA: %s; %.2f ms a micro-batch without, %.2f ms with.",
            *("on" if loop.jit else "off", 1e3 * seconds[False], 1e3 * seconds[True]),
        )
        return
    LOG.info("XLA: off; %s.", why)


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
