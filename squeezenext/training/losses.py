"""What training minimises: cross-entropy, of labels, mixed labels, or a teacher's answers."""

from collections.abc import Callable

import tensorflow as tf

from squeezenext.config import Distillation

# From [n, size, size, 3] float32 pixels, RGB, 0..255, to [n, classes] float32 logits.
Teacher = Callable[[tf.Tensor], tf.Tensor]


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Returns the loss of each example, [n] float32, its target smoothed over all classes.

    Args:
      labels: [n] integers.
      logits: [n, classes] float32.
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return _smoothed(losses, logits, smoothing)


def of_targets(targets: tf.Tensor, logits: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Returns the same of targets [n, classes] that sum to 1."""
    return _smoothed(tf.nn.softmax_cross_entropy_with_logits(targets, logits), logits, smoothing)


def _smoothed(losses: tf.Tensor, logits: tf.Tensor, smoothing: float) -> tf.Tensor:
    if not smoothing:
        return losses
    uniform = tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1)
    return (1.0 - smoothing) * losses + smoothing * uniform


def distilled(
    losses: tf.Tensor, answers: tf.Tensor, logits: tf.Tensor, how: Distillation
) -> tf.Tensor:
    """Returns the loss of each example against a teacher's answers, [n] float32.

    The divergence of the student's softmax from the teacher's, both at `how.temperature`, times
    its square, which keeps the gradients' size (arXiv:1503.02531, section 2).

    Args:
      losses: [n], of the true labels.
      answers: [n, classes] float32, the teacher's logits; `logits`: the student's.
    """
    known = tf.nn.log_softmax(answers / how.temperature)
    guess = tf.nn.log_softmax(logits / how.temperature)
    soft = tf.reduce_sum(tf.exp(known) * (known - guess), -1) * how.temperature**2
    return how.label_share * losses + (1.0 - how.label_share) * soft if how.label_share else soft
