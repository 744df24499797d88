"""The formulas that change one weight, and which weights decay.

Caffe's rules where the published recipes come from Caffe: the learning rate inside the velocity,
weight decay as L2 in the gradient.
"""

import math

import keras
import tensorflow as tf

from squeezenext.config import Training

# The learning rate: a function of the examples seen.


def learning_rate(training: Training, examples_seen: tf.Tensor, examples: int) -> tf.Tensor:
    """Returns the learning rate of the step that begins after `examples_seen` images.

    Args:
      training: the recipe.
      examples_seen: scalar int64.
      examples: in an epoch.

    Returns:
      Scalar float32, scaled from 1024 images a batch to `training.batch_size`.
    """
    # float64: in float32 the last hundred steps' rates are wrong by a hundredth.
    epoch = tf.cast(examples_seen, tf.float64) / examples
    # The schedule begins when all weights learn; until then the classifier keeps its top rate.
    frozen, epoch = epoch < training.frozen_epochs, epoch - training.frozen_epochs
    rate = _scheduled(training, tf.maximum(epoch, 0.0))
    if training.warmup_epochs:
        # Intel Caffe: a straight line to base_lr; the schedule itself counts from the start.
        start, top = training.warmup_learning_rate, training.learning_rate
        line = start + (top - start) * epoch / training.warmup_epochs
        rate = tf.where(epoch < training.warmup_epochs, line, rate)
    if training.frozen_epochs:
        rate = tf.where(frozen, tf.constant(training.learning_rate, tf.float64), rate)
    return tf.cast(rate * (training.batch_size / 1024), tf.float32)


def _scheduled(training: Training, epoch: tf.Tensor) -> tf.Tensor:
    top = training.learning_rate
    bottom = tf.constant(training.final_learning_rate, tf.float64)
    if training.late_epoch:
        late = tf.constant(training.late_final_learning_rate, tf.float64)
        bottom = tf.where(epoch < training.late_epoch, bottom, late)
    if training.schedule == "polynomial":
        left = tf.maximum(1.0 - epoch / _scheduled_epochs(training), 0.0)
        return (top - bottom) * left**training.power + bottom
    if training.schedule == "cosine":
        share = tf.clip_by_value(epoch / _scheduled_epochs(training), 0.0, 1.0)
    else:  # cyclic: down for `cycle_epochs`, up for as many
        share = epoch / training.cycle_epochs
    return bottom + (top - bottom) * 0.5 * (1.0 + tf.cos(math.pi * share))


def _scheduled_epochs(training: Training) -> float:
    return training.epochs - training.frozen_epochs


CLASSIFIERS = ("classifier", "conv10")  # the layers whose shape follows the number of classes


class CaffeMomentum:
    """Caffe's SGD: v = m v + r g; w -= v, with the learning rate r inside the velocity.

    TensorFlow's fused kernel of this form: one operation a weight instead of Keras' six.
    """

    def __init__(self, variables: list[keras.Variable]):
        self.velocities = [
            tf.Variable(tf.zeros(v.shape), trainable=False, name=f"{v.name}_velocity")
            for v in variables
        ]
        self._of = {id(v.value): m for v, m in zip(variables, self.velocities, strict=True)}

    @property
    def variables(self) -> list[tf.Variable]:
        return self.velocities

    def update(self, variable, owner, gradient, rate, momentum) -> None:
        """Updates one replica's copy `variable` of the weight `owner`."""
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self._of[id(owner)].handle,
            lr=rate,
            grad=gradient,
            momentum=momentum,
        )

    def end_step(self) -> None:
        """Counts nothing: the velocity is all there is."""
        return None


class KerasOptimizer:
    """One of Keras' own optimizers, of which only the formula for one weight is used.

    Its distribution and loss scaling are left aside: the latter trusts replica 0 alone.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]):
        self.optimizer = optimizer
        optimizer.build(variables)

    @property
    def variables(self) -> list[tf.Variable]:
        return [v.value for v in self.optimizer.variables if v is not self.optimizer.learning_rate]

    def update(self, variable, owner, gradient, rate, momentum) -> None:
        """Updates one replica's copy `variable` of the weight `owner`."""
        del owner, momentum
        self.optimizer.update_step(gradient, variable, rate)

    def end_step(self) -> None:
        """Counts the step: Adam's bias correction depends on it."""
        self.optimizer.iterations.assign_add(1)


class Lamb(keras.optimizers.Lamb):
    """LAMB with the decay inside the trust ratio (arXiv:1904.00962, algorithm 2).

    Keras' own decays outside it, where the layers' rates differ by orders of magnitude.
    """

    def __init__(self, training: Training, variables: list[keras.Variable]):
        super().__init__(epsilon=1e-6)  # the paper's, in its released code
        self._decays = [decay(training, variable) for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        """Keras' formula with the decay added to the step whose length is normalised."""
        place = self._get_variable_index(variable)
        m, v = self._momentums[place], self._velocities[place]
        m.assign(m + (gradient - m) * (1 - self.beta_1))
        v.assign(v + (tf.square(gradient) - v) * (1 - self.beta_2))
        steps = tf.cast(self.iterations.value + 1, tf.float32)
        m_hat = m.value / (1 - self.beta_1**steps)
        v_hat = v.value / (1 - self.beta_2**steps)
        step = m_hat / (tf.sqrt(v_hat) + self.epsilon) + self._decays[place] * variable
        lengths = tf.norm(variable), tf.norm(step)
        both = (lengths[0] > 0) & (lengths[1] > 0)
        ratio = tf.where(both, tf.math.divide_no_nan(*lengths), 1.0)
        variable.assign_sub(learning_rate * ratio * step)


def optimizer(training: Training, variables: list[keras.Variable]):
    """Returns the recipe's optimizer with its slots; call under the strategy's scope."""
    if training.optimizer == "sgd":
        return CaffeMomentum(variables)
    if training.optimizer == "lamb":
        return KerasOptimizer(Lamb(training, variables), variables)
    # adamw, too: its decay is decoupled and applied by `Update`.
    return KerasOptimizer(keras.optimizers.Adam(), variables)


def is_kernel(variable: keras.Variable) -> bool:
    """Says whether a weight is a convolution's or dense layer's kernel."""
    return variable.name == "kernel"


def is_classifier(variable: keras.Variable) -> bool:
    """Says whether a weight is of the layer that tells the classes apart."""
    return variable.path.split("/")[-2] in CLASSIFIERS


def decay(training: Training, variable: keras.Variable) -> float:
    """Returns the weight decay of one weight."""
    decayed = training.decayed == "all" or is_kernel(variable)
    return training.weight_decay if decayed else 0.0
