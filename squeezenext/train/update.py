"""One step of the weights from the gradients of all replicas.

In order: `accumulate` over micro-batches, `reduce` over replicas (loss scale, clipping), `apply`
(learning rate, momentum, weight decay, moving average).
"""

import dataclasses
import math
from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from squeezenext.config.training import Training
from squeezenext.model.checkpoint import average_of
from squeezenext.network.keras_model import model_variables
from squeezenext.train import optimizers
from squeezenext.train.optimizers import learning_rate

LOSS_SCALE_START = 2.0**15  # as Keras' LossScaleOptimizer
LOSS_SCALE_GROWTH_STEPS = 2000  # the same: dynamic_growth_steps


@dataclasses.dataclass(frozen=True)
class Restriction:
    """Keeps a weight within limits, e.g. a pruned one at 0. Its functions run on each replica."""

    gradient: Callable[[tf.Tensor], tf.Tensor]  # from a gradient to the one that is used
    weight: Callable[[tf.Tensor], tf.Tensor] | None = None  # from a new value to the stored one


class Update:
    """Turns the gradients of all micro-batches and replicas into one step.

    Gradients and metrics travel in one vector, so there is one collective a step. The sum over all
    replicas, which is equal on all of them, decides whether the step is finite: a NaN on any
    replica leaves all weights as they were.

    Args:
      model: the network; create both under the strategy's scope.
      training: the recipe.
      examples: images in an epoch.
      precision: a Keras dtype policy.

    Attributes:
      weights: the variables that are trained.
      step: scalar int64, steps taken, skipped ones included.
      examples_seen: scalar int64, examples trained on, those of skipped steps included.
      skipped: scalar int64, steps skipped because a gradient was not finite.
      loss_scale: scalar float32; 1 unless the precision is mixed_float16.
      clean_steps: scalar int64, steps since the loss scale last changed.
      scaled: whether there is a loss scale.
    """

    METRICS = 3  # sums in the vector after the gradients: loss, top-1 hits, top-5 hits

    def __init__(self, model: keras.Model, training: Training, examples: int, precision: str):
        self.training = training
        self.examples_per_epoch = examples
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
        self._accumulated = tf.Variable(
            tf.zeros([sum(self._sizes) + self.METRICS]),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
            name="accumulated",
        )

    def restrict(self, restrictions: Iterable[tuple[keras.Variable, Restriction]]) -> None:
        """Sets restrictions of single weights; call before the first step."""
        self._restrictions = {id(weight): restriction for weight, restriction in restrictions}

    def restart_loss_scale(self, saved_precision: str | None) -> None:
        """Adapts the loss scale after the variables of a checkpoint were restored.

        A checkpoint saved without loss scaling has scale 1, which would need 30,000 steps to grow
        to what float16 needs; such a run restarts at 2^15. A scale of 1 saved in an unknown
        precision (None) restarts, too: a wrong guess costs at most 15 skipped steps.
        """
        if not self.scaled:
            self.loss_scale.assign(1.0)
            self.clean_steps.assign(0)
        elif saved_precision != "mixed_float16" and self.loss_scale.numpy() <= 1.0:
            self.loss_scale.assign(LOSS_SCALE_START)

    def averaged(self) -> list[tuple[keras.Variable, tf.Variable]]:
        """Returns each weight with its moving average, where the recipe keeps any."""
        return list(zip(self.weights, self.averages, strict=False))

    def state(self) -> dict[str, tf.Variable]:
        """Returns everything that a resumed run needs beside the model, by stable names."""
        counters = (self.step, self.examples_seen, self.skipped, self.loss_scale, self.clean_steps)
        named = {f"update/{v.name.split(':')[0]}": v for v in counters}
        named |= {f"optimizer/{i:04d}": v for i, v in enumerate(self.optimizer.variables)}
        names = map(average_of, self._names)
        return named | dict(zip(names, self.averages, strict=False))  # there may be no averages

    def reset_optimizer(self) -> None:
        """Starts the optimizer afresh for weights that were frozen until now.

        Otherwise Adam's bias correction would take their empty moments for those of many steps.
        """
        for variable in self.optimizer.variables:
            variable.assign(tf.zeros_like(variable))

    def accumulate(self, gradients: list[tf.Tensor], metrics: list[tf.Tensor]) -> None:
        """Adds the scaled gradients and the metrics of one micro-batch; call in a replica."""
        parts = [tf.reshape(tf.cast(g, tf.float32), [-1]) for g in gradients]
        self._accumulated.assign_add(tf.concat([*parts, tf.stack(metrics)], 0))

    def discard_accumulated(self) -> None:
        """Drops the accumulated gradients; call outside any replica."""
        self._accumulated.assign(tf.zeros_like(self._accumulated))

    def accumulated_sum(self) -> float:
        """Waits for the device and returns the sum of what it has accumulated."""
        return float(tf.reduce_sum(self._accumulated))

    def reduce(self) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """Sums the accumulated gradients and metrics over all replicas; call in a replica.

        Returns:
          The gradients, unscaled and clipped; whether all are finite, scalar bool; the metrics,
          [3] float32.
        """
        replica = tf.distribute.get_replica_context()
        total = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(self._accumulated))
        self._accumulated.assign(tf.zeros_like(total))
        gradient = total[: -self.METRICS] / tf.convert_to_tensor(self.loss_scale)
        metrics = total[-self.METRICS :]
        finite = tf.math.is_finite(tf.reduce_sum(tf.abs(gradient)) + tf.reduce_sum(metrics))
        if self.training.clip_norm:
            norm = tf.norm(gradient)
            gradient *= self.training.clip_norm / tf.maximum(norm, self.training.clip_norm)
        parts = tf.split(gradient, self._sizes)
        shaped = [tf.reshape(g, v.shape) for g, v in zip(parts, self.weights, strict=True)]
        return shaped, finite, metrics

    @property
    def classifier(self) -> int:
        """The index of the classifier's kernel among the weights."""
        found = zip(range(len(self.weights)), self.weights, strict=True)
        return next(i for i, v in found if optimizers.is_classifier(v) and len(v.shape) > 1)

    def apply(
        self, strategy, gradients: list, finite: tf.Tensor, frozen: bool = False
    ) -> tf.Tensor:
        """Updates the weights on all replicas, or skips the step; call outside any replica.

        Args:
          strategy: the strategy in whose scope this was created.
          gradients: one per-replica tensor a weight, from `reduce`.
          finite: scalar bool, from `reduce`.
          frozen: change the classifier alone.

        Returns:
          Whether the step was skipped for another reason than the loss scale, scalar bool.
        """
        not_finite = tf.logical_not(finite) & ((not self.scaled) | (self.loss_scale <= 1.0))
        rate = learning_rate(self.training, self.examples_seen, self.examples_per_epoch)
        tf.cond(finite, lambda: self._update_all(strategy, gradients, rate, frozen), self._skip)
        self.step.assign_add(1)
        self.examples_seen.assign_add(self.training.batch_size)
        return not_finite

    def _update_all(self, strategy, gradients: list, rate: tf.Tensor, frozen: bool) -> tf.Tensor:
        momentum = self._momentum(rate)
        for index, (weight, gradient) in enumerate(zip(self.weights, gradients, strict=True)):
            classifier = optimizers.is_classifier(weight)
            if frozen and not classifier:
                continue
            own_rate = rate * (self.training.classifier_multiplier if classifier else 1)
            decay = optimizers.decay(self.training, weight)
            average = self.averages[index] if self.averages else None
            limit = self._restrictions.get(id(weight))
            rule = (own_rate, momentum, decay, average)

            def update(variable, gradient, weight=weight, rule=rule, limit=limit):
                gradient = limit.gradient(gradient) if limit else gradient
                self._update_one(variable, weight.value, gradient, *rule)
                if limit and limit.weight:
                    variable.assign(limit.weight(variable))

            strategy.extended.update(weight.value, update, args=(gradient,), group=False)
        self.optimizer.end_step()
        self._grow_loss_scale()
        return tf.constant(True)

    def _update_one(self, variable, owner, gradient, rate, momentum, decay, average) -> None:
        """Updates one replica's copy of one weight, and its moving average."""
        if decay and self.training.optimizer == "adamw":
            variable.assign_sub(rate * decay * variable)
        elif decay and self.training.optimizer != "lamb":  # LAMB decays in its own formula
            gradient += decay * variable
        self.optimizer.update(variable, owner, gradient, rate, momentum)
        if average is not None:
            average.assign_add((1.0 - self._average_momentum()) * (variable - average))

    def _average_momentum(self) -> tf.Tensor:
        """Returns the moving average's momentum, small at first to forget the initial weights."""
        step = tf.cast(self.step, tf.float32)
        return tf.minimum(self.training.ema, (1.0 + step) / (10.0 + step))

    def _momentum(self, rate: tf.Tensor) -> tf.Tensor:
        """Returns the momentum; in Intel Caffe's warm-up times r_t / r_(t-1).

        The reason is Caffe's velocity, which contains the learning rate.
        """
        momentum = tf.constant(self.training.momentum)
        if not self.training.warmup_epochs:
            return momentum
        before = tf.maximum(self.examples_seen - self.training.batch_size, 0)
        last = learning_rate(self.training, before, self.examples_per_epoch)
        epochs = self.training.schedule_start + self.training.warmup_epochs
        warm = tf.cast(self.examples_seen, tf.float32) < epochs * self.examples_per_epoch
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
    """Returns a scalar variable that is equal on all replicas and written outside them."""
    return tf.Variable(
        tf.cast(initial, dtype),
        trainable=False,
        name=name,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
