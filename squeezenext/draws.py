"""The random numbers of augmentation, each a function of (seed, epoch, example).

A counter-based generator (SplitMix64's finaliser, doi:10.1145/2660193.2660195) over arrays of
examples: no state to save, and a batch's numbers at once. TensorFlow's stateless generator takes
one seed a call, which for single images cost as much as a third of the decoding.
"""

import numpy as np

from squeezenext.config.augmentation import (
    Augmentation,
    ColorJitter,
    CutMix,
    HorizontalFlip,
    Mixup,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    ShiftScaleRotate,
)

CROP_TRIES = 10  # as torchvision's RandomResizedCrop
_COUNTS = {
    RandomCrop: 2,  # row, column
    RandomResizedCrop: 4 * CROP_TRIES,  # area, aspect, row, column
    ShiftScaleRotate: 5,  # two shifts, scale, angle, whether
    HorizontalFlip: 1,
    ColorJitter: 4,  # brightness, contrast, saturation, hue
    RandomErasing: 5,  # whether, area, aspect, row, column
    Mixup: 2,  # whether, share
    CutMix: 4,  # whether, share, row, column
}
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def places(steps: tuple[Augmentation, ...]) -> list[slice]:
    """Returns which of an example's numbers belong to each step."""
    ends = np.cumsum([0, *(_COUNTS[type(step)] for step in steps)]).tolist()
    return [slice(first, last) for first, last in zip(ends, ends[1:], strict=False)]


def uniform(seed: int, epochs: np.ndarray, examples: np.ndarray, count: int) -> np.ndarray:
    """Returns [n, count] float32 in [0, 1) for examples [n] in epochs [n], both int64."""
    with np.errstate(over="ignore"):
        key = _mixed(np.uint64(seed) + _GOLDEN)
        key = _mixed(key ^ epochs.astype(np.uint64) * _GOLDEN)
        key = _mixed(key ^ examples.astype(np.uint64) * _GOLDEN)
        counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        bits = _mixed(key[:, np.newaxis] + counters)
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def _mixed(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def of_steps(
    steps: tuple[Augmentation, ...], seed: int, epochs: np.ndarray, examples: np.ndarray
) -> np.ndarray:
    """Returns all numbers that `steps` take, [n, count] float32; arguments as in `uniform`."""
    own = places(steps)
    values = uniform(seed, epochs, examples, own[-1].stop)
    for step, place in zip(steps, own, strict=True):
        if isinstance(step, HorizontalFlip) and step.alternating:
            # The same number in every epoch, moved by a half in each second one.
            first = uniform(seed, np.zeros_like(epochs), examples, place.stop)[:, place]
            values[:, place] = (first + np.float32(0.5) * (epochs % 2)[:, np.newaxis]) % 1
    return values
