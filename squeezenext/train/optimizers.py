"""Learning rate, optimizers and weight decay: the formulas that change one weight.

They follow Caffe, where the published recipes come from: the learning rate is inside the velocity,
weight decay is an L2 term of the gradient.
"""

import math

import keras
import tensorflow as tf

from squeezenext.config.training import Training


def learning_rate(training: Training, examples_seen: tf.Tensor, examples: int) -> tf.Tensor:
    """Returns the learning rate of the step that begins after `examples_seen` images.

    Args:
      training: the recipe.
      examples_seen: scalar int64.
      examples: images in an epoch.

    Returns:
      Scalar float32, scaled from 1024 images a batch to `training.batch_size`.
    """
    # float64: in float32 the last hundred steps' rates are wrong by a hundredth.
    epoch = tf.cast(examples_seen, tf.float64) / examples
    # The schedule begins when all weights learn; until then the classifier has the top rate.
    frozen, epoch = epoch < training.schedule_start, epoch - training.schedule_start
    rate = _scheduled(training, tf.maximum(epoch, 0.0))
    if training.warmup_epochs:
        # Intel Caffe: a straight line to base_lr; the schedule itself counts from the start.
        start, top = training.warmup_learning_rate, training.learning_rate
        line = start + (top - start) * epoch / training.warmup_epochs
        rate = tf.where(epoch < training.warmup_epochs, line, rate)
    if training.schedule_start:
        rate = tf.where(frozen, tf.constant(training.learning_rate, tf.float64), rate)
    return tf.cast(rate * (training.batch_size / 1024), tf.float32)


def _scheduled(training: Training, epoch: tf.Tensor) -> tf.Tensor:
    top = training.learning_rate
    bottom = tf.constant(training.final_learning_rate, tf.float64)
    if training.late_epoch:
        late = tf.constant(training.late_final_learning_rate, tf.float64)
        bottom = tf.where(epoch < training.late_epoch, bottom, late)
    epochs = training.epochs - training.schedule_start
    if training.schedule == "polynomial":
        left = tf.maximum(1.0 - epoch / epochs, 0.0)
        return (top - bottom) * left**training.power + bottom
    if training.schedule == "cosine":
        share = tf.clip_by_value(epoch / epochs, 0.0, 1.0)
    else:  # cyclic: down for `cycle_epochs`, up for as many
        share = epoch / training.cycle_epochs
    return bottom + (top - bottom) * 0.5 * (1.0 + tf.cos(math.pi * share))


CLASSIFIERS = ("classifier", "conv10")  # the layers whose shape follows the number of classes


class CaffeMomentum:
    """Caffe's SGD: v = m v + r g; w -= v, with the learning rate r inside the velocity.

    Uses TensorFlow's fused kernel: one operation a weight instead of Keras' six.
    """

    def __init__(self, variables: list[keras.Variable]):
        self.variables = [  # the velocities
            tf.Variable(tf.zeros(v.shape), trainable=False, name=f"{v.name}_velocity")
            for v in variables
        ]
        self._of = {id(v.value): m for v, m in zip(variables, self.variables, strict=True)}

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
        """Does nothing: the velocity is the whole state."""
        return  # AutoGraph cannot transform a body of a docstring alone, and warns of it


class KerasOptimizer:
    """A Keras optimizer, of which only the formula for one weight is used.

    Its loss scaling is not used: it looks at replica 0 alone.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]):
        self.optimizer = optimizer
        optimizer.build(variables)
        state = (v for v in optimizer.variables if v is not optimizer.learning_rate)
        self.variables = [v.value for v in state]

    def update(self, variable, owner, gradient, rate, momentum) -> None:
        """Updates one replica's copy `variable` of the weight `owner`."""
        del owner, momentum
        self.optimizer.update_step(gradient, variable, rate)

    def end_step(self) -> None:
        """Counts the step, on which Adam's bias correction depends."""
        self.optimizer.iterations.assign_add(1)


class Lamb(keras.optimizers.Lamb):
    """LAMB with weight decay inside the trust ratio (arXiv:1904.00962, algorithm 2).

    Keras' LAMB decays outside it, where the layers' rates differ by orders of magnitude.
    """

    def __init__(self, training: Training, variables: list[keras.Variable]):
        super().__init__(epsilon=1e-6)  # the paper's, in its released code
        self._decays = [decay(training, variable) for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        """Updates one weight by Keras' formula, with the decay added before normalisation."""
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        m.assign(m + (gradient - m) * (1 - self.beta_1))
        v.assign(v + (tf.square(gradient) - v) * (1 - self.beta_2))
        steps = tf.cast(self.iterations.value + 1, tf.float32)
        m_hat = m.value / (1 - self.beta_1**steps)
        v_hat = v.value / (1 - self.beta_2**steps)
        step = m_hat / (tf.sqrt(v_hat) + self.epsilon) + self._decays[index] * variable
        lengths = tf.norm(variable), tf.norm(step)
        both = (lengths[0] > 0) & (lengths[1] > 0)
        ratio = tf.where(both, tf.math.divide_no_nan(*lengths), 1.0)
        variable.assign_sub(learning_rate * ratio * step)


def optimizer(training: Training, variables: list[keras.Variable]):
    """Returns the recipe's optimizer; call under the strategy's scope."""
    if training.optimizer == "sgd":
        return CaffeMomentum(variables)
    if training.optimizer == "lamb":
        return KerasOptimizer(Lamb(training, variables), variables)
    # AdamW, too: `Update` applies its decoupled decay.
    return KerasOptimizer(keras.optimizers.Adam(), variables)


def is_classifier(variable: keras.Variable) -> bool:
    """Says whether a weight belongs to the last layer, the classifier."""
    return variable.path.split("/")[-2] in CLASSIFIERS


def decay(training: Training, variable: keras.Variable) -> float:
    """Returns the weight decay of one weight."""
    decayed = training.decayed == "all" or variable.name == "kernel"
    return training.weight_decay if decayed else 0.0
