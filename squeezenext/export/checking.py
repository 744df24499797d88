"""What an exported file is compared with: the model as predict.py runs it."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from squeezenext.errors import NotKept
from squeezenext.images import decoding
from squeezenext.litert import writer
from squeezenext.litert.runner import Runner
from squeezenext.model.loading import Trained
from squeezenext.predict.predictor import softmax
from squeezenext.records import samples

# Of probabilities, against the model: rounding of the kernels; of the weights to half precision.
TOLERANCES = {"float32": 1e-3, "float16": 2e-2}
# What eight bits change depends on the images: a file has to be so much nearer to the model than
# equal chances for all classes are, in nats; a thousandth of which is common.
_NEARER, _NEAR = 0.25, 0.02
# That alone lets saturated sums pass. But rounding puts no class first that the model holds for
# less than 0.7 times as likely as its own: files of six networks did so on none of 850 images,
# those of the published ones with sums that saturate on 17 to 26 of 100 (docs/export.md). One of
# twenty is let pass, and what chance adds.
_AS_LIKELY, _OTHERS = 0.7, 0.05
CALIBRATION_IMAGES = 200  # on which the ranges of eight bits are found
CALIBRATED_ON = ("train", "validation")  # the first that the data has
PROBES = 8  # on which a file is compared; one of eight bits on all that its ranges come from
Run = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an exported file does on images of a split that was not trained on."""

    measured: str  # the precision of the network that all figures but float32_top1 are of
    split: str
    images: int
    top1: float
    float32_top1: float
    agreement: float  # how often its first class is the model's

    def __str__(self) -> str:
        return (
            f"{self.measured}: top-1 {self.top1:.4f} on {self.images:,} {self.split} images; "
            f"the model {self.float32_top1:.4f}, the same first class on {self.agreement:.2%}"
        )


def reference(model: Trained) -> Run:
    """Returns the model itself: from [size, size, 3] uint8, RGB, to probabilities.

    What it shares with an exported file is graph and weights alone.
    """
    network = Runner(writer.write(model.graph, model.weights), 1, model.name)

    def run(pixels: np.ndarray) -> np.ndarray:
        shown = decoding.normalize(pixels.astype(np.float32), model.config.images)
        return softmax(network.run(shown)[0] / np.float32(model.temperature))

    return run


def measure(run: Run, reference: Run, images: Iterable, split: str, precision: str) -> Measured:
    """Counts how often two runners are right, and agree; `images` are (pixels, class) pairs.

    `split` is what they are of, `precision` that of `run`'s network.
    """
    rows = []
    for pixels, label in images:
        first, other = int(run(pixels).argmax()), int(reference(pixels).argmax())
        rows.append((first == label, other == label, first == other))
    top1, float32_top1, agreement = np.mean(rows, 0)
    shares = float(top1), float(float32_top1), float(agreement)
    return Measured(precision, split, len(rows), *shares)


def images(model: Trained, data_dir: str | Path, limit: int) -> list[np.ndarray]:
    """Returns up to `limit` images of the training split, where there is none of the validation's.

    Each is [size, size, 3] uint8, RGB.
    """
    like = (model.config.images, model.labels)
    return [pixels for pixels, _ in samples.read(data_dir, CALIBRATED_ON, limit, *like)]


def probes(
    model: Trained, shown: Sequence[np.ndarray], precision: str = "float32"
) -> list[np.ndarray]:
    """Returns images to compare on: real ones where there are, else random mosaics.

    Of int8, whose first classes are counted, all that are `shown`; else some.
    """
    if shown:
        return list(shown if precision == "int8" else shown[:PROBES])
    size, random = model.config.images.size, np.random.default_rng(0)
    coarse = random.integers(0, 256, (4, 8, 8, 3), np.uint8)
    places = np.arange(size) * 8 // size
    return [image[places][:, places] for image in coarse]


def compare(run: Run, reference: Run, images: Sequence[np.ndarray], precision: str) -> None:
    """Checks that two runners give nearly the same probabilities, and of eight bits first classes.

    Raises:
      NotKept: they do not.
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


def _compare_first(wanted: np.ndarray, found: np.ndarray) -> None:
    """Checks how often `found` puts a class first that `wanted` holds for far less likely."""
    count = len(wanted)
    named = wanted[np.arange(count), found.argmax(1)]
    others = int((named < _AS_LIKELY * wanted.max(1)).sum())
    # Three standard deviations and two images: 4 of 8, 13 of 100, 21 of 200. Chance goes beyond
    # that less than once in a thousand times.
    limit = int(_OTHERS * count + 3 * (_OTHERS * (1 - _OTHERS) * count) ** 0.5 + 2)
    if others > limit:
        raise NotKept(
            f"On {others} of {count} images, more than {limit}, the exported file puts a class "
            "first that the model holds for far less likely than its own; it was not kept."
        )


def _divergence(wanted: np.ndarray, found: np.ndarray) -> float:
    """Returns Kullback and Leibler's, in nats an image."""
    logs = [np.log(np.maximum(x, 1e-9)) for x in (wanted, found)]
    return float((wanted * (logs[0] - logs[1])).sum(1).mean())
