"""Augmentation: its random numbers, and the steps that run on the device on whole batches.

A random number is a function of (seed, epoch, example), so there is no generator whose state must
be saved. Each step takes its numbers as an argument and is pure, eagerly and in a tf.function.
Images are [n, size, size, 3] RGB in 0..255; numbers are [n, k] float32 in [0, 1). The crops and
ShiftScaleRotate run in the input pipeline (crops.py).
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from squeezenext.config.images import (
    Augmentation,
    ColorJitter,
    CutMix,
    HorizontalFlip,
    Images,
    Mixing,
    Mixup,
    RandomErasing,
)

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, the grey of Pillow and torchvision
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def slices(steps: Sequence[Augmentation]) -> list[slice]:
    """Returns the part of an example's random numbers that each step takes."""
    ends = np.cumsum([0, *(step.numbers for step in steps)]).tolist()
    return [slice(first, last) for first, last in zip(ends, ends[1:], strict=False)]


def uniform(seed: int, epochs: np.ndarray, examples: np.ndarray, count: int) -> np.ndarray:
    """Returns [n, count] float32 in [0, 1) for examples [n] in epochs [n], both int64.

    A counter-based generator (SplitMix64's finaliser, doi:10.1145/2660193.2660195) makes a whole
    batch's numbers at once. TensorFlow's stateless generator takes one seed a call, which for
    single images cost as much as a third of the decoding.
    """
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


def random_numbers(
    steps: Sequence[Augmentation], seed: int, epochs: np.ndarray, examples: np.ndarray
) -> np.ndarray:
    """Returns all numbers that `steps` take, [n, count] float32; arguments as in `uniform`."""
    parts = slices(steps)
    values = uniform(seed, epochs, examples, parts[-1].stop)
    for step, part in zip(steps, parts, strict=True):
        if isinstance(step, HorizontalFlip) and step.alternating:
            # The same number in every epoch, moved by a half in each second one.
            first = uniform(seed, np.zeros_like(epochs), examples, part.stop)[:, part]
            values[:, part] = (first + np.float32(0.5) * (epochs % 2)[:, np.newaxis]) % 1
    return values


def augmented(
    pixels: tf.Tensor, labels: tf.Tensor, numbers: tf.Tensor, images: Images, classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs the steps after ShiftScaleRotate on a micro-batch of `batches.training`.

    Args:
      pixels: [n, size, size, 3] uint8.
      labels: [n] int64.
      numbers: [n, count] float32, as `random_numbers` returns them.
      images: the augmentation, and the mean colour for RandomErasing.
      classes: number of classes.

    Returns:
      [n, size, size, 3] float32 in 0..255, and targets [n, classes] float32 that sum to 1.
    """
    targets = tf.one_hot(labels, classes)
    for step, part in zip(images.augmentation, slices(images.augmentation), strict=True):
        pixels, targets = _run(step, pixels, targets, numbers[:, part], images)
    return tf.cast(pixels, tf.float32), targets


def _run(step: Augmentation, pixels, targets, numbers, images: Images):
    """Returns (pixels, targets) after one step."""
    if isinstance(step, HorizontalFlip):
        return horizontal_flip(pixels, numbers), targets
    floats = tf.cast(pixels, tf.float32)
    if isinstance(step, ColorJitter):  # AutoGraph knows no `match`, and warns of it
        return color_jitter(floats, numbers, step), targets
    if isinstance(step, RandomErasing):
        return random_erasing(floats, numbers, step, mean_colour(images)), targets
    if isinstance(step, Mixup):
        return mixup(floats, targets, numbers, step)
    if isinstance(step, CutMix):
        return cutmix(floats, targets, numbers, step)
    return pixels, targets  # a crop or ShiftScaleRotate, which the input pipeline has done


def mixes(images: Images) -> bool:
    """Returns whether an image can have more than one label."""
    return any(isinstance(step, Mixing) for step in images.augmentation)


def mean_colour(images: Images) -> tuple[float, ...]:
    """Returns the mean colour that the network subtracts, as RGB."""
    return images.mean[::-1] if images.channels == "BGR" else images.mean


def horizontal_flip(pixels: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Mirrors the images (of any dtype) whose number is below a half."""
    chosen = (numbers[:, 0] < 0.5)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.where(chosen, pixels[:, :, ::-1], pixels)


def color_jitter(pixels: tf.Tensor, numbers: tf.Tensor, step: ColorJitter) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue, in this order, by `numbers` [n, 4].

    As in Pillow's ImageEnhance, contrast is relative to the image's mean grey and saturation to
    each pixel's grey; each result is clipped to 0..255. Hue turns in HSV, as torchvision's.
    """
    amounts = tf.constant([step.brightness, step.contrast, step.saturation, step.hue])
    change = (numbers * 2 - 1) * amounts
    if step.brightness:
        pixels = _blended(tf.zeros_like(pixels), pixels, 1 + change[:, 0])
    if step.contrast:
        mean = tf.reduce_mean(_grey(pixels), axis=(1, 2, 3), keepdims=True)
        pixels = _blended(mean, pixels, 1 + change[:, 1])
    if step.saturation:
        pixels = _blended(_grey(pixels), pixels, 1 + change[:, 2])
    if step.hue:
        hue, rest = tf.split(tf.image.rgb_to_hsv(pixels / 255.0), [1, 2], axis=-1)
        hue = tf.math.floormod(hue + _each(change[:, 3]), 1.0)
        pixels = tf.image.hsv_to_rgb(tf.concat([hue, rest], -1)) * 255.0
    return pixels


def _grey(pixels: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(pixels * tf.constant(LUMA), axis=-1, keepdims=True)


def _blended(base: tf.Tensor, pixels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(base + (pixels - base) * _each(factor), 0.0, 255.0)


def random_erasing(
    pixels: tf.Tensor, numbers: tf.Tensor, step: RandomErasing, colour: tuple[float, ...]
) -> tf.Tensor:
    """Covers a rectangle of some images with `colour`.

    A side longer than the image is cut to it. `numbers` [n, 5]: whether, area, aspect, row, column.
    """
    size = float(pixels.shape[1])
    area = step.scale[0] + numbers[:, 1] * (step.scale[1] - step.scale[0])
    low, high = math.log(step.ratio[0]), math.log(step.ratio[1])
    aspect = tf.exp(low + numbers[:, 2] * (high - low))
    height = tf.minimum(tf.round(size * tf.sqrt(area * aspect)), size)
    width = tf.minimum(tf.round(size * tf.sqrt(area / aspect)), size)
    top = tf.floor(numbers[:, 3] * (size - height + 1))
    left = tf.floor(numbers[:, 4] * (size - width + 1))
    inside = _rectangle(top, left, top + height, left + width, pixels.shape[1])
    chosen = inside & _each(numbers[:, 0] < step.probability)
    return tf.where(chosen, tf.constant(colour, tf.float32), pixels)


def mixup(
    pixels: tf.Tensor, targets: tf.Tensor, numbers: tf.Tensor, step: Mixup
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blends image i of the batch with image n - 1 - i.

    Args:
      pixels: [n, size, size, 3] float32.
      targets: [n, classes] float32.
      numbers: [n, 2]: whether, and the quantile of the share that an image keeps.
      step: the distribution of the share, and the probability.
    """
    share = beta_quantile(numbers[:, 1], step.alpha)
    share = tf.where(numbers[:, 0] < step.probability, share, 1.0)
    other = tf.reverse(pixels, [0])
    return other + (pixels - other) * _each(share), _soft(targets, share)


def cutmix(
    pixels: tf.Tensor, targets: tf.Tensor, numbers: tf.Tensor, step: CutMix
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pastes a rectangle of image n - 1 - i of the batch into image i.

    Args:
      pixels: [n, size, size, 3] float32.
      targets: [n, classes] float32, blended by the share of pixels that are pasted.
      numbers: [n, 4]: whether, the quantile of the share kept, row and column of the centre.
      step: the distribution of the share, and the probability.
    """
    size = pixels.shape[1]
    kept = beta_quantile(numbers[:, 1], step.alpha)
    half = tf.sqrt(1.0 - kept) * size / 2
    corners = []
    for centre in (numbers[:, 2] * size, numbers[:, 3] * size):
        corners.append(tf.clip_by_value(tf.round(centre - half), 0.0, float(size)))
        corners.append(tf.clip_by_value(tf.round(centre + half), 0.0, float(size)))
    top, bottom, left, right = corners
    pasted = _rectangle(top, left, bottom, right, size)
    pasted &= _each(numbers[:, 0] < step.probability)
    share = 1.0 - tf.reduce_mean(tf.cast(pasted, tf.float32), axis=(1, 2, 3))
    return tf.where(pasted, tf.reverse(pixels, [0]), pixels), _soft(targets, share)


def _soft(targets: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    share = share[:, tf.newaxis]
    return share * targets + (1.0 - share) * tf.reverse(targets, [0])


def _rectangle(top, left, bottom, right, size: int) -> tf.Tensor:
    """Returns which pixels are inside, [n, size, size, 1] bool."""
    line = tf.range(size, dtype=tf.float32)
    rows = (line >= top[:, tf.newaxis]) & (line < bottom[:, tf.newaxis])
    columns = (line >= left[:, tf.newaxis]) & (line < right[:, tf.newaxis])
    return rows[:, :, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis, :, tf.newaxis]


def _each(values: tf.Tensor) -> tf.Tensor:
    """Reshapes [n] to [n, 1, 1, 1]."""
    return values[:, tf.newaxis, tf.newaxis, tf.newaxis]


def beta_quantile(numbers: tf.Tensor, alpha: float) -> tf.Tensor:
    """Returns the quantiles of Beta(alpha, alpha) at `numbers`, [n] float32.

    By bisection: TensorFlow has the distribution function but not its inverse, and rejection
    would take an unknown count of random numbers.
    """
    low, high = tf.zeros_like(numbers), tf.ones_like(numbers)
    for _ in range(20):
        middle = (low + high) / 2
        below = tf.math.betainc(alpha, alpha, middle) < numbers
        low, high = tf.where(below, middle, low), tf.where(below, high, middle)
    return (low + high) / 2
