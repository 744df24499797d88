"""One process's part in a training job: its devices, its data, its network, then the run."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from squeezenext import tf_import
from squeezenext.cli import cores, plural, say
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.config.network import SqueezeNext
from squeezenext.config.training import Training
from squeezenext.errors import InputError
from squeezenext.model import checkpoint, loading
from squeezenext.model import directory as model_directory
from squeezenext.network.architecture import CLASSIFIERS
from squeezenext.network.keras_model import model_variables
from squeezenext.records import bad_records
from squeezenext.records.batches import faults_named
from squeezenext.records.dataset import Split
from squeezenext.records.reader import Reader
from squeezenext.train import devices, exchange, measure
from squeezenext.train.cluster import Cluster
from squeezenext.train.log import LOG
from squeezenext.train.loop import Loop, create
from squeezenext.train.options import Course, Options, Task
from squeezenext.train.run import Run
from squeezenext.train.source import common, head
from squeezenext.train.stopping import StopSignals
from squeezenext.train.watchdog import Watchdog

CORES_A_GPU = 4  # each decodes some 450 images/s of ImageNet
# Other errors than "OOM" that a GPU without free memory causes, in cuDNN and cuBLAS. NCCL's
# "unhandled cuda error" is none of them: it can also mean that another worker is gone.
_WITHOUT_MEMORY = re.compile(r"No algorithm worked!|create (cudnn|cublas) handle", re.IGNORECASE)
UNSTABLE = 5e-3  # Adam's highest rate that was seen to learn without batch norm
ROUNDING = 0.1  # share by which the epochs of whole steps may differ unsaid from those asked for

_RATES = (
    "learning_rate", "warmup_learning_rate", "final_learning_rate", "late_final_learning_rate"
)  # fmt: skip


def train(
    task: Task,
    options: Options,
    cluster: Cluster | None,
    watchdog: Watchdog | None,
    signals: StopSignals,
    course: Course | None = None,
) -> dict:
    """Trains in a model directory that is locked; result and errors as `command.train`."""
    strategy = _strategy(options, cluster, watchdog)
    reader = _reader(task.splits["train"], options)
    config = _fitted(task.config, options, strategy, reader.split.examples)
    task = dataclasses.replace(task, config=config)
    loop = _loop(config, options, strategy, reader, watchdog.progress if watchdog else None)
    if watchdog:
        watchdog.count_batches(lambda: loop.batches_delivered)
    split = task.splits.get("validation")
    validation = Reader(split, options.readers) if split and split.examples else None
    with (
        faults_named(*filter(None, (reader, validation))),
        _full_memory_explained(task.config, strategy, loop.micro_batch),
    ):
        if options.profile_input:
            measure.choose_xla(loop, reader, options.deterministic)
            measured = measure.profile(loop, reader)
            say(*measured.report(task.config.training.echo).splitlines())
            return dataclasses.asdict(measured)
        run = Run(
            loop, reader, validation, options, watchdog=watchdog, signals=signals, course=course
        )
        if not run.resume() and task.source:
            _fine_tune(loop, task, task.source)
        measure.choose_xla(loop, reader, options.deterministic)
        if loop.is_chief:
            exchange.create(Path(options.model_dir), task.config, task.classes)
        return run.run()


@contextlib.contextmanager
def _full_memory_explained(
    config: Config, strategy: tf.distribute.Strategy, now: int
) -> Iterator[None]:
    """Raises InputError with a remedy where a device's memory is too small for `now` images."""
    try:
        yield
    except tf.errors.OpError as error:
        exhausted = isinstance(error, tf.errors.ResourceExhaustedError)  # a disk can be full, too
        full = exhausted and re.search(r"OOM|memory", error.message, re.IGNORECASE)
        if not full and not (found := _WITHOUT_MEMORY.search(error.message)):
            raise
        cause = "" if full else f", or another program fills it ({found[0]})"
        share = config.training.batch_size // strategy.num_replicas_in_sync
        less = devices.sizes(share, config.training.echo, now // 2)
        remedy = f"run again with --micro_batch_size {less[-1]}" if less else "take smaller images"
        raise InputError(
            f"A device's memory is too small for {now} images at once{cause}; {remedy}."
        ) from error


def _strategy(
    options: Options, cluster: Cluster | None, watchdog: Watchdog | None
) -> tf.distribute.Strategy:
    """Returns the strategy, which waits for all workers; the watchdog watches that wait, too."""
    if options.deterministic:
        devices.make_deterministic()
    if watchdog:
        found = devices.names(options.devices)
        watchdog.connecting(plural(len(found), found[0].split(":")[0]))
    strategy = devices.strategy(options.devices, cluster)
    if watchdog:
        devices.exchange(strategy, [0])  # returns once TensorFlow has connected all workers
        watchdog.connected()
    return strategy


def _reader(split: Split, options: Options) -> Reader:
    reader = Reader(split, options.readers)
    if options.on_bad_record == "skip":
        listed = bad_records.listed(Path(options.model_dir) / bad_records.FILE)
        reader.skip_damaged(LOG.warning, listed)
    return reader


def _fitted(
    config: Config, options: Options, strategy: tf.distribute.Strategy, examples: int
) -> Config:
    """Returns the configuration with a batch of no more images than the run is to see.

    A run that is there keeps its batch: a larger one of an earlier release, or one that was fitted
    to other devices or epochs. A run of an earlier release also keeps its rates, which are linear
    in the batch. The chief reads them; a worker's cache may show an older directory.
    """
    training, replicas = config.training, strategy.num_replicas_in_sync
    images = min(examples, max(1, round(training.epochs * examples)))
    batch = devices.fitted_batch(config, replicas, options.micro_batch_size, images)
    chief = devices.worker_share(strategy).first == 0
    run = _recipe_of_run(Path(options.model_dir)) if chief else None
    begun = run.batch_size if run and images < training.batch_size else 0
    linear = run is not None and run.rate_scaling == "linear" != training.rate_scaling
    rates = np.float64([getattr(run if linear else training, name) for name in _RATES])
    own = [begun, int(linear), *rates.view(np.int64)]
    begun, linear, *bits = devices.exchange(strategy, own)[0].tolist()
    if begun % replicas:
        raise InputError(
            f"{options.model_dir} holds a run with batches of {begun} images, which {replicas} "
            "devices cannot share evenly; give another --devices, or another --model_dir."
        )
    if linear:
        LOG.info("The run keeps its learning rates, which are linear in the batch.")
        rates = np.int64(bits).view(np.float64)
        own = dict(zip(_RATES, rates.tolist(), strict=True))
        training = dataclasses.replace(
            training, rate_scaling="linear", reference_batch=Training.reference_batch, **own
        )
        config = dataclasses.replace(config, training=training)
    if (batch := begun or batch) == training.batch_size:
        return config
    LOG.warning(
        "There are %d images to train on, fewer than a batch of %d: the batch is %d. The number "
        "of epochs stays %g.",
        *(images, training.batch_size, batch, training.epochs),
    )
    return dataclasses.replace(config, training=dataclasses.replace(training, batch_size=batch))


def _recipe_of_run(model_dir: Path) -> Training | None:
    """Returns the recipe in a run's newest whole checkpoint, None if there is none."""
    directory = model_dir / model_directory.CHECKPOINTS
    for step in reversed(checkpoint.steps(directory)):
        try:
            meta = checkpoint.read_meta(directory, step)
        except checkpoint.DamagedCheckpoint:
            continue  # `Checkpoints.resume` reports it
        if "seed" not in meta:  # imported weights
            return None
        text = json.dumps(meta["config"])
        return config_io.from_json(text, f"{directory}'s META.json").training
    return None


def _loop(
    config: Config,
    options: Options,
    strategy: tf.distribute.Strategy,
    reader: Reader,
    report_progress: Callable[[], None] | None,
) -> Loop:
    loop = create(
        config,
        strategy,
        reader,
        precision=devices.agreed_precision(options.precision, strategy),
        micro_batch=options.micro_batch_size,
        seed=options.seed,
        report_progress=report_progress,
    )
    LOG.info(
        "%s parameters, %s, batch %d = %s x %s x %d, %s, TensorFlow %s, oneDNN %s",
        *(f"{loop.model.count_params():,}", plural(reader.split.examples, "training image")),
        *(config.training.batch_size, plural(loop.share.total, "replica")),
        *(plural(loop.micro_batch, "image"), loop.micro_steps),
        *(loop.precision, tf.__version__, "on" if tf_import.onednn() else "off"),
    )
    _log_cores(len(tf.config.get_visible_devices("GPU")))
    _log_course(loop)
    return loop


def _log_cores(gpus: int) -> None:
    """Logs the cores that may decode images, which Slurm and containers keep from a process."""
    count = cores()
    LOG.info("This process may use %s.", plural(count, "CPU core"))
    if count < CORES_A_GPU * gpus:
        LOG.warning(
            "%s are few for %s, which will wait for images; give this process %d cores or more "
            "(Slurm: srun --cpus-per-task).",
            *(plural(count, "core"), plural(gpus, "GPU"), CORES_A_GPU * gpus),
        )


def _log_course(loop: Loop) -> None:
    """Logs what else the recipe comes to than its words may make one think."""
    training = loop.config.training
    epochs = loop.total_steps * training.batch_size / loop.update.examples_per_epoch
    if abs(epochs / training.epochs - 1) > ROUNDING:
        LOG.warning(
            "%d steps of %d images are %.3g epochs, not %g: a smaller --batch_size comes closer.",
            *(loop.total_steps, training.batch_size, epochs, training.epochs),
        )
    rate = training.learning_rate * training.rate_factor
    normed = isinstance(loop.config.model, SqueezeNext)
    if training.optimizer in ("adam", "adamw") and rate > UNSTABLE and not normed:
        LOG.warning(
            "A learning rate of %.2g is high for %s without batch norm, which may not learn with "
            "it; %g was stable. A smaller --batch_size lowers it, or --set training.learning_rate.",
            *(rate, training.optimizer, UNSTABLE),
        )
    if training.frozen_epochs >= training.epochs:
        LOG.info("Only the classifier learns: training.frozen_epochs are all epochs.")


def _fine_tune(loop: Loop, task: Task, source: Path) -> None:
    """Starts from the weights of a model directory; the classifier's rows go by class name."""
    arrays = loading.variables(source, LOG.warning)
    rows = common(task.source_classes, task.classes)
    with loop.strategy.scope():
        for name, variable in model_variables(loop.model).items():
            if name in arrays and name.split("/")[1] in CLASSIFIERS:
                made = head(arrays.pop(name), variable.numpy(), rows)
                arrays |= {} if made is None else {name: made}
        new = exchange.assign(loop.model, arrays, str(source), new_head=True)
        loop.averages.restart(loop.strategy)
    LOG.info("Fine-tuning from %s; new: %s", source, ", ".join(new) or "nothing")
    if (number := len(task.classes)) > len(rows):
        begun = f"{number - len(rows)} of {number}" if rows else f"all {number}"
        LOG.info("The classifier begins anew for %s classes: %s does not know them.", begun, source)
