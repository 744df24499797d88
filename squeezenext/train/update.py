"""One step from the gradients of all replicas: loss scale, clipping, moving average, momentum."""

import math
from collections.abc import Sequence
from typing import Protocol

import keras
import tensorflow as tf

from squeezenext.config import Training
from squeezenext.model.checkpoint import average_of
from squeezenext.network.keras_model import model_variables
from squeezenext.train import optimizers
from squeezenext.train.optimizers import learning_rate

LOSS_SCALE_START = 2.0**15  # as Keras' LossScaleOptimizer
LOSS_SCALE_GROWTH_STEPS = 2000  # the same: dynamic_growth_steps


class Restriction(Protocol):
    """What a weight is held to, such as a pruned one to 0. Called on each replica."""

    def gradient(self, gradient: tf.Tensor) -> tf.Tensor: ...

    def weight(self, weight: tf.Tensor) -> tf.Tensor: ...


class Update:
    """Gathers gradients over micro-batches and replicas and turns them into one step.

    All gradients and the metrics' sums travel in one vector, so one collective a step. Whether
    it is finite is asked of the sum over all replicas, which all see alike: a NaN on any replica
    leaves all weights as they were. Create under the strategy's scope.

    Attributes:
      step: scalar int64, steps taken, skipped ones included.
      skipped: scalar int64, steps left out because a gradient was not finite.
      loss_scale: scalar float32; 1 unless the precision is mixed_float16.
    """

    METRICS = 3  # sums of loss, top-1 and top-5 hits

    def __init__(self, model: keras.Model, training: Training, examples: int, precision: str):
        self.training = training
        self.examples = examples
        self.weights = model.trainable_variables
        names = {id(v): name for name, v in model_variables(model).items()}
        self._names = [names[id(v)] for v in self.weights]
        self._sizes = [math.prod(v.shape) for v in self.weights]
        self.optimizer = optimizers.optimizer(training, self.weights)
        self.scaled = precision == "mixed_float16"
        self.step = _counter("step", tf.int64, 0)
        self.examples_seen = _counter("examples_seen", tf.int64, 0)
        self.skipped = _counter("skipped", tf.int64, 0)
        self.loss_scale = _counter("loss_scale", tf.float32, LOSS_SCALE_START if self.scaled else 1)
        self.clean_steps = _counter("clean_steps", tf.int64, 0)
        self.averages = [
            tf.Variable(tf.convert_to_tensor(v), trainable=False, name=f"{v.name}_average")
            for v in (self.weights if training.ema else [])
        ]
        self._restrictions: dict[int, Restriction] = {}
        self._gathered = tf.Variable(
            tf.zeros([sum(self._sizes) + self.METRICS]),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
            name="gathered",
        )

    @property
    def seen(self) -> int:
        """How many examples have been trained on, those of skipped steps included."""
        return int(self.examples_seen.numpy())

    def restrict(self, restrictions: Sequence[tuple[keras.Variable, "Restriction"]]) -> None:
        """Holds weights to what each may be, from the next step on; call before the first."""
        places = {id(weight): place for place, weight in enumerate(self.weights)}
        self._restrictions = {places[id(w)]: r for w, r in restrictions}

    def settle_scale(self, precision: str | None) -> None:
        """Call after the variables were restored, which were saved in `precision`; None: unknown.

        Where that was none with a loss scale, theirs is 1, from which it takes 30,000 steps to
        grow to what float16 needs. Where it is unknown a scale of 1 is taken for such a one: if it
        was not, it falls again within 15 steps.
        """
        if not self.scaled:
            self.loss_scale.assign(1.0)
            self.clean_steps.assign(0)
        elif precision != "mixed_float16" and self.loss_scale.numpy() <= 1.0:
            self.loss_scale.assign(LOSS_SCALE_START)

    def averaged(self) -> list[tuple[keras.Variable, tf.Variable]]:
        """Returns each weight with its moving average, where the recipe keeps any."""
        return list(zip(self.weights, self.averages, strict=True)) if self.averages else []

    def state(self) -> dict[str, tf.Variable]:
        """Returns everything that a resumed run needs beside the model, by stable names."""
        counters = (self.step, self.examples_seen, self.skipped, self.loss_scale, self.clean_steps)
        named = {f"update/{v.name.split(':')[0]}": v for v in counters}
        named |= {f"optimizer/{i:04d}": v for i, v in enumerate(self.optimizer.variables)}
        names = map(average_of, self._names)
        return named | (dict(zip(names, self.averages, strict=True)) if self.averages else {})

    def forget(self) -> None:
        """Starts the optimizer afresh, for weights that were frozen until now.

        Adam's bias correction would else take their empty moments for those of many steps.
        """
        for variable in self.optimizer.variables:
            variable.assign(tf.zeros_like(variable))

    def gather(self, gradients: list[tf.Tensor], metrics: list[tf.Tensor]) -> None:
        """Adds one micro-batch's gradients (scaled) and metrics; call in a replica."""
        parts = [tf.reshape(tf.cast(g, tf.float32), [-1]) for g in gradients]
        self._gathered.assign_add(tf.concat([*parts, tf.stack(metrics)], 0))

    def drop_gathered(self) -> None:
        """Forgets what was gathered; call outside any replica."""
        self._gathered.assign(tf.zeros_like(self._gathered))

    def gathered_sum(self) -> float:
        """The sum over what one device gathered: reading it waits until it has been."""
        return float(tf.reduce_sum(self._gathered))

    def take(self) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """Sums over the replicas what was gathered and forgets it; call in a replica.

        Returns:
          The gradients, whether all are finite (scalar bool), and the metrics [3].
        """
        replica = tf.distribute.get_replica_context()
        total = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(self._gathered))
        self._gathered.assign(tf.zeros_like(total))
        gradient = total[: -self.METRICS] / tf.convert_to_tensor(self.loss_scale)
        metrics = total[-self.METRICS :]
        finite = tf.math.is_finite(tf.reduce_sum(tf.abs(gradient)) + tf.reduce_sum(metrics))
        if self.training.clip_norm:
            norm = tf.norm(gradient)
            gradient *= self.training.clip_norm / tf.maximum(norm, self.training.clip_norm)
        parts = tf.split(gradient, self._sizes)
        shaped = [tf.reshape(g, v.shape) for g, v in zip(parts, self.weights, strict=True)]
        return shaped, finite, metrics

    def apply(
        self, strategy, gradients: list, finite: tf.Tensor, frozen: bool = False
    ) -> tf.Tensor:
        """Updates all replicas' weights, or none; call outside any replica.

        Args:
          strategy: the one in whose scope this was made.
          gradients: one (per-replica) tensor a weight, as `take` returned them.
          finite: scalar bool.
          frozen: change the classifier alone.

        Returns:
          Whether the step was left out although no loss scale can be at fault, scalar bool.
        """
        hopeless = tf.logical_not(finite) & ((not self.scaled) | (self.loss_scale <= 1.0))
        rate = learning_rate(self.training, self.examples_seen, self.examples)
        tf.cond(
            finite,
            lambda: self._update_all(strategy, gradients, rate, frozen),
            lambda: self._skip(),
        )
        self.step.assign_add(1)
        self.examples_seen.assign_add(self.training.batch_size)
        return hopeless

    def _update_all(self, strategy, gradients: list, rate: tf.Tensor, frozen: bool) -> tf.Tensor:
        momentum = self._momentum(rate)
        for place, (weight, gradient) in enumerate(zip(self.weights, gradients, strict=True)):
            classifier = optimizers.is_classifier(weight)
            if frozen and not classifier:
                continue
            own_rate = rate * (self.training.classifier_multiplier if classifier else 1)
            lost = optimizers.decay(self.training, weight)
            average = self.averages[place] if self.averages else None
            held = self._restrictions.get(place)
            own = (own_rate, momentum, lost, average)

            def update(variable, gradient, weight=weight, own=own, held=held):
                gradient = held.gradient(gradient) if held else gradient
                self._update_one(variable, weight.value, gradient, *own)
                if held:
                    variable.assign(held.weight(variable))

            strategy.extended.update(weight.value, update, args=(gradient,), group=False)
        self.optimizer.end_step()
        self._grow_loss_scale()
        return tf.constant(True)

    def _update_one(self, variable, owner, gradient, rate, momentum, decay, average) -> None:
        """Updates one replica's copy of one weight, and its moving average."""
        if decay and self.training.optimizer == "adamw":
            variable.assign_sub(rate * decay * variable)
        elif decay and self.training.optimizer != "lamb":  # which does it itself
            gradient += decay * variable
        self.optimizer.update(variable, owner, gradient, rate, momentum)
        if average is not None:
            average.assign_add((1.0 - self._average_momentum()) * (variable - average))

    def _average_momentum(self) -> tf.Tensor:
        """The moving average's momentum, small at first: else it keeps the initial weights."""
        step = tf.cast(self.step, tf.float32)
        return tf.minimum(self.training.ema, (1.0 + step) / (10.0 + step))

    def _momentum(self, rate: tf.Tensor) -> tf.Tensor:
        """Intel Caffe, warm-up: momentum times r_t / r_(t-1), since the velocity holds the rate."""
        momentum = tf.constant(self.training.momentum)
        if not self.training.warmup_epochs:
            return momentum
        before = tf.maximum(self.examples_seen - self.training.batch_size, 0)
        last = learning_rate(self.training, before, self.examples)
        epochs = self.training.frozen_epochs + self.training.warmup_epochs
        warm = tf.cast(self.examples_seen, tf.float32) < epochs * self.examples
        return tf.where(warm, momentum * tf.math.divide_no_nan(rate, last), momentum)

    def _grow_loss_scale(self) -> None:
        if self.scaled:
            clean = self.clean_steps + 1
            grown = clean >= LOSS_SCALE_GROWTH_STEPS
            self.loss_scale.assign(tf.where(grown, self.loss_scale * 2.0, self.loss_scale))
            self.clean_steps.assign(tf.where(grown, tf.zeros_like(clean), clean))

    def _skip(self) -> tf.Tensor:
        self.skipped.assign_add(1)
        if self.scaled:
            self.loss_scale.assign(tf.maximum(self.loss_scale / 2.0, 1.0))
            self.clean_steps.assign(0)
        return tf.constant(False)


def _counter(name: str, dtype: tf.DType, initial: float) -> tf.Variable:
    """A scalar that is alike on all replicas and only written outside them."""
    return tf.Variable(
        tf.cast(initial, dtype),
        trainable=False,
        name=name,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
