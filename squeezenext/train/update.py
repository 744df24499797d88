"""One step of the weights from the gradients of all replicas.

In order: `accumulate` over micro-batches, then `take`: the sum over replicas, loss scale, clipping,
learning rate, momentum, weight decay. All of it is arithmetic on vectors of all weights, without a
branch, so that a GPU need not wait for the host.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np
import tensorflow as tf

from squeezenext.config.training import Training
from squeezenext.train import optimizers
from squeezenext.train.optimizers import learning_rate
from squeezenext.train.vector import Vector, replicated

LOSS_SCALE_START = 2.0**15  # as Keras' LossScaleOptimizer
LOSS_SCALE_GROWTH_STEPS = 2000  # the same: dynamic_growth_steps


@dataclasses.dataclass(frozen=True)
class Restriction:
    """Keeps a weight within limits, e.g. a pruned one at 0. Its functions run on each replica."""

    gradient: Callable[[tf.Tensor], tf.Tensor]  # from a gradient to the one that is used
    weight: Callable[[tf.Tensor], tf.Tensor] | None = None  # from a new value to the stored one
    decayed: bool = True  # whether weight decay changes the weight


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of `Update.take`, equal on all replicas."""

    metrics: tf.Tensor  # [3] float32: the step's sums of loss, top-1 hits, top-5 hits
    changed: tf.Tensor  # scalar bool: the step was taken and not skipped
    reached: tf.Tensor  # scalar bool: a gradient has reached the classifier
    not_finite: tf.Tensor  # scalar bool: the step was skipped, and no lower loss scale can help


class Update:
    """Turns the gradients of all micro-batches and replicas into one step.

    Gradients and metrics travel in one vector, so there is one collective a step. The sum over all
    replicas, which is equal on all of them, decides whether the step is finite: a NaN on any
    replica leaves all weights as they were.

    Args:
      model: the network; create both under the strategy's scope.
      training: the recipe.
      examples: images in an epoch.
      precision: one of `options.PRECISIONS`.

    Attributes:
      weights: the variables that are trained.
      epochs: scalar float64, the epoch at which the schedule of the learning rate ends.
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
        self.epochs = _counter("epochs", tf.float64, training.epochs)
        self.weights = model.trainable_variables
        self.vector = Vector(self.weights, "weights")
        self._restrictions: dict[int, Restriction] = {}
        self.optimizer = optimizers.optimizer(training, self.vector, self._decays())
        self.scaled = precision == "mixed_float16"
        self.step = _counter("step", tf.int64, 0)
        self.examples_seen = _counter("examples_seen", tf.int64, 0)
        self.skipped = _counter("skipped", tf.int64, 0)
        self.loss_scale = _counter("loss_scale", tf.float32, LOSS_SCALE_START if self.scaled else 1)
        self.clean_steps = _counter("clean_steps", tf.int64, 0)
        self._iterations = _counter("iterations", tf.int64, 0)  # steps that changed the weights
        self._state = [
            replicated(np.zeros(sum(self.vector.sizes), np.float32), f"state_{number}")
            for number in range(self.optimizer.slots)
        ]
        self._accumulated = tf.Variable(
            tf.zeros([sum(self.vector.sizes) + self.METRICS]),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
            name="accumulated",
        )

    def restrict(self, restrictions: Iterable[tuple[keras.Variable, Restriction]]) -> None:
        """Sets restrictions of single weights; call before the first step."""
        self._restrictions = {id(weight): restriction for weight, restriction in restrictions}
        self.optimizer = optimizers.optimizer(self.training, self.vector, self._decays())

    def _decays(self) -> tf.Tensor:
        """Returns each weight's decay."""

        def decay(weight: keras.Variable) -> float:
            limit = self._restrictions.get(id(weight))
            fixed = limit is not None and not limit.decayed
            return 0.0 if fixed else optimizers.decay(self.training, weight)

        return self.vector.constant(decay)

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

    def _counters(self) -> dict[str, tf.Variable]:
        counters = (self.step, self.examples_seen, self.skipped, self.loss_scale, self.clean_steps)
        named = {f"update/{v.name.split(':')[0]}": v for v in counters}
        return named | ({_slot(0): self._iterations} if self.optimizer.counted else {})

    def _vectors(self) -> list[tuple[tf.Variable, list[str]]]:
        """Returns each saved vector with the names of its parts, those of Keras' optimizers."""
        kept, first = self.optimizer.slots, int(self.optimizer.counted)
        places = range(first, first + kept * len(self.weights))
        return [
            (vector, [_slot(place) for place in places[number::kept]])
            for number, vector in enumerate(self._state)
        ]

    def state(self) -> dict[str, np.ndarray]:
        """Returns everything that a resumed run needs beside the model, by stable names."""
        found = {name: variable.numpy() for name, variable in self._counters().items()}
        for vector, names in self._vectors():
            found |= zip(names, self.vector.arrays(vector.numpy()), strict=True)
        return found

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes back to what `state` returned.

        Raises:
          KeyError or ValueError: the state belongs to another network or recipe.
        """
        for name, variable in self._counters().items():
            variable.assign(state[name])
        for vector, names in self._vectors():
            parts = [state[name] for name in names]
            if [part.shape for part in parts] != self.vector.shapes:
                raise ValueError("the state's shapes are those of another network")
            vector.assign(np.concatenate([part.ravel() for part in parts]))

    def reset_optimizer(self) -> None:
        """Starts the optimizer afresh for weights that were frozen until now.

        Otherwise Adam's bias correction would take their empty moments for those of many steps.
        """
        for variable in (*self._state, self._iterations):
            variable.assign(tf.zeros_like(variable))

    def accumulate(self, gradient: tf.Tensor, metrics: tf.Tensor) -> None:
        """Adds the scaled gradient and the metrics of one micro-batch; call in a replica.

        Args:
          gradient: of all weights, [weights] float32.
          metrics: sums of loss, top-1 hits and top-5 hits, [3] float32.
        """
        self._accumulated.assign_add(tf.concat([gradient, metrics], 0))

    def discard_accumulated(self, strategy: tf.distribute.Strategy) -> None:
        """Drops the accumulated gradients; call outside any replica."""
        strategy.run(lambda: self._accumulated.assign(tf.zeros_like(self._accumulated)))

    def wait(self, strategy: tf.distribute.Strategy) -> None:
        """Waits until this worker's devices have accumulated their gradients; no collective."""
        for own in strategy.experimental_local_results(self._accumulated):
            own.numpy()

    @property
    def _classifier(self) -> slice:
        """The part of the vector that is the classifier's kernel."""
        ends = np.cumsum(self.vector.sizes)
        found = zip(self.weights, self.vector.sizes, ends, strict=True)
        kernels = (v for v in found if optimizers.is_classifier(v[0]) and len(v[0].shape) > 1)
        _, size, end = next(kernels)
        return slice(end - size, end)

    def take(self, strategy, active: tf.Tensor | bool = True, frozen: bool = False) -> Outcome:
        """Takes a step with what all replicas have accumulated; call outside any replica.

        The weights change in `vector.values`; `vector.store` hands them to the network.

        Args:
          strategy: the strategy in whose scope this was created.
          active: scalar bool; False changes nothing, not even the number of steps.
          frozen: change the classifier alone.
        """
        active = tf.convert_to_tensor(active)
        rate = self.rate(self.examples_seen)
        found = strategy.run(self._take, (rate, self._momentum(rate), active, frozen))
        metrics, finite, reached = (strategy.experimental_local_results(v)[0] for v in found)
        spent = (not self.scaled) | (self.loss_scale <= 1.0)
        changed, skipped = active & finite, active & ~finite
        self._count(changed, skipped)
        self.step.assign_add(tf.cast(active, tf.int64))
        self.examples_seen.assign_add(tf.cast(active, tf.int64) * self.training.batch_size)
        return Outcome(metrics, changed, reached, skipped & spent)

    def _count(self, changed: tf.Tensor, skipped: tf.Tensor) -> None:
        self._iterations.assign_add(tf.cast(changed, tf.int64))
        self.skipped.assign_add(tf.cast(skipped, tf.int64))
        if self.scaled:
            scale, clean = tf.convert_to_tensor(self.loss_scale), self.clean_steps + 1
            grown = clean >= LOSS_SCALE_GROWTH_STEPS
            larger, lower = tf.where(grown, scale * 2.0, scale), tf.maximum(scale / 2.0, 1.0)
            self.loss_scale.assign(tf.where(changed, larger, tf.where(skipped, lower, scale)))
            clean = tf.where(changed & ~grown, clean, tf.zeros_like(clean))
            self.clean_steps.assign(
                tf.where(changed | skipped, clean, tf.convert_to_tensor(self.clean_steps))
            )

    def _take(self, rate, momentum, active, frozen: bool):
        """Updates one replica's vectors.

        Returns:
          The metrics; whether the step is finite; whether a gradient has reached the classifier,
          which it does not if all features are 0, or if no ReLU behind it passes anything.
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
        now = self._next(gradient, rate, momentum)
        # A finite gradient may still overflow, in the square that Adam keeps of it.
        finite &= tf.math.is_finite(sum(tf.reduce_sum(tf.abs(vector)) for vector in now))
        changed = finite & active
        if frozen:
            changed &= self.vector.constant(optimizers.is_classifier) > 0
        self._assign(now, changed)
        return metrics, finite, tf.reduce_any(gradient[self._classifier] != 0)

    def _next(self, gradient, rate, momentum) -> list[tf.Tensor]:
        """Returns the new weights and the optimizer's new state."""
        training, vector = self.training, self.vector
        weights = tf.convert_to_tensor(vector.values)
        state = tuple(map(tf.convert_to_tensor, self._state))
        multiplier = training.classifier_multiplier
        if multiplier != 1:
            is_classifier = optimizers.is_classifier
            rate *= vector.constant(lambda v: multiplier if is_classifier(v) else 1)
        gradient = self._limited(gradient, "gradient")
        if training.optimizer == "adamw":
            weights -= rate * self._decays() * weights
        elif training.weight_decay and training.optimizer != "lamb":  # LAMB's formula has it
            gradient += self._decays() * weights
        number = tf.cast(self._iterations + 1, tf.float32)
        weights, state = self.optimizer.step(weights, gradient, state, rate, momentum, number)
        return [self._limited(weights, "weight"), *state]

    def _assign(self, now: list[tf.Tensor], changed: tf.Tensor) -> None:
        """Assigns the new vectors where `changed`, a bool for all or for each weight."""
        for variable, new in zip([self.vector.values, *self._state], now, strict=True):
            variable.assign(tf.where(changed, new, tf.convert_to_tensor(variable)))

    def _limited(self, vector: tf.Tensor, kind: str) -> tf.Tensor:
        """Applies the restrictions of "gradient" or "weight" to a vector."""
        limits = [self._restrictions.get(id(weight)) for weight in self.weights]
        functions = [getattr(limit, kind, None) for limit in limits]
        if not any(functions):
            return vector
        parts = zip(functions, self.vector.split(vector), strict=True)
        return self.vector.join([limit(part) if limit else part for limit, part in parts])

    def rate(self, examples_seen: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate of the step after `examples_seen` images, a scalar float32."""
        epochs = tf.convert_to_tensor(self.epochs)
        return learning_rate(self.training, examples_seen, self.examples_per_epoch, epochs)

    def _momentum(self, rate: tf.Tensor) -> tf.Tensor:
        """Returns the momentum; in Intel Caffe's warm-up times r_t / r_(t-1).

        The reason is Caffe's velocity, which contains the learning rate.
        """
        momentum = tf.constant(self.training.momentum)
        if not self.training.warmup_epochs:
            return momentum
        before = tf.maximum(self.examples_seen - self.training.batch_size, 0)
        last = self.rate(before)
        epochs = self.training.schedule_start + self.training.warmup_epochs
        warm = tf.cast(self.examples_seen, tf.float32) < epochs * self.examples_per_epoch
        return tf.where(warm, momentum * tf.math.divide_no_nan(rate, last), momentum)


def _slot(place: int) -> str:
    return f"optimizer/{place:04d}"


def _counter(name: str, dtype: tf.DType, initial: float) -> tf.Variable:
    """Returns a scalar variable that is equal on all replicas and written outside them."""
    return tf.Variable(
        tf.cast(initial, dtype),
        trainable=False,
        name=name,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
