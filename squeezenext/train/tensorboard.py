"""An evaluation in TensorBoard: each class's top-1, the confusion, the worst mistakes."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from squeezenext.config import Images
from squeezenext.labels import Label
from squeezenext.metrics import Evaluation
from squeezenext.records import batches
from squeezenext.records.reader import Reader
from squeezenext.train.history import History

CURVES = 50  # classes: more curves than that nobody looks at
SIDE = 512  # of the confusion, at least
MISTAKES = 16
_COLD, _HOT = np.array([255, 255, 255]), np.array([8, 48, 107])


def show(
    history: History,
    result: Evaluation,
    reader: Reader,
    images: Images,
    classes: Sequence[Label],
    step: int,
) -> None:
    """Adds the pictures of an evaluation of `reader`'s split to a run's TensorBoard."""
    top1 = class_top1(result, len(classes))
    known = {i: float(value) for i, value in enumerate(top1) if not np.isnan(value)}
    if len(classes) <= CURVES:
        curves = {f"validation_class_top1/{classes[i].synset}": v for i, v in known.items()}
        history.point(step, curves)
    history.histogram("validation/class_top1", np.array(list(known.values())), step)
    history.images("validation/confusion", confusion(result, len(classes))[np.newaxis], step)
    worst = mistakes(result)
    if len(worst):
        history.images(
            "validation/worst_mistakes", drawn(result, worst, reader, images, classes), step
        )


def class_top1(result: Evaluation, classes: int) -> np.ndarray:
    """Returns each class's share of hits, [classes] float64; NaN where it has no example."""
    count = np.bincount(result.labels, minlength=classes)
    hits = np.bincount(result.labels, result.top1, classes)
    return np.divide(hits, count, out=np.full(classes, np.nan), where=count > 0)


def confusion(result: Evaluation, classes: int) -> np.ndarray:
    """Returns a picture, [side, side, 3] uint8: true classes down, predicted ones across.

    The darker, the larger the share of the true class's examples.
    """
    pairs = np.bincount(result.labels * classes + result.predicted, minlength=classes**2)
    counts = pairs.reshape(classes, classes)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    pixels = _COLD + share[..., np.newaxis] * (_HOT - _COLD)
    repeat = -(-SIDE // classes)
    return pixels.round().astype(np.uint8).repeat(repeat, 0).repeat(repeat, 1)


def mistakes(result: Evaluation) -> np.ndarray:
    """Returns the numbers of the wrong examples, the surest first, at most `MISTAKES`."""
    wrong = np.flatnonzero(result.predicted != result.labels)
    return wrong[np.argsort(-result.probability[wrong], kind="stable")][:MISTAKES]


def drawn(
    result: Evaluation,
    numbers: np.ndarray,
    reader: Reader,
    images: Images,
    classes: Sequence[Label],
) -> np.ndarray:
    """Returns the images as evaluation saw them, with what they are and what they were taken for.

    [n, size, size, 3] uint8.
    """
    pixels = batches.centres(reader, images, len(classes), numbers)
    pictures = []
    for image, number in zip(pixels, numbers, strict=True):
        picture = Image.fromarray(image)
        names = [classes[int(i)].name for i in (result.labels[number], result.predicted[number])]
        text = f"{names[0]}\n-> {names[1]} {result.probability[number]:.2f}"
        place = (4, images.size - 28)
        ImageDraw.Draw(picture).multiline_text(
            place, text, fill="white", stroke_width=2, stroke_fill="black"
        )
        pictures.append(np.asarray(picture))
    return np.stack(pictures)
