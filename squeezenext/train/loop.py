"""One training step, the same on one device, several, or several workers.

A step reads one batch in micro-batches: each replica accumulates the gradients of its own
(`Loop.backward`), one collective sums them over all replicas, and one update changes the weights
(update.py). Many steps run inside one compiled call.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from squeezenext.config import Config
from squeezenext.images import augment
from squeezenext.images.geometry import normalize
from squeezenext.network import keras_model
from squeezenext.network.fusing import fused
from squeezenext.network.keras_model import model_variables
from squeezenext.records import batches as records_batches
from squeezenext.records.reader import Reader
from squeezenext.train import devices, evaluation, losses, phases
from squeezenext.train.evaluation import BatchCounter, Evaluator
from squeezenext.train.optimizers import is_classifier
from squeezenext.train.update import Update

REPLICAS = "replicas/statistics"  # in a checkpoint: moving statistics, a row for each replica


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
      precision: a Keras dtype policy.
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
        self._teacher, self._class_weights = teacher, class_weights
        self._batch_statistics = batch_statistics
        self.idle_steps = 0  # latest steps in a row in which no gradient reached the classifier
        self.evaluator = Evaluator(config, strategy, precision, seed)
        self.model, self.share = self.evaluator.model, self.evaluator.share
        self.statistics = self.evaluator.statistics
        self.xla = False  # whether XLA compiles the forward and backward pass
        epochs, batch = config.training.epochs, config.training.batch_size
        self.total_steps = max(1, round(epochs * examples / batch))
        self.micro_steps, rest = divmod(batch, micro_batch * self.share.total)
        if rest or not self.micro_steps:  # a step without a pass would train nothing, silently
            raise ValueError(
                f"A batch of {batch} is not whole micro-batches of {micro_batch} on "
                f"{self.share.total} replicas."
            )
        with strategy.scope():
            self.update = Update(self.model, config.training, examples, precision)
            sizes = set(config.images.progressive) - {config.images.size}
            self._networks = {size: keras_model.with_size(self.model, size) for size in sizes}
        self._networks[config.images.size] = self.model
        self.phase = self._phase()
        self._delivered = BatchCounter()  # counter of the newest iterator

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run's files: that of the first worker."""
        return self.share.first == 0

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
        """Sets whether XLA compiles the pass; call before the first `train`."""
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

        return iter(self.strategy.distribute_datasets_from_function(dataset))

    def train(self, iterator, steps: int) -> tuple[Sums, bool]:
        """Takes up to `steps` steps in one compiled call.

        A step whose gradient is not finite changes no weight.

        Returns:
          The sums over the steps, and whether the last gradient was not finite for another reason
          than the loss scale, which ends the call early. Both are equal on all workers.
        """
        metrics, taken, not_finite, idle = self._train(
            iterator, tf.constant(steps), self.phase.frozen
        )
        loss, top1, top5, examples = (float(value) for value in metrics.numpy())
        self.idle_steps = int(idle) + (self.idle_steps if idle == taken else 0)
        return Sums(int(taken), round(examples), loss, top1, top5), bool(not_finite)

    @tf.function
    def _train(self, iterator, steps, frozen: bool):
        # In float64 sums of float32 numbers are exact, however the steps are divided into calls.
        totals = tf.zeros([Update.METRICS + 1], tf.float64)
        taken = idle = tf.constant(0)
        not_finite = tf.constant(False)
        batch = tf.constant([self.config.training.batch_size], tf.float32)
        while taken < steps and not not_finite:
            for _ in tf.range(self.micro_steps):
                self.strategy.run(self._pass(), (*next(iterator), frozen))
            gradients, finite, metrics = self.strategy.run(self.update.reduce)
            # Nothing reaches it if all features are 0, or ReLUs behind it pass nothing.
            reached = tf.reduce_any(self._first(gradients[self.update.classifier]) != 0)
            not_finite = self.update.apply(self.strategy, gradients, self._first(finite), frozen)
            step = tf.cast(tf.concat([self._first(metrics), batch], 0), tf.float64)
            totals += tf.where(tf.reduce_all(tf.math.is_finite(step)), step, tf.zeros_like(step))
            taken += 1
            idle = tf.where(reached, 0, idle + 1)
        return totals, taken, not_finite, idle

    def _pass(self) -> Callable:
        return tf.function(self.backward, jit_compile=True) if self.xla else self.backward

    def _first(self, value):
        """Returns one replica's copy of a value that is equal on all."""
        return self.strategy.experimental_local_results(value)[0]

    def backward(self, images, labels, numbers, frozen: bool):
        """Accumulates the gradients of one micro-batch on one replica.

        Args:
          images: [micro_batch, size, size, 3] uint8 RGB.
          labels: [micro_batch] int64.
          numbers: [micro_batch, ...] float32, random numbers for augmentation.
          frozen: the classifier alone learns; other weights get gradients of 0.
        """
        training = self.config.training
        pixels, inputs, targets = self._augment(images, labels, numbers)
        network = self._networks[images.shape[1]]
        weights = self.model.trainable_variables
        learning = [v for v in weights if not frozen or is_classifier(v)]
        with tf.GradientTape() as tape:
            # Frozen layers compute as in evaluation: no statistics move and nothing drops out.
            logits = network(inputs, training=self._batch_statistics and not frozen)
            values = losses.cross_entropy(targets, logits, training.label_smoothing)
            if self._teacher:
                answers = tf.stop_gradient(self._teacher(pixels))
                values = losses.distilled(values, answers, logits, training.distillation)
            if self._class_weights is not None:
                values *= tf.linalg.matvec(targets, tf.constant(self._class_weights))
            loss = tf.reduce_sum(values) / training.batch_size
            loss *= tf.convert_to_tensor(self.update.loss_scale)
        found = tape.gradient(loss, [v.value for v in learning])
        by_weight = {id(v): gradient for v, gradient in zip(learning, found, strict=True)}
        gradients = [by_weight.get(id(v), tf.zeros(v.shape)) for v in weights]
        hits = [tf.reduce_sum(hit) for hit in evaluation.hits(labels, logits)]
        self.update.accumulate(gradients, [tf.reduce_sum(values), *hits])

    def _augment(self, images, labels, numbers):
        """Returns the teacher's pixels (None without one), the network's inputs, the targets."""

        def augmented(images, labels, numbers):
            chosen, classes = self.config.images, self.config.model.classes
            pixels, targets = augment.augmented(images, labels, numbers, chosen, classes)
            return (pixels if self._teacher else None), normalize(pixels, chosen), targets

        return fused(augmented)(images, labels, numbers)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Exchanges the weights with their moving averages, if the recipe keeps any."""
        self._swap_averages()
        try:
            yield
        finally:
            self._swap_averages()

    def _swap_averages(self) -> None:
        for weight, average in self.update.averaged():
            now = weight.numpy()
            weight.assign(average.numpy())
            average.assign(now)

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that is trained or counted, by stable names; a collective.

        Moving statistics are stored twice: their mean under the variables' names, for every
        reader, and each replica's own under `REPLICAS`, for `restore`. Nothing is written back,
        so that a run does not depend on when it was saved.
        """
        variables = model_variables(self.model) | self.update.state()
        rows = self.statistics.rows()
        means = self.statistics.by_name(evaluation.mean(rows))
        state = {n: means[n] if n in means else v.numpy() for n, v in variables.items()}
        return state | ({REPLICAS: rows} if len(rows) > 1 and rows.size else {})

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
        for name, variable in (model_variables(self.model) | self.update.state()).items():
            variable.assign(state[name])
        self.update.restart_loss_scale(precision)
        if not self.statistics.names:
            return True
        rows = state.get(REPLICAS)
        replicas = 1 if rows is None else len(rows)
        if replicas == self.share.total > 1:
            self.statistics.assign(rows)
        return replicas == self.share.total


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
