"""Learning rate, optimizers and weight decay: the formulas that change the weights.

They follow Caffe, where the published recipes come from: the learning rate is inside the velocity,
weight decay is an L2 term of the gradient.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from squeezenext.config.training import Training
from squeezenext.network.architecture import CLASSIFIERS
from squeezenext.train.vector import Vector


def learning_rate(
    training: Training, examples_seen: tf.Tensor, examples: int, epochs: float | tf.Tensor
) -> tf.Tensor:
    """Returns the learning rate of the step that begins after `examples_seen` images.

    Args:
      training: the recipe.
      examples_seen: scalar int64.
      examples: images in an epoch.
      epochs: the epoch at which the schedule ends; a scalar float64 if a tensor.

    Returns:
      Scalar float32, scaled from the recipe's reference batch to its batch.
    """
    # float64: in float32 the last hundred steps' rates are wrong by a hundredth.
    epoch = tf.cast(examples_seen, tf.float64) / examples
    # The schedule begins when all weights learn; until then the classifier has the top rate.
    frozen, epoch = epoch < training.schedule_start, epoch - training.schedule_start
    rate = _scheduled(training, tf.maximum(epoch, 0.0), epochs - training.schedule_start)
    if training.warmup_epochs:
        # Intel Caffe: a straight line to base_lr; the schedule itself counts from the start.
        start, top = training.warmup_learning_rate, training.learning_rate
        line = start + (top - start) * epoch / training.warmup_epochs
        rate = tf.where(epoch < training.warmup_epochs, line, rate)
    if training.schedule_start:
        rate = tf.where(frozen, tf.constant(training.learning_rate, tf.float64), rate)
    return tf.cast(rate * training.rate_factor, tf.float32)


def _scheduled(training: Training, epoch: tf.Tensor, epochs: float | tf.Tensor) -> tf.Tensor:
    top = training.learning_rate
    bottom = tf.constant(training.final_learning_rate, tf.float64)
    if training.late_epoch:
        late = tf.constant(training.late_final_learning_rate, tf.float64)
        bottom = tf.where(epoch < training.late_epoch, bottom, late)
    if training.schedule == "polynomial":
        left = tf.maximum(1.0 - epoch / epochs, 0.0)
        return (top - bottom) * left**training.power + bottom
    if training.schedule == "cosine":
        share = tf.clip_by_value(epoch / epochs, 0.0, 1.0)
    else:  # cyclic: down for `cycle_epochs`, up for as many
        share = epoch / training.cycle_epochs
    return bottom + (top - bottom) * 0.5 * (1.0 + tf.cos(math.pi * share))


State = tuple[tf.Tensor, ...]  # an optimizer's vectors, as long as the weights


class Momentum:
    """Caffe's SGD: v = m v + r g; w -= v, with the learning rate r inside the velocity.

    Attributes:
      slots: number of vectors that the optimizer keeps.
      counted: True if the formula uses the number of steps.
    """

    slots, counted = 1, False

    def step(self, weights, gradient, state: State, rate, momentum, number):
        """Returns the new weights and the new state, [weights] float32 each.

        Args:
          weights: all weights, [weights] float32.
          gradient: theirs, with weight decay where the formula does not add it.
          state: `slots` vectors; here -v.
          rate: learning rate, a scalar or [weights] float32.
          momentum: scalar float32.
          number: this step's, from 1; scalar float32.
        """
        del number
        velocity = state[0] * momentum - gradient * rate
        return weights + velocity, (velocity,)


BETA_1, BETA_2 = 0.9, 0.999  # arXiv:1412.6980, algorithm 1


def _moments(gradient, state: State) -> State:
    """Returns Adam's moving averages of the gradient and of its square."""
    m, v = state
    return m + (gradient - m) * (1 - BETA_1), v + (tf.square(gradient) - v) * (1 - BETA_2)


class Adam:
    """Adam in the form of Keras: epsilon is added to the root that is not corrected."""

    slots, counted = 2, True
    EPSILON = 1e-7  # keras.optimizers.Adam

    def step(self, weights, gradient, state: State, rate, momentum, number):
        """Returns the new weights and the new state, as `Momentum.step`."""
        del momentum
        m, v = _moments(gradient, state)
        corrected = tf.sqrt(1 - tf.pow(BETA_2, number)) / (1 - tf.pow(BETA_1, number))
        return weights - m * (rate * corrected) / (tf.sqrt(v) + self.EPSILON), (m, v)


class Lamb:
    """LAMB with weight decay inside the trust ratio (arXiv:1904.00962, algorithm 2).

    Keras' LAMB decays outside it, where the layers' rates differ by orders of magnitude.
    """

    slots, counted = 2, True
    EPSILON = 1e-6  # the paper's, in its released code

    def __init__(self, decays: tf.Tensor, sizes: Sequence[int]):
        self._decays = decays
        self._segments = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)

    def step(self, weights, gradient, state: State, rate, momentum, number):
        """Returns the new weights and the new state, as `Momentum.step`."""
        del momentum
        m, v = _moments(gradient, state)
        m_hat = m / (1 - tf.pow(BETA_1, number))
        v_hat = v / (1 - tf.pow(BETA_2, number))
        step = m_hat / (tf.sqrt(v_hat) + self.EPSILON) + self._decays * weights
        squares = tf.stack([tf.square(weights), tf.square(step)], -1)
        # One length for each variable.
        lengths = tf.sqrt(tf.math.segment_sum(squares, self._segments))
        both = tf.reduce_all(lengths > 0, -1)
        ratio = tf.where(both, tf.math.divide_no_nan(lengths[:, 0], lengths[:, 1]), 1.0)
        return weights - rate * tf.gather(ratio, self._segments) * step, (m, v)


def optimizer(training: Training, weights: Vector, decays: tf.Tensor) -> Momentum | Adam | Lamb:
    """Returns the recipe's optimizer; `decays` are of each weight, or one scalar for all."""
    if training.optimizer == "sgd":
        return Momentum()
    if training.optimizer == "lamb":
        return Lamb(decays, weights.sizes)
    return Adam()  # AdamW, too: `Update` applies its decoupled decay


def is_classifier(variable: keras.Variable) -> bool:
    """Says whether a weight belongs to the last layer, the classifier."""
    return variable.path.split("/")[-2] in CLASSIFIERS


def decay(training: Training, variable: keras.Variable) -> float:
    """Returns the weight decay of one weight."""
    decayed = training.decayed == "all" or variable.name == "kernel"
    return training.weight_decay if decayed else 0.0
