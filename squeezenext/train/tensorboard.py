"""TensorBoard, and the pictures of an evaluation."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw

from squeezenext import metrics
from squeezenext.config.images import Images
from squeezenext.images import geometry
from squeezenext.labels import Label
from squeezenext.metrics import Evaluation
from squeezenext.records import samples
from squeezenext.records.reader import Reader
from squeezenext.train.loggers import Board

MAX_CURVES = 50  # classes that get a curve each; nobody looks at more
SIDE = 512  # pixels of the confusion matrix's side, at least
MISTAKES = 16  # images
_COLD, _HOT = np.array([255, 255, 255]), np.array([8, 48, 107])


class TensorBoard:
    """Writes curves and pictures; errors are tf.errors.OpError, for example of a full disk."""

    name = "TensorBoard"

    def __init__(self, directory: Path):
        self._directory = directory

    @functools.cached_property
    def _writer(self) -> tf.summary.SummaryWriter:
        return tf.summary.create_file_writer(str(self._directory))

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        with self._writer.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Adds the distribution of some numbers."""
        with self._writer.as_default(step):
            tf.summary.histogram(name, values)

    def images(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Adds images, [n, height, width, 3] uint8."""
        with self._writer.as_default(step):
            tf.summary.image(name, pixels, max_outputs=16)

    def graph(self, step: int, function) -> None:
        """Adds the graph of a tf.function."""
        with self._writer.as_default(step):
            tf.summary.graph(function.get_concrete_function().graph)

    def flush(self) -> None:
        """Writes what was added."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        if "_writer" in vars(self):
            self._writer.close()


def add_evaluation(
    board: Board,
    step: int,
    result: Evaluation,
    reader: Reader,
    images: Images,
    classes: Sequence[Label],
) -> None:
    """Adds top-1 of each class, the confusion matrix and the worst mistakes of a split."""
    top1 = class_top1(result, len(classes))
    known = np.flatnonzero(~np.isnan(top1))
    if len(classes) <= MAX_CURVES:
        board.curves(step, {f"validation_class_top1/{classes[i].synset}": top1[i] for i in known})
    board.histogram(step, "validation/class_top1", top1[known])
    board.images(step, "validation/confusion", confusion(result, len(classes))[np.newaxis])
    worst = mistakes(result)
    if len(worst):
        pictures = captioned(result, worst, reader, images, classes)
        board.images(step, "validation/worst_mistakes", pictures)


def class_top1(result: Evaluation, classes: int) -> np.ndarray:
    """Returns the share of hits of each class, [classes] float64; NaN for one without examples."""
    count = np.bincount(result.labels, minlength=classes)
    hits = np.bincount(result.labels, result.top1, classes)
    return np.divide(hits, count, out=np.full(classes, np.nan), where=count > 0)


def confusion(result: Evaluation, classes: int) -> np.ndarray:
    """Draws the confusion matrix, [side, side, 3] uint8.

    Rows are true classes, columns predicted ones. The darker a cell, the larger its share of the
    row.
    """
    counts = metrics.confusion_matrix(result, classes)
    share = counts / counts.sum(1, keepdims=True).clip(1)
    pixels = _COLD + share[..., np.newaxis] * (_HOT - _COLD)
    repeat = -(-SIDE // classes)
    return pixels.round().astype(np.uint8).repeat(repeat, 0).repeat(repeat, 1)


def mistakes(result: Evaluation) -> np.ndarray:
    """Returns the indices of wrong predictions, most probable first, at most `MISTAKES`."""
    wrong = np.flatnonzero(result.predicted != result.labels)
    return wrong[np.argsort(-result.probability[wrong], kind="stable")][:MISTAKES]


def captioned(
    result: Evaluation,
    numbers: np.ndarray,
    reader: Reader,
    images: Images,
    classes: Sequence[Label],
) -> np.ndarray:
    """Returns records with true and predicted class as captions, [n, size, size, 3] uint8."""
    style = {"fill": "white", "stroke_width": 2, "stroke_fill": "black"}
    pictures = []
    for number in numbers:
        image, _ = samples.read_examples(reader, number, len(classes))
        picture = Image.fromarray(geometry.centre_pixels(image, images))
        label, predicted = (
            classes[each[number]].name for each in (result.labels, result.predicted)
        )
        text = f"{label}\n-> {predicted} {result.probability[number]:.2f}"
        ImageDraw.Draw(picture).multiline_text((4, images.size - 28), text, **style)
        pictures.append(np.asarray(picture))
    return np.stack(pictures)
