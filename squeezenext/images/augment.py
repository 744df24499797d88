"""Augmentation on the device: what needs no decoder, on a whole batch of pixels at once.

Each function takes its random numbers (draws.py) as an argument and is pure, eagerly and in a
tf.function. Images are [n, size, size, 3] float32, RGB, 0..255; numbers are [n, k] in [0, 1).
"""

import math

import numpy as np
import tensorflow as tf

from squeezenext.config import Images
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

# The random numbers of augmentation, each a function of (seed, epoch, example).
#
# A counter-based generator (SplitMix64's finaliser, doi:10.1145/2660193.2660195) over arrays of
# examples: no state to save, and a batch's numbers at once. TensorFlow's stateless generator takes
# one seed a call, which for single images cost as much as a third of the decoding.


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


LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, Pillow's and torchvision's grey


def augmented(
    pixels: tf.Tensor, labels: tf.Tensor, numbers: tf.Tensor, images: Images, classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Finishes a micro-batch as `data.training` delivers it.

    Args:
      pixels: [n, size, size, 3] uint8; `labels`: [n] int64; `numbers`: [n, ...] float32.
      images: with the augmentation, of which the steps after ShiftScaleRotate are done here.

    Returns:
      [n, size, size, 3] float32 in 0..255, and targets [n, classes] float32 that sum to 1.
    """
    targets = tf.one_hot(labels, classes)
    for step, place in zip(images.augmentation, places(images.augmentation), strict=True):
        own = numbers[:, place]
        if isinstance(step, HorizontalFlip):
            pixels = horizontal_flip(pixels, own)
            continue
        pixels = tf.cast(pixels, tf.float32)
        if isinstance(step, ColorJitter):
            pixels = color_jitter(pixels, own, step)
        elif isinstance(step, RandomErasing):
            pixels = random_erasing(pixels, own, step, mean_colour(images))
        elif isinstance(step, Mixup):
            pixels, targets = mixup(pixels, targets, own, step)
        elif isinstance(step, CutMix):
            pixels, targets = cutmix(pixels, targets, own, step)
    return tf.cast(pixels, tf.float32), targets


def mixes(images: Images) -> bool:
    """Says whether an image can have more than one label."""
    return any(isinstance(step, Mixup | CutMix) for step in images.augmentation)


def mean_colour(images: Images) -> tuple[float, ...]:
    """Returns the mean that the network subtracts, as RGB."""
    return images.mean[::-1] if images.channels == "BGR" else images.mean


def horizontal_flip(pixels: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Mirrors the images (of any dtype) whose number is below a half."""
    chosen = (numbers[:, 0] < 0.5)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    return tf.where(chosen, pixels[:, :, ::-1], pixels)


def color_jitter(pixels: tf.Tensor, numbers: tf.Tensor, step: ColorJitter) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue by `numbers` [n, 4], in this order.

    As Pillow's ImageEnhance: contrast is about the image's mean grey, saturation about each
    pixel's grey; after each the values are cut to 0..255. Hue turns in HSV, as torchvision's.
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
    """Covers a rectangle of some images with `colour`; `numbers` [n, 5]: whether, area, aspect,
    row, column. A rectangle longer than the image is cut to it."""
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
    """Blends each image with the one at its place counted from the batch's end.

    Args:
      targets: [n, classes] float32.
      numbers: [n, 2]: whether, and the quantile of the share that an image keeps.
    """
    share = beta_quantile(numbers[:, 1], step.alpha)
    share = tf.where(numbers[:, 0] < step.probability, share, 1.0)
    other = tf.reverse(pixels, [0])
    return other + (pixels - other) * _each(share), _soft(targets, share)


def cutmix(
    pixels: tf.Tensor, targets: tf.Tensor, numbers: tf.Tensor, step: CutMix
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pastes a rectangle of the image at the same place counted from the batch's end.

    Args:
      targets: [n, classes] float32; the shares are those of the pixels that were pasted.
      numbers: [n, 4]: whether, the quantile of the share kept, the rectangle's centre.
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
    """[n, size, size, 1] bool: the pixels inside."""
    line = tf.range(size, dtype=tf.float32)
    rows = (line >= top[:, tf.newaxis]) & (line < bottom[:, tf.newaxis])
    columns = (line >= left[:, tf.newaxis]) & (line < right[:, tf.newaxis])
    return rows[:, :, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis, :, tf.newaxis]


def _each(values: tf.Tensor) -> tf.Tensor:
    """[n] to [n, 1, 1, 1]."""
    return values[:, tf.newaxis, tf.newaxis, tf.newaxis]


def beta_quantile(numbers: tf.Tensor, alpha: float) -> tf.Tensor:
    """Returns where Beta(alpha, alpha)'s distribution function takes these values, [n] float32.

    By bisection: TensorFlow has the function but not its inverse, and rejection would need
    a number of draws that is not known.
    """
    low, high = tf.zeros_like(numbers), tf.ones_like(numbers)
    for _ in range(20):
        middle = (low + high) / 2
        below = tf.math.betainc(alpha, alpha, middle) < numbers
        low, high = tf.where(below, middle, low), tf.where(below, high, middle)
    return (low + high) / 2
