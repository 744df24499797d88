"""Compares an exported file with the model as predict.py runs it, and measures its accuracy."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from squeezenext.errors import NotKept
from squeezenext.export.format import Run
from squeezenext.images import geometry
from squeezenext.litert.runner import Runner
from squeezenext.model import loading
from squeezenext.network.model import Model
from squeezenext.predict.answers import softmax
from squeezenext.records import samples

# Greatest difference of a probability: kernels round differently, float16 rounds the weights.
TOLERANCES = {"float32": 1e-3, "float16": 2e-2}
# Eight bits change the answers by an amount that depends on the images. The divergence from the
# model may be a quarter of that of equal probabilities, plus 0.02 nats; a thousandth is common.
_NEARER, _NEAR = 0.25, 0.02
# Saturated sums pass that test alone. But rounding puts no class first that the model holds for
# less than 0.7 times as likely as its own first class: right int8 files of six networks did so on
# none of 850 images, files of the published networks whose sums saturate on 17 to 26 of 100
# (docs/export.md). One image in twenty may do so, plus the spread of chance.
_AS_LIKELY, _OTHERS = 0.7, 0.05
# With few classes, saturated sums pass both: of two classes the same one is nearly always first.
# So the logits' mean error is compared with their mean distance from an image's mean logit. Right
# int8 files of six networks with 2, 10 and 1,000 classes had 0.013 to 0.067 of it, files whose sums
# saturate 0.27 to 1.11 (docs/export.md). A compressed network may be further off than rounding.
_LOGITS = 0.2
CALIBRATION_IMAGES = 200  # images on which int8 ranges are found
CALIBRATED_ON = ("train", "validation")  # splits, of which the first that the data has is used
PROBES = 8  # images on which a file is compared; int8 is compared on all calibration images


def reference(model: Model) -> Run:
    """Returns a function that runs the model itself.

    It shares only the graph and the weights with an exported file.
    """
    network = Runner(loading.litert(model), 1, model.name)

    def run(pixels: np.ndarray) -> np.ndarray:
        inputs = geometry.normalize(pixels.astype(np.float32), model.config.images)
        return softmax(network.run(inputs)[0] / np.float32(model.temperature))

    return run


def measure(
    run: Run, reference: Run, images: Iterable[tuple[np.ndarray, int]]
) -> dict[str, int | float]:
    """Measures the accuracy of a file and of the model on (pixels, class) pairs.

    Returns:
      The number of "images", the shares that the file ("top1") and the model ("float32_top1") name
      right, and the share for which both put the same class first ("agreement").
    """
    rows = []
    for pixels, label in images:
        first, other = int(run(pixels).argmax()), int(reference(pixels).argmax())
        rows.append((first == label, other == label, first == other))
    shares = map(float, np.mean(rows, 0))
    names = ("top1", "float32_top1", "agreement")
    return {"images": len(rows), **dict(zip(names, shares, strict=True))}


def images(model: Model, data_dir: str | Path, limit: int) -> list[np.ndarray]:
    """Returns up to `limit` images of the training split, else of the validation split.

    Each is [size, size, 3] uint8, RGB.
    """
    like = (model.config.images, model.labels)
    return [pixels for pixels, _ in samples.read(data_dir, CALIBRATED_ON, limit, *like)]


def compare_all(
    networks: Sequence[tuple[str, Run]], model: Model, images: Sequence[np.ndarray]
) -> None:
    """Compares networks, each as (precision, run), with the model that they were made of.

    Raises:
      NotKept: one gives other answers than the model.
    """
    for precision, run in networks:
        compare(run, reference(model), probes(model, images, precision), precision)


def probes(
    model: Model, images: Sequence[np.ndarray], precision: str = "float32"
) -> list[np.ndarray]:
    """Returns the images on which a network is compared; random mosaics if there are none.

    For int8, whose first classes are counted, these are all `images`, else the first few.
    """
    if images:
        return list(images if precision in ("int8", "full_integer") else images[:PROBES])
    size, random = model.config.images.size, np.random.default_rng(0)
    coarse = random.integers(0, 256, (4, 8, 8, 3), np.uint8)
    cells = np.arange(size) * 8 // size
    return [image[cells][:, cells] for image in coarse]


def compare(run: Run, reference: Run, images: Sequence[np.ndarray], precision: str) -> None:
    """Checks that two functions give nearly the same probabilities.

    At eight bits it also checks that they nearly always put the same class first.

    Raises:
      NotKept: they differ by more than `precision` explains.
    """
    found = np.stack([run(image) for image in images]).astype(np.float64)
    wanted = np.stack([reference(image) for image in images]).astype(np.float64)
    if found.shape != wanted.shape or not np.isfinite(found).all():
        raise NotKept("The exported file's probabilities are no numbers; it was not kept.")
    if precision in TOLERANCES:
        off, limit = np.abs(found - wanted).max(), TOLERANCES[precision]
    else:
        off = _divergence(wanted, found)
        limit = _NEARER * _divergence(wanted, np.full_like(found, 1 / found.shape[-1])) + _NEAR
    if off > limit:
        raise NotKept(
            f"The exported file's probabilities differ from the model's by {off:.3g}, more than "
            f"{limit:.3g}; it was not kept."
        )
    if precision not in TOLERANCES:
        _compare_first(wanted, found)
    if precision == "int8":
        _compare_logits(wanted, found)


def _compare_first(wanted: np.ndarray, found: np.ndarray) -> None:
    """Counts the images whose first class in `found` is far less likely in `wanted`."""
    count = len(wanted)
    named = wanted[np.arange(count), found.argmax(1)]
    others = int((named < _AS_LIKELY * wanted.max(1)).sum())
    # The mean, three standard deviations and two images: 4 of 8, 13 of 100, 21 of 200. Chance
    # exceeds that less than once in a thousand times.
    limit = int(_OTHERS * count + 3 * (_OTHERS * (1 - _OTHERS) * count) ** 0.5 + 2)
    if others > limit:
        raise NotKept(
            f"On {others} of {count} images, more than {limit}, the exported file puts a class "
            "first that the model holds for far less likely than its own; it was not kept."
        )


def _compare_logits(wanted: np.ndarray, found: np.ndarray) -> None:
    """Compares logits, each image's relative to their mean."""
    exact, rounded = (_logs(x) - _logs(x).mean(1, keepdims=True) for x in (wanted, found))
    off, limit = np.abs(rounded - exact).mean(), _LOGITS * np.abs(exact).mean()
    if off > limit:
        raise NotKept(
            f"The exported file's logits are off by {off:.3g} on average, more than {limit:.3g}; "
            "it was not kept."
        )


def _divergence(wanted: np.ndarray, found: np.ndarray) -> float:
    """Returns the Kullback-Leibler divergence, in nats an image."""
    return float((wanted * (_logs(wanted) - _logs(found))).sum(1).mean())


def _logs(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, 1e-9))
