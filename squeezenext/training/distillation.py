"""Teachers: networks whose answers another one learns.

A teacher sees the very pixels that the student does, crop, colours and mixing included, resized
to its own side and normalised in its own way (arXiv:2106.05237: a teacher that sees another crop
teaches less).
"""

import inspect

import keras
import tensorflow as tf

from squeezenext.config import Distillation
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.images.decoding import normalize
from squeezenext.model import loading, published
from squeezenext.network import keras_model
from squeezenext.network.fusing import fused
from squeezenext.training import losses, model_directory

KERAS = "keras:"


def teacher(how: Distillation, classes: int, precision: str) -> losses.Teacher | None:
    """Returns the teacher that `how` names, or None; call under the strategy's scope.

    Args:
      classes: of the student; the teacher's must be as many, in the same order.
      precision: a Keras dtype policy.

    Raises:
      InputError: there is no such model, or it tells another number of classes apart.
    """
    if not how.teacher:
        return None
    if how.teacher.startswith(KERAS):
        return _application(how.teacher.removeprefix(KERAS), classes)
    return _own(how.teacher, classes, precision)


def _own(name: str, classes: int, precision: str) -> losses.Teacher:
    """A model directory or a published model."""
    directory = published.resolve(name)
    config = config_io.read_model(directory)
    _check_classes(name, config.model.classes, classes)
    model = keras_model.build(config, precision=precision)
    model_directory.assign(model, loading.variables(directory), name)

    normalized = fused(lambda pixels: normalize(pixels, config.images))

    def answer(pixels: tf.Tensor) -> tf.Tensor:
        return model(normalized(_at_side(pixels, config.images.size)), training=False)

    return answer


def _application(name: str, classes: int) -> losses.Teacher:
    """A network of keras.applications with ImageNet's weights, which Keras fetches."""
    build = getattr(keras.applications, name, None)
    if not callable(build):
        raise InputError(f"--teacher {KERAS}{name}: keras.applications has no {name}.")
    _check_classes(f"{KERAS}{name}", 1000, classes)
    try:
        model = build(weights="imagenet", classifier_activation=None)
    except Exception as error:  # a URLError, or Keras' own, as Exception
        raise InputError(
            f"--teacher {KERAS}{name}: its weights cannot be fetched ({error}); fetch them once "
            "with a network, or name a model directory."
        ) from error
    return _answering(model, preprocess_of(name))


def preprocess_of(name: str):
    """Returns the `preprocess_input` that belongs to a network of keras.applications."""
    home = next(
        module
        for _, module in inspect.getmembers(keras.applications, inspect.ismodule)
        if hasattr(module, name) and hasattr(module, "preprocess_input")
    )
    return home.preprocess_input


def _answering(model: keras.Model, preprocess) -> losses.Teacher:
    side = model.input_shape[1]

    def answer(pixels: tf.Tensor) -> tf.Tensor:
        logits = model(preprocess(_at_side(pixels, side)), training=False)
        return tf.cast(logits, tf.float32)

    return answer


def _at_side(pixels: tf.Tensor, side: int) -> tf.Tensor:
    if pixels.shape[1] == side:
        return pixels
    return tf.image.resize(pixels, [side, side], antialias=True)


def _check_classes(name: str, theirs: int, ours: int) -> None:
    if theirs != ours:
        raise InputError(
            f"--teacher {name} tells {theirs} classes apart, the data has {ours}; choose a "
            "teacher that was trained on it."
        )
