"""Reading images in `tf.data`: the centre crop, and training's random ones.

Every random number is a function of the example's seed, so that a run can be replayed from any
example on. All functions work eagerly and inside `tf.data`.
"""

import math

import tensorflow as tf

from squeezenext.config import (
    HorizontalFlip,
    Images,
    RandomCrop,
    RandomResizedCrop,
    ShiftScaleRotate,
)
from squeezenext.preprocessing import Window, centre_window, crop_window, resized_sides


def centre(jpeg: tf.Tensor, height: tf.Tensor, width: tf.Tensor, images: Images) -> tf.Tensor:
    """Decodes a JPEG and returns its centre, as evaluation does.

    Args:
      jpeg: scalar string.
      height: of the JPEG in pixels, scalar int64; `width` likewise.
      images: size, resize and how.

    Returns:
      [size, size, 3] uint8, RGB, 0..255.
    """
    window = centre_window(height, width, images)
    return _decode(jpeg, height, width, _floats(window), images.size, as_pillow=True)


def augmented(
    jpeg: tf.Tensor, height: tf.Tensor, width: tf.Tensor, images: Images, seed: tf.Tensor
) -> tf.Tensor:
    """Decodes a JPEG and returns it as training shows it; like `centre`, with `seed` [2] int64."""
    for place, step in enumerate(images.augmentation):
        own = seed + tf.constant([place, 0], tf.int64)
        if isinstance(step, RandomCrop):
            window = _random_crop(own, height, width, images)
            image = _decode(jpeg, height, width, window, images.size)
        elif isinstance(step, RandomResizedCrop):
            window = _random_resized_crop(own, height, width, step)
            image = _decode(jpeg, height, width, window, images.size)
        elif isinstance(step, HorizontalFlip):
            image = _horizontal_flip(own, image)
        elif isinstance(step, ShiftScaleRotate):
            image = _shift_scale_rotate(own, image, step)
    return image


def _uniform(seed: tf.Tensor, count: int) -> tf.Tensor:
    """[count] float32 in [0, 1)."""
    return tf.random.stateless_uniform([count], seed)


def _floats(window: Window) -> Window:
    return Window(*(tf.cast(side, tf.float32) for side in window))


def _random_crop(seed, height, width, images: Images) -> Window:
    rows, columns = resized_sides(height, width, images)
    spare = tf.stack([rows, columns]) - images.size
    # Whole pixels of the resized image, both ends included, as Caffe's data layer draws them.
    offset = tf.floor(_uniform(seed, 2) * tf.cast(spare + 1, tf.float32))
    offset = tf.cast(offset, tf.int64)
    return _floats(crop_window(height, width, offset[0], offset[1], images))


def _random_resized_crop(seed, height, width, step: RandomResizedCrop) -> Window:
    """torchvision's RandomResizedCrop.get_params: ten tries, then the centre in bounded aspect."""
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    draws = tf.random.stateless_uniform([4, 10], seed)
    area = height * width * (step.scale[0] + draws[0] * (step.scale[1] - step.scale[0]))
    low, high = math.log(step.ratio[0]), math.log(step.ratio[1])
    ratio = tf.exp(low + draws[1] * (high - low))
    columns, rows = tf.round(tf.sqrt(area * ratio)), tf.round(tf.sqrt(area / ratio))
    fits = (columns >= 1) & (rows >= 1) & (columns <= width) & (rows <= height)
    first = tf.argmax(tf.cast(fits, tf.int32))
    rows, columns = rows[first], columns[first]
    top = tf.floor(draws[2, first] * (height - rows + 1))
    left = tf.floor(draws[3, first] * (width - columns + 1))
    fallback = _bounded_centre(height, width, step)
    tried = Window(top, left, rows, columns)
    return Window(*(tf.where(fits[first], a, b) for a, b in zip(tried, fallback, strict=True)))


def _bounded_centre(height, width, step: RandomResizedCrop) -> Window:
    rows = tf.minimum(height, width / step.ratio[0])
    columns = tf.minimum(width, height * step.ratio[1])
    return Window((height - rows) / 2, (width - columns) / 2, rows, columns)


def _decode(jpeg, height, width, window: Window, size: int, as_pillow: bool = False) -> tf.Tensor:
    """Decodes what `window` needs and resizes it to [size, size, 3] uint8.

    Bilinear with antialiasing, as Pillow's: a triangle as wide as the reduction. The decoded
    rectangle reaches beyond the window by the triangle's half-width, so that the pixels at the
    edge are those of a resize of the whole image.

    Args:
      as_pillow: round between the two directions, as Pillow does. Without it every sixth pixel
        differs by 1, enough to change the first of 1000 classes of 2 images in 100.
    """
    sides = tf.cast(tf.stack([height, width]), tf.float32)
    start = tf.stack([window.top, window.left])
    extent = tf.stack([window.height, window.width])
    margin = tf.maximum(extent / size, 1.0) + 1.0
    low = tf.floor(tf.clip_by_value(start - margin, 0.0, sides - 1.0))
    high = tf.math.ceil(tf.clip_by_value(start + extent + margin, low + 1.0, sides))
    rectangle = tf.cast(tf.concat([low, high - low], 0), tf.int32)
    pixels = tf.io.decode_and_crop_jpeg(jpeg, rectangle, channels=3, dct_method="INTEGER_ACCURATE")
    scale = size / extent
    move = (low - start) * scale
    if as_pillow:
        across = tf.stack([rectangle[2], size])
        one, zero = tf.ones([]), tf.zeros([])
        pixels = _resize(pixels, across, tf.stack([one, scale[1]]), tf.stack([zero, move[1]]))
        scale, move = tf.stack([scale[0], one]), tf.stack([move[0], zero])
    return tf.ensure_shape(_resize(pixels, [size, size], scale, move), [size, size, 3])


def _resize(pixels, size, scale, translation) -> tf.Tensor:
    resized = tf.raw_ops.ScaleAndTranslate(
        images=pixels[tf.newaxis],
        size=size,
        scale=scale,
        translation=translation,
        kernel_type="triangle",
        antialias=True,
    )[0]
    return tf.cast(tf.clip_by_value(resized + 0.5, 0, 255), tf.uint8)


def _horizontal_flip(seed, image) -> tf.Tensor:
    return tf.cond(_uniform(seed, 1)[0] < 0.5, lambda: image[:, ::-1], lambda: image)


def _shift_scale_rotate(seed, image, step: ShiftScaleRotate) -> tf.Tensor:
    """Moves the image about its centre; what comes in from outside is mirrored."""
    draws = _uniform(seed, 5)
    shift_x, shift_y, grow, turn = tf.unstack(draws[:4] * 2 - 1)
    side = float(image.shape[0])
    angle = turn * math.radians(step.rotate_degrees)
    factor = 1.0 + grow * step.scale
    cosine, sine = tf.cos(angle) / factor, tf.sin(angle) / factor
    centre_at = (side - 1) / 2
    moved_x = centre_at + shift_x * step.shift * side
    moved_y = centre_at + shift_y * step.shift * side
    # Output pixel (x, y) reads input pixel R^-1 ((x, y) - moved centre) + centre.
    rows = [cosine, sine, centre_at - cosine * moved_x - sine * moved_y]
    rows += [-sine, cosine, centre_at + sine * moved_x - cosine * moved_y, 0.0, 0.0]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.stack(rows)[tf.newaxis],
        output_shape=image.shape[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )[0]
    return tf.where(draws[4] < step.probability, moved, image)
