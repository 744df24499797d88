"""The training step, the same on one device, several, or several workers."""

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
from squeezenext.train import evaluation, losses, phases
from squeezenext.train.moving_statistics import mean
from squeezenext.train.optimizers import is_classifier
from squeezenext.train.update import Update

REPLICAS = "replicas/statistics"


@dataclasses.dataclass(frozen=True)
class Sums:
    """What a run of training steps adds up to."""

    steps: int
    examples: int
    loss: float
    top1: float
    top5: float

    def __add__(self, other: "Sums") -> "Sums":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Sums(*(a + b for a, b in pairs))

    def means(self) -> dict[str, float]:
        """Returns {"loss": ..., "top1": ..., "top5": ...} an example; NaN of none."""
        count = self.examples or math.nan
        return {name: getattr(self, name) / count for name in ("loss", "top1", "top5")}


class Loop(evaluation.Scorer):
    """A network with its optimizer on a strategy.

    Args:
      config: `config.model.classes` and `config.training.batch_size` as they are to be used.
      strategy: see `devices.strategy`.
      precision: a Keras dtype policy.
      examples: in an epoch.
      micro_batch: images a replica takes at once; gradients are accumulated up to the batch.
      seed: of the initial weights and of every random number.
      teacher: what `config.training.distillation` names, see distillation.py.

    Raises:
      ValueError: the batch is not whole micro-batches of all replicas, see micro_batches.py.
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
    ):
        keras.utils.set_random_seed(seed)
        super().__init__(config, strategy, precision, seed)
        self.micro_batch = micro_batch
        self.seed = seed
        self.teacher = teacher
        self.jit = False  # whether XLA compiles the pass forward and back, see xla.py
        self.as_evaluated = False  # train without dropout and batch statistics, see retraining.py
        self._delivered = evaluation.Deliveries()  # of the present iterator
        self.passed_over = 0  # examples left out of the order of training, see nan.py
        self.micro_steps, rest = divmod(config.training.batch_size, micro_batch * self.share.total)
        if rest or not self.micro_steps:  # a step without a pass would train nothing, silently
            raise ValueError(
                f"A batch of {config.training.batch_size} is not whole micro-batches of "
                f"{micro_batch} on {self.share.total} replicas."
            )
        with strategy.scope():
            self.update = Update(self.model, config.training, examples, precision)
            sizes = set(config.images.progressive) - {config.images.size}
            self._networks = {size: keras_model.resized(self.model, size) for size in sizes}
        self._networks[config.images.size] = self.model
        self.phase = self._phase()

    def _phase(self) -> phases.Phase:
        return phases.phase(self.config, self.update.seen // self.update.examples)

    @property
    def fed(self) -> int:
        """Micro-batches that the input has delivered, where there are other workers.

        Alike on all of them between two calls, but for what the present iterator reads ahead.
        """
        return self._delivered.count + self._scored.count

    @property
    def phase_is_over(self) -> bool:
        """Says whether training goes on with other batches: with those of `batches`, afresh."""
        return self._phase() != self.phase

    def batches(self, reader: Reader):
        """Returns an iterator over training's batches from where the run stands."""
        self.phase = self._phase()
        before = (self.update.seen - self.config.training.batch_size) // self.update.examples
        if not self.phase.frozen and phases.phase(self.config, before).frozen:
            self.update.forget()  # this is the first step of all weights
        self._delivered = delivered = evaluation.Deliveries()

        def dataset(_):
            batches = records_batches.training(
                reader,
                phases.resized(self.config.images, self.phase.size),
                self.config.model.classes,
                seed=self.seed,
                start=self.update.seen + self.passed_over,
                micro_batch=self.micro_batch,
                share=self.share,
                echo=self.config.training.echo,
            )
            return batches if self._alone else batches.map(delivered.count_in)

        return iter(self.strategy.distribute_datasets_from_function(dataset))

    def train(self, iterator, steps: int) -> tuple[Sums, bool]:
        """Takes `steps` steps; one whose gradient is not finite changes no weight.

        Returns:
          What the steps add up to, and whether the last was left out with no loss scale to
          blame, which ends the call: the same for all replicas and workers.
        """
        metrics, taken, hopeless = self._train(iterator, tf.constant(steps), self.phase.frozen)
        loss, top1, top5, examples = (float(value) for value in metrics.numpy())
        return Sums(int(taken), round(examples), loss, top1, top5), bool(hopeless)

    @tf.function
    def _train(self, iterator, steps, frozen: bool):
        # In float64 sums of float32 numbers are exact, however the steps fall into calls.
        totals = tf.zeros([Update.METRICS + 1], tf.float64)
        taken = tf.constant(0)
        hopeless = tf.constant(False)
        batch = tf.constant([self.config.training.batch_size], tf.float32)
        while taken < steps and not hopeless:
            for _ in tf.range(self.micro_steps):
                self.strategy.run(self._pass(), (*next(iterator), frozen))
            gradients, finite, metrics = self.strategy.run(self.update.take)
            hopeless = self.update.apply(self.strategy, gradients, self._first(finite), frozen)
            told = tf.cast(tf.concat([self._first(metrics), batch], 0), tf.float64)
            totals += tf.where(tf.reduce_all(tf.math.is_finite(told)), told, tf.zeros_like(told))
            taken += 1
        return totals, taken, hopeless

    def _pass(self) -> Callable:
        return tf.function(self.backward, jit_compile=True) if self.jit else self.backward

    def _first(self, value):
        """The value of a tensor that is alike on all replicas."""
        return self.strategy.experimental_local_results(value)[0]

    def backward(self, images, labels, draws, frozen: bool):
        """One micro-batch's gradients on one replica; 0 for weights that are frozen."""
        training = self.config.training
        pixels, inputs, targets = self._shown(images, labels, draws)
        network = self._networks[images.shape[1]]
        weights = self.model.trainable_variables
        learning = [v for v in weights if not frozen or is_classifier(v)]
        with tf.GradientTape() as tape:
            # Frozen: as in evaluation, so that no statistics move and nothing drops out.
            training_mode = not frozen and not self.as_evaluated
            logits = network(inputs, training=training_mode)
            values = losses.of_targets(targets, logits, training.label_smoothing)
            if self.teacher:
                answers = tf.stop_gradient(self.teacher(pixels))
                values = losses.distilled(values, answers, logits, training.distillation)
            loss = tf.reduce_sum(values) / training.batch_size
            loss *= tf.convert_to_tensor(self.update.loss_scale)
        found = tape.gradient(loss, [v.value for v in learning])
        by_weight = {id(v): gradient for v, gradient in zip(learning, found, strict=True)}
        gradients = [by_weight.get(id(v), tf.zeros(v.shape)) for v in weights]
        hits = [tf.reduce_sum(hit) for hit in evaluation.hits(labels, logits)]
        self.update.gather(gradients, [tf.reduce_sum(values), *hits])

    def _shown(self, images, labels, draws):
        """Returns what the teacher sees, if there is one; what the network does; the targets."""

        def shown(images, labels, draws):
            chosen, classes = self.config.images, self.config.model.classes
            pixels, targets = augment.augmented(images, labels, draws, chosen, classes)
            return (pixels if self.teacher else None), normalize(pixels, chosen), targets

        return fused(shown)(images, labels, draws)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Exchanges the weights with their moving averages, where the recipe keeps any."""
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
        """Returns everything that is trained or counted, by stable names.

        Each replica's moving statistics go under `REPLICAS`, their means under the variables'
        names, which is what every reader but `restore` takes. On several workers all must call
        this together. Nothing is written back, so that a run does not depend on when it was saved.
        """
        named = model_variables(self.model) | self.update.state()
        rows = self.statistics.rows()
        means = self.statistics.named(mean(rows))
        state = {
            name: means[name] if name in means else variable.numpy()
            for name, variable in named.items()
        }
        return state | ({REPLICAS: rows} if len(rows) > 1 and rows.size else {})

    def restore(self, state: dict[str, np.ndarray], precision: str | None = None) -> bool:
        """Takes up what `state` returned.

        Args:
          state: of this loop or of one in another process.
          precision: in which that one computed, where it is known.

        Returns:
          Whether the run is the same bit for bit: on another number of replicas each begins with
          the mean of their statistics.

        Raises:
          KeyError or ValueError: it is of another network or recipe.
        """
        for name, variable in (model_variables(self.model) | self.update.state()).items():
            variable.assign(state[name])
        self.update.settle_scale(precision)
        if not self.statistics.names:
            return True
        rows = state.get(REPLICAS)
        own = 1 if rows is None else len(rows)
        if own == self.share.total > 1:
            self.statistics.assign(rows)
        return own == self.share.total
