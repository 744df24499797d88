"""The learning rate: a function of the examples seen."""

import math

import tensorflow as tf

from squeezenext.config import Training


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
