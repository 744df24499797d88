"""Losses: cross-entropy with labels or mixed labels, and distillation from a teacher."""

import inspect
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from squeezenext.config.training import Distillation, Training
from squeezenext.errors import InputError
from squeezenext.images.geometry import normalize
from squeezenext.model import directory as model_directory
from squeezenext.model import loading, published
from squeezenext.network import keras_model
from squeezenext.network.fusing import fused
from squeezenext.records.reader import Reader
from squeezenext.train import exchange
from squeezenext.train.source import KERAS

# A function from [n, size, size, 3] float32 pixels, RGB, 0..255, to [n, classes] float32 logits.
Teacher = Callable[[tf.Tensor], tf.Tensor]


def cross_entropy(targets: tf.Tensor, logits: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Returns the loss of each example, [n] float32.

    Args:
      targets: [n, classes] float32 of sum 1.
      logits: [n, classes] float32.
      smoothing: share of the target that is spread over all classes.
    """
    losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    if not smoothing:
        return losses
    uniform = tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1)
    return (1.0 - smoothing) * losses + smoothing * uniform


def class_weights(
    training: Training,
    reader: Reader,
    classes: int,
    report_progress: Callable[[], None] | None = None,
) -> np.ndarray | None:
    """Returns the weight of each class in the loss, [classes] float32, or None for equal ones.

    Balanced ones give all classes the same share of the loss; their mean over the images is 1.
    Adjusted logits take their logarithms, which are minus the log frequencies but for a constant.
    They read all records, for which other workers wait: `report_progress` is called after each.
    """
    if training.class_weights == "none":
        return None
    counts = np.bincount(reader.labels(classes, report_progress), minlength=classes)
    return (counts.sum() / (np.count_nonzero(counts) * counts.clip(1))).astype(np.float32)


def distilled(
    losses: tf.Tensor, answers: tf.Tensor, logits: tf.Tensor, how: Distillation
) -> tf.Tensor:
    """Returns the distillation loss of each example, [n] float32.

    It is the divergence of the student's softmax from the teacher's, both at `how.temperature`,
    times the temperature's square, which keeps the size of the gradients (arXiv:1503.02531,
    section 2).

    Args:
      losses: [n] float32, losses with the true labels.
      answers: [n, classes] float32, the teacher's logits.
      logits: [n, classes] float32, the student's logits.
      how: temperature and share of the true labels.
    """
    known = tf.nn.log_softmax(answers / how.temperature)
    guess = tf.nn.log_softmax(logits / how.temperature)
    soft = tf.reduce_sum(tf.exp(known) * (known - guess), -1) * how.temperature**2
    return how.label_share * losses + (1.0 - how.label_share) * soft if how.label_share else soft


def teacher(how: Distillation, classes: int, precision: str) -> Teacher | None:
    """Returns the teacher that `how` names, or None; call under the strategy's scope.

    A teacher sees the same pixels as the student, after crop, colours and mixing, resized and
    normalised in its own way (arXiv:2106.05237: a teacher that sees another crop teaches less).

    Args:
      how: name of the teacher.
      classes: the student's number of classes; the teacher needs the same ones in the same order.
      precision: one of `options.PRECISIONS`.

    Raises:
      InputError: there is no such model, or it has another number of classes.
    """
    if not how.teacher:
        return None
    if how.teacher.startswith(KERAS):
        return _application(how.teacher, classes)
    return _own(how.teacher, classes, precision)


def _own(name: str, classes: int, precision: str) -> Teacher:
    """Loads a model directory or a published model."""
    directory = published.resolve(name)
    config = model_directory.read_config(directory)
    _check_classes(name, config.model.classes, classes)
    model = keras_model.build_model(config, precision=precision)
    exchange.assign(model, loading.variables(directory), name)
    return _answering(model, fused(lambda pixels: normalize(pixels, config.images)))


def _application(name: str, classes: int) -> Teacher:
    """Loads a network of keras.applications with ImageNet's weights, which Keras downloads."""
    known = name.removeprefix(KERAS)
    build = getattr(keras.applications, known, None)
    if not callable(build):
        raise InputError(
            f"--teacher {name}: keras.applications has no {known}; it has ResNet50, for one."
        )
    _check_classes(name, 1000, classes)
    try:
        model = build(weights="imagenet", classifier_activation=None)
    except Exception as error:  # a URLError, or Keras' own, as Exception
        raise InputError(
            f"--teacher {name}: its weights cannot be fetched ({error}); fetch them once with a "
            "network, or name a model directory."
        ) from error
    return _answering(model, preprocess_of(known))


def preprocess_of(name: str):
    """Returns the `preprocess_input` that belongs to a network of keras.applications."""
    home = next(
        module
        for _, module in inspect.getmembers(keras.applications, inspect.ismodule)
        if hasattr(module, name) and hasattr(module, "preprocess_input")
    )
    return home.preprocess_input


def _answering(model: keras.Model, preprocess) -> Teacher:
    side = model.input_shape[1]

    def answer(pixels: tf.Tensor) -> tf.Tensor:
        if pixels.shape[1] != side:
            pixels = tf.image.resize(pixels, [side, side], antialias=True)
        return tf.cast(model(preprocess(pixels), training=False), tf.float32)

    return answer


def _check_classes(name: str, theirs: int, ours: int) -> None:
    if theirs != ours:
        raise InputError(
            f"--teacher {name} has {theirs} classes, the data has {ours}; choose a teacher that "
            "was trained on it."
        )
