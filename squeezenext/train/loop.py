"""One training step, the same on one device, several, or several workers.

A step reads one batch in micro-batches: each replica accumulates the gradients of its own
(backward.py), one collective sums them over all replicas, and one update changes the weights
(update.py). Many steps run inside one compiled call, which a device takes without the host: weights
and statistics are vectors there, and the network has them again when the call ends.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from squeezenext.config import Config
from squeezenext.model import checkpoint
from squeezenext.network import keras_model
from squeezenext.records import batches as records_batches
from squeezenext.records.reader import Reader
from squeezenext.train import devices, losses, phases
from squeezenext.train.backward import Backward
from squeezenext.train.evaluation import REPLICAS, BatchCounter, Evaluator
from squeezenext.train.update import Update
from squeezenext.train.vector import Averages


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over training steps; `loss`, `top1` and `top5` over their examples."""

    steps: int = 0
    examples: int = 0
    loss: float = 0.0
    top1: float = 0.0
    top5: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Sums(*(a + b for a, b in pairs))

    def means(self) -> dict[str, float]:
        """Returns the means over the examples, by "loss", "top1", "top5"; NaN without examples."""
        count = self.examples or math.nan
        return {name: getattr(self, name) / count for name in ("loss", "top1", "top5")}


class Loop:
    """A network in training on a strategy: its batches, its compiled steps, its state.

    Args:
      config: the configuration, with the data's number of classes.
      strategy: see `devices.strategy`.
      precision: one of `options.PRECISIONS`.
      examples: images in an epoch.
      micro_batch: images a replica takes at once; gradients accumulate up to the batch.
      seed: seed of initial weights, data order and augmentation.
      teacher: the network to learn from, see `losses.teacher`.
      class_weights: [classes] float32, weights of the classes in the loss; None: all are 1.
      batch_statistics: normalise by the batch's statistics and use dropout, as usual; False
        computes as in evaluation.

    Raises:
      ValueError: the batch is not a whole number of micro-batches on all replicas.
    """

    def __init__(
        self,
        config: Config,
        *,
        strategy: tf.distribute.Strategy,
        precision: str,
        examples: int,
        micro_batch: int,
        seed: int,
        teacher: losses.Teacher | None = None,
        class_weights: np.ndarray | None = None,
        batch_statistics: bool = True,
    ):
        keras.utils.set_random_seed(seed)
        self.config, self.strategy, self.precision = config, strategy, precision
        self.micro_batch, self.seed = micro_batch, seed
        self.idle_steps = 0  # latest steps in a row in which no gradient reached the classifier
        self.evaluator = Evaluator(config, strategy, precision, seed)
        self.model, self.share = self.evaluator.model, self.evaluator.share
        self.statistics = self.evaluator.statistics
        self.xla: bool | None = None  # whether XLA compiles the pass; None: not chosen, so no
        batch = config.training.batch_size
        self.micro_steps, rest = divmod(batch, micro_batch * self.share.total)
        if rest or not self.micro_steps:  # a step without a pass would train nothing, silently
            raise ValueError(
                f"A batch of {batch} is not whole micro-batches of {micro_batch} on "
                f"{self.share.total} replicas."
            )
        with strategy.scope():
            self.update = Update(self.model, config.training, examples, precision)
            sizes = set(config.images.progressive) - {config.images.size}
            networks = {size: keras_model.with_size(self.model, size) for size in sizes}
            lag = 1.0 / (1.0 - config.training.batch_norm_momentum) / self.micro_steps
            vectors = [(self.update.vector, 0.0), (self.statistics.vector, lag)]
            momentum = config.training.average_momentum(self.total_steps)
            self.averages = Averages(vectors if config.training.averages else [], momentum)
        self.averages.restart(strategy)
        networks[config.images.size] = self.model
        self.backward = Backward(
            config,
            networks,
            self.update.vector,
            self.statistics,
            self.share.total,
            teacher,
            class_weights,
            batch_statistics,
        )
        self.phase = self._phase()
        self._delivered = BatchCounter()  # counter of the newest iterator

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run's files: that of the first worker."""
        return self.share.first == 0

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        epochs, batch = self.config.training.epochs, self.config.training.batch_size
        return max(1, round(epochs * self.update.examples_per_epoch / batch))

    def set_epochs(self, epochs: float) -> None:
        """Changes the epochs of the run; the schedule of the learning rate ends with them."""
        training = dataclasses.replace(self.config.training, epochs=epochs)
        self.config = dataclasses.replace(self.config, training=training)
        self.update.epochs.assign(epochs)

    @property
    def step(self) -> int:
        """Steps taken so far, skipped ones included."""
        return int(self.update.step.numpy())

    @property
    def seen(self) -> int:
        """Examples trained on so far, those of skipped steps included."""
        return int(self.update.examples_seen.numpy())

    @property
    def epoch(self) -> float:
        """Epochs trained so far."""
        return self.seen / self.update.examples_per_epoch

    @property
    def batches_delivered(self) -> int:
        """Micro-batches that the input has delivered; 0 if there is one worker.

        Between calls all workers agree on this number, up to prefetched batches.
        """
        return self._delivered.count + self.evaluator.delivered.count

    def use_xla(self, on: bool) -> None:
        """Sets whether XLA compiles the pass."""
        self.xla = on

    def _phase(self) -> phases.Phase:
        return phases.phase(self.config, self.seen // self.update.examples_per_epoch)

    @property
    def phase_is_over(self) -> bool:
        """Whether the next step needs new `batches`: other images, or more weights that learn."""
        return self._phase() != self.phase

    def batches(self, reader: Reader, skipped: int = 0):
        """Returns an iterator over training batches from the present step on.

        Args:
          reader: reader of the training split.
          skipped: examples of the training order that the run has skipped so far, beside those
            that it has seen; see non_finite.py.
        """
        self.phase = self._phase()
        before = (self.seen - self.config.training.batch_size) // self.update.examples_per_epoch
        if not self.phase.frozen and phases.phase(self.config, before).frozen:
            self.update.reset_optimizer()  # this is the first step of all weights
        self._delivered = delivered = BatchCounter()
        alone = self.share.replicas == self.share.total

        def dataset(_):
            batches = records_batches.training(
                reader,
                phases.resized(self.config.images, self.phase.size),
                self.config.model.classes,
                seed=self.seed,
                start=self.seen + skipped,
                micro_batch=self.micro_batch,
                share=self.share,
                echo=self.config.training.echo,
            )
            return batches if alone else batches.map(delivered.counting)

        batches = self.strategy.distribute_datasets_from_function(dataset)
        if self.share.total == 1 and (gpus := tf.config.list_logical_devices("GPU")):
            # As strategies of several devices do; else a batch is copied within its step.
            batches = batches.apply(tf.data.experimental.prefetch_to_device(gpus[0].name, 2))
        return iter(batches)

    def train(self, iterator, steps: int) -> tuple[Sums, bool]:
        """Takes up to `steps` steps in one compiled call.

        A step whose gradient is not finite changes no weight.

        Returns:
          The sums over the steps, and whether the last gradient was not finite for another reason
          than the loss scale, which ends the call early. Both are equal on all workers.
        """
        self.prepare(bool(self.xla))
        metrics, taken, not_finite, idle = self._train(
            iterator, tf.constant(steps), self.phase.frozen, bool(self.xla)
        )
        loss, top1, top5, examples = (float(value) for value in metrics.numpy())
        self.idle_steps = int(idle) + (self.idle_steps if idle == taken else 0)
        return Sums(int(taken), round(examples), loss, top1, top5), bool(not_finite)

    def prepare(self, xla: bool) -> None:
        """Builds the graph of a pass, with or without XLA, if there is none."""
        self.backward.prepare(self.phase.size, self.micro_batch, self.phase.frozen, xla)

    @tf.function
    def _train(self, iterator, steps, frozen: bool, xla: bool):
        # In float64 sums of float32 numbers are exact, however the steps are divided into calls.
        totals = tf.zeros([Update.METRICS + 1], tf.float64)
        taken = idle = tf.constant(0)
        not_finite = tf.constant(False)
        batch = tf.constant([self.config.training.batch_size], tf.float32)
        self.strategy.run(self.load)
        for _ in tf.range(steps):
            # After a step that is not finite the others do nothing: to end the loop the host would
            # have to wait for each step.
            active = ~not_finite
            for _ in tf.range(self.micro_steps):
                self.strategy.run(self.micro_step, (*next(iterator), active, frozen, xla))
            outcome = self.update.take(self.strategy, active, frozen)
            step = tf.cast(tf.concat([outcome.metrics, batch], 0), tf.float64)
            self.strategy.run(self.averages.move, (self.update.step, outcome.changed))
            counts = active & tf.reduce_all(tf.math.is_finite(step))
            totals += tf.where(counts, step, tf.zeros_like(step))
            taken += tf.cast(active, tf.int32)
            idle = tf.where(active, tf.where(outcome.reached, 0, idle + 1), idle)
            not_finite |= outcome.not_finite
        self._store()
        return totals, taken, not_finite, idle

    def graph_def(self, iterator):
        """Returns the graph that `train` runs, a tf.compat.v1.GraphDef."""
        self.prepare(bool(self.xla))
        how = tf.constant(1), self.phase.frozen, bool(self.xla)
        traced = self._train.get_concrete_function(iterator, *how)
        return traced.graph.as_graph_def()

    def load(self) -> None:
        """Reads the network's weights and statistics into vectors; call in a replica."""
        self.update.vector.load()
        self.statistics.load()

    def micro_step(self, images, labels, numbers, active, frozen: bool, xla: bool) -> None:
        """Accumulates the gradient of one micro-batch on one replica, see `Backward.run`."""
        scale = self.update.loss_scale
        found = self.backward.run(scale, images, labels, numbers, active, frozen, xla)
        self.update.accumulate(*found)

    def _store(self) -> None:
        """Gives the network the weights and statistics of the vectors."""
        self.update.vector.store(self.strategy)
        self.strategy.run(self.statistics.store)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Exchanges weights and statistics with their averages, if the recipe keeps any."""
        swap = self._swap if self.config.training.averages else lambda: None
        swap()
        try:
            yield
        finally:
            swap()

    @tf.function
    def _swap(self) -> None:
        self.strategy.run(self.load)
        self.strategy.run(self.averages.swap)
        self._store()

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that is trained or counted, by stable names; a collective.

        The network is left as it was, so that a run does not depend on when it was saved.
        """
        state = self.evaluator.state() | self.update.state()
        if not self.config.training.averages:
            return state
        with self.averaged():
            averages = self.evaluator.state()
        averaged = {*checkpoint.trained(averages), *self.statistics.names, REPLICAS}
        return state | {checkpoint.average_of(n): averages[n] for n in averages if n in averaged}

    def restore(self, state: dict[str, np.ndarray], precision: str | None = None) -> bool:
        """Goes back to what `state` returned, here or in another process.

        Args:
          state: arrays by name.
          precision: the precision in which that loop computed; None: unknown.

        Returns:
          Whether the run goes on bit for bit. On another number of replicas it does not: each
          begins with the mean of the saved statistics.

        Raises:
          KeyError or ValueError: the state belongs to another network or recipe.
        """
        if self.config.training.averages:
            # Earlier releases averaged no statistics: those of the last weights are taken.
            rows = state.get(checkpoint.average_of(REPLICAS))
            self.evaluator.assign(checkpoint.evaluated(state), rows)
            self._swap()
        self.evaluator.assign(state, rows := state.get(REPLICAS))
        self.update.restore(state)
        self.update.restart_loss_scale(precision)
        return not self.statistics.names or (1 if rows is None else len(rows)) == self.share.total


def create(
    config: Config,
    strategy: tf.distribute.Strategy,
    reader: Reader,
    *,
    precision: str = "auto",
    micro_batch: int | None = None,
    seed: int = 0,
    batch_statistics: bool = True,
    report_progress: Callable[[], None] | None = None,
) -> Loop:
    """Returns a loop over the reader's split, with the recipe's teacher and class weights.

    Precision and micro-batch are as the user asks; for `report_progress` see `class_weights`.

    Raises:
      InputError: the batch does not divide among the devices, or the teacher does not fit.
    """
    policy, classes = devices.precision(precision), config.model.classes
    with strategy.scope():
        teacher = losses.teacher(config.training.distillation, classes, policy)
    return Loop(
        config,
        strategy=strategy,
        precision=policy,
        examples=reader.split.examples,
        micro_batch=devices.micro_batch(config, strategy, micro_batch),
        seed=seed,
        teacher=teacher,
        class_weights=losses.class_weights(config.training, reader, classes, report_progress),
        batch_statistics=batch_statistics,
    )
