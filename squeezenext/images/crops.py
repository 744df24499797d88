"""Crops in TensorFlow: the random ones of training, and the centre crop of a SavedModel.

All random numbers are arguments (augment.py makes them), so that the functions are pure, eagerly
and inside `tf.data`. Steps that need no decoder run on the device, in augment.py.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from squeezenext.config.images import Images, RandomCrop, RandomResizedCrop, ShiftScaleRotate
from squeezenext.images import augment
from squeezenext.images.geometry import Window, centre_window, crop_window, resized_sides


def centre(content: tf.Tensor, images: Images) -> tf.Tensor:
    """Decodes a JPEG, PNG, GIF, BMP or WebP and returns the centre crop.

    Its pixels are those of `geometry.centre_pixels` but for a last bit here and there. Of an
    animation the first image is taken. Transparent pixels of a PNG become white. A JPEG is turned
    upright where `images` say so.

    Args:
      content: scalar string, the file.
      images: how the image is resized, and the crop's size.

    Returns:
      [size, size, 3] uint8, RGB, 0..255.
    """
    head = tf.strings.substr(content, 0, 4)

    def of_pixels(pixels):
        height, width, _ = tf.unstack(tf.shape(pixels, tf.int64), num=3)
        return _centre(
            lambda part: pixels[part[0] : part[0] + part[2], part[1] : part[1] + part[3]],
            height, width, images,
        )  # fmt: skip

    def of_jpeg():
        if images.orientation == "exif":
            return of_pixels(_upright(_decoded(content), _orientation(content)))
        height, width, _ = tf.unstack(tf.cast(tf.io.extract_jpeg_shape(content), tf.int64))
        return _centre(functools.partial(_decode, content), height, width, images)

    def of_others():
        return of_pixels(
            tf.cond(
                head == b"\x89PNG",
                lambda: _on_white(tf.io.decode_png(content, channels=4), content),
                lambda: tf.io.decode_image(content, channels=3, expand_animations=False),
            )
        )

    return tf.cond(tf.strings.substr(head, 0, 3) == b"\xff\xd8\xff", of_jpeg, of_others)


def _decoded(jpeg: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")


def _orientation(content: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a JPEG, scalar int32 of 1 to 8, as `jpeg.orientation`."""
    start = _place(content, b"Exif\0\0") + 6
    little = _byte(content, start) == ord("I")

    def number(position: tf.Tensor, count: int) -> tf.Tensor:
        values = [_byte(content, position + i) for i in range(count)]
        low, high = (
            tf.add_n([value * 256**i for i, value in enumerate(some)])
            for some in (values, values[::-1])
        )
        return tf.where(little, low, high)

    first = start + number(start + 4, 4)
    entries = first + 2 + 12 * tf.range(_MAX_ENTRIES)
    tags = tf.map_fn(lambda entry: number(entry, 2), entries)
    known = (tags == 0x0112) & (tf.range(_MAX_ENTRIES) < number(first, 2)) & (start >= 6)
    held = number(tf.gather(entries, tf.argmax(tf.cast(known, tf.int32))) + 8, 2)
    return tf.where(tf.reduce_any(known) & (held >= 1) & (held <= 8), held, 1)


_MAX_ENTRIES = 64  # entries of EXIF's first directory; cameras write some twenty


def _upright(pixels: tf.Tensor, held: tf.Tensor) -> tf.Tensor:
    """Turns [height, width, 3] pixels as an EXIF orientation says."""
    across, down = (tf.reduce_any(held == some) for some in ([2, 3, 6, 7], [3, 4, 7, 8]))
    pixels = tf.cond(held >= 5, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
    pixels = tf.cond(across, lambda: tf.reverse(pixels, (1,)), lambda: pixels)
    return tf.cond(down, lambda: tf.reverse(pixels, (0,)), lambda: pixels)


def is_supported(content: tf.Tensor) -> tf.Tensor:
    """Returns whether a file is of a kind of which `centre` sees what `decoding` sees.

    TensorFlow takes the indices of a BMP's palette for grey, and ignores a BMP's masks and a GIF's
    transparent colour. Pillow ignores that of a PNG of 2, 4 or 16 bits without a palette.
    """
    head = tf.strings.substr(tf.strings.substr(content, 0, 12) + b"            ", 0, 12)
    jpeg, png, gif, webp, bmp = (
        tf.strings.substr(head, place, len(mark)) == mark
        for place, mark in (
            (0, b"\xff\xd8\xff"), (0, b"\x89PNG"), (0, b"GIF8"), (8, b"WEBP"), (0, b"BM"),
        )
    )  # fmt: skip
    bits, method = _byte(content, 28), _byte(content, 30)
    bmp &= ((bits == 24) | (bits == 32)) & (method == 0)
    control = _place(content, b"!\xf9\4")
    gif &= (control < 0) | (_byte(content, control + 3) % 2 == 0)
    depth, colour = _byte(content, 24), _byte(content, 25)
    png &= (_place(content, b"tRNS") < 0) | (depth == 1) | (depth == 8) | (colour == 3)
    return tf.reduce_any(tf.stack([jpeg, png, gif, webp, bmp]))


def _byte(content: tf.Tensor, position) -> tf.Tensor:
    """Returns a byte of a string, scalar int32; 0 outside of it."""
    part = tf.strings.substr(
        content + b"\0", tf.clip_by_value(position, 0, tf.strings.length(content)), 1
    )
    return tf.cast(tf.io.decode_raw(part, tf.uint8)[0], tf.int32)


_SEARCHED = 1 << 18  # bytes of a file in which its marks of transparency stand, before the pixels


def _place(content: tf.Tensor, mark: bytes) -> tf.Tensor:
    """Returns the first position of `mark` in the beginning of a file, scalar int32, or -1."""
    start = tf.io.decode_raw(tf.strings.substr(content, 0, _SEARCHED) + bytes(len(mark)), tf.uint8)
    count = tf.size(start) - len(mark)
    parts = [start[i : count + i] == byte for i, byte in enumerate(mark)]
    there = tf.concat([tf.reduce_all(tf.stack(parts), 0), [True]], 0)
    place = tf.argmax(tf.cast(there, tf.uint8), output_type=tf.int32)
    return tf.where(place < count, place, -1)


def _on_white(pixels: tf.Tensor, content: tf.Tensor) -> tf.Tensor:
    """Puts a PNG's [height, width, 4] uint8 pixels on white, [height, width, 3] uint8.

    Where a PNG of fewer than 8 bits has no transparency, `decode_png` gives 1, 3 or 15 for alpha.
    """
    opaque = (_byte(content, 24) < 8) & (_place(content, b"tRNS") < 0)
    alpha = tf.where(opaque, 1.0, tf.cast(pixels[..., 3:], tf.float32) / 255)
    colour = tf.cast(pixels[..., :3], tf.float32)
    return tf.cast(colour * alpha + 255 * (1 - alpha) + 0.5, tf.uint8)


def _centre(decode: Callable, height, width, images: Images) -> tf.Tensor:
    window = centre_window(height, width, images)
    window = Window(*(tf.cast(side, tf.float32) for side in window))
    return _decode_as_pillow(decode, height, width, window, images.size)


def windows(heights: tf.Tensor, widths: tf.Tensor, images: Images, numbers: tf.Tensor) -> tf.Tensor:
    """Returns the window of each image that its random crop takes, in whole pixels of the source.

    Args:
      heights: [n] int64, pixels of the JPEGs.
      widths: [n] int64, pixels of the JPEGs.
      images: how images are resized, the crop's size, and the augmentation with the kind of crop.
      numbers: [n, count] float32, as `augment.random_numbers` returns them.

    Returns:
      [n, 4] int32: top, left, height, width; inside the image.
    """
    step = images.augmentation[0]
    own = numbers[:, augment.slices(images.augmentation)[0]]
    if isinstance(step, RandomCrop):  # AutoGraph knows no `match`, and warns of it
        window = _random_crop(own, heights, widths, images)
    elif isinstance(step, RandomResizedCrop):
        window = _random_resized_crop(own, heights, widths, step)
    sides = tf.stack([heights, widths], axis=-1)
    start = tf.stack([window.top, window.left], axis=-1)
    extent = tf.stack([window.height, window.width], axis=-1)
    limit = tf.cast(sides, tf.float32)
    low = tf.clip_by_value(tf.round(start), 0.0, limit - 1.0)
    high = tf.clip_by_value(tf.round(start + extent), low + 1.0, limit)
    return tf.cast(tf.concat([low, high - low], -1), tf.int32)


def _random_crop(numbers, heights, widths, images: Images) -> Window:
    rows, columns = resized_sides(heights, widths, images)
    # Whole pixels of the resized image, both ends included, as Caffe's data layer draws them.
    top = tf.floor(numbers[:, 0] * tf.cast(rows - images.size + 1, tf.float32))
    left = tf.floor(numbers[:, 1] * tf.cast(columns - images.size + 1, tf.float32))
    offsets = (tf.cast(top, tf.int64), tf.cast(left, tf.int64))
    window = crop_window(heights, widths, *offsets, images)
    return Window(*(tf.cast(side, tf.float32) for side in window))


def _random_resized_crop(numbers, heights, widths, step: RandomResizedCrop) -> Window:
    """Crops as torchvision's RandomResizedCrop: ten tries, then the centre in bounded aspect."""
    height = tf.cast(heights, tf.float32)[:, tf.newaxis]
    width = tf.cast(widths, tf.float32)[:, tf.newaxis]
    share, aspect, down, across = tf.split(numbers, 4, axis=-1)
    area = height * width * (step.scale[0] + share * (step.scale[1] - step.scale[0]))
    low, high = math.log(step.ratio[0]), math.log(step.ratio[1])
    ratio = tf.exp(low + aspect * (high - low))
    columns, rows = tf.round(tf.sqrt(area * ratio)), tf.round(tf.sqrt(area / ratio))
    fits = (columns >= 1) & (rows >= 1) & (columns <= width) & (rows <= height)
    top = tf.floor(down * (height - rows + 1))
    left = tf.floor(across * (width - columns + 1))
    first = tf.argmax(tf.cast(fits, tf.int32), axis=-1)
    tried = [tf.gather(part, first, batch_dims=1) for part in (top, left, rows, columns)]
    fallback = _bounded_centre(height[:, 0], width[:, 0], step)
    any_fits = tf.reduce_any(fits, axis=-1)
    return Window(*(tf.where(any_fits, a, b) for a, b in zip(tried, fallback, strict=True)))


def _bounded_centre(height, width, step: RandomResizedCrop) -> Window:
    rows = tf.minimum(height, width / step.ratio[0])
    columns = tf.minimum(width, height * step.ratio[1])
    return Window((height - rows) / 2, (width - columns) / 2, rows, columns)


class Reading(NamedTuple):
    """How n JPEGs are decoded.

    Attributes:
      halvings: [n] int32, 0 to 3: a JPEG is decoded at 1 / 2 ** halvings of its size.
      rectangle: [n, 4] int32, decoded pixels of that size: top, left, height, width.
      parts: [n, copies, 4] int32, windows in the rectangle: top, left, bottom, right.
    """

    halvings: tf.Tensor
    rectangle: tf.Tensor
    parts: tf.Tensor


def reading(rectangles: tf.Tensor, size: int) -> Reading:
    """Returns how to decode no more than the windows need.

    JPEGs are decoded at 1/2, 1/4 or 1/8 of their size (in the inverse DCT, where it averages over
    the pixels) as long as no window must be enlarged for it. The rest, a factor below 2, is left to
    bilinear interpolation without antialiasing.

    Args:
      rectangles: [n, copies, 4] int32, windows as `windows` returns them.
      size: side of the squares that they become, in pixels.
    """
    smallest = tf.reduce_min(rectangles[..., 2:], (1, 2))[:, tf.newaxis]
    halvings = tf.reduce_sum(tf.cast(smallest >= [2 * size, 4 * size, 8 * size], tf.int32), 1)
    ratio = tf.bitwise.left_shift(1, halvings)[:, tf.newaxis, tf.newaxis]
    low = rectangles[..., :2] // ratio
    high = -(-(rectangles[..., :2] + rectangles[..., 2:]) // ratio)
    first, last = tf.reduce_min(low, 1, keepdims=True), tf.reduce_max(high, 1, keepdims=True)
    whole = tf.concat([first, last - first], -1)[:, 0]
    return Reading(halvings, whole, tf.concat([low - first, high - first], -1))


def crops(jpeg: tf.Tensor, how: Reading, size: int) -> tf.Tensor:
    """Decodes a JPEG once and returns its windows, each resized to a square.

    Args:
      jpeg: scalar string.
      how: one element of a `reading`; the number of copies is static.
      size: side of the squares, in pixels.

    Returns:
      [copies, size, size, 3] uint8, RGB, 0..255.
    """
    decoders = [functools.partial(_decode, jpeg, how.rectangle, ratio) for ratio in (1, 2, 4, 8)]
    pixels = tf.switch_case(how.halvings, decoders)
    copies = how.parts.shape[0]
    if copies == 1:
        return _squares(pixels[tf.newaxis], size)
    parts = [pixels[part[0] : part[2], part[1] : part[3]] for part in tf.unstack(how.parts)]
    return tf.concat([_squares(part[tf.newaxis], size) for part in parts], 0)


def _decode(jpeg, rectangle, ratio: int = 1):
    return tf.io.decode_and_crop_jpeg(
        jpeg, rectangle, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
    )


def _squares(pixels, size: int) -> tf.Tensor:
    resized = tf.raw_ops.ResizeBilinear(images=pixels, size=[size, size], half_pixel_centers=True)
    return tf.cast(resized + 0.5, tf.uint8)


def moved(pixels: tf.Tensor, images: Images, numbers: tf.Tensor) -> tf.Tensor:
    """Runs the augmentation's ShiftScaleRotate, if any, on [n, size, size, 3] uint8 images."""
    for step, part in zip(images.augmentation, augment.slices(images.augmentation), strict=True):
        if isinstance(step, ShiftScaleRotate):
            pixels = shift_scale_rotate(pixels, numbers[:, part], step)
    return pixels


def shift_scale_rotate(pixels: tf.Tensor, numbers: tf.Tensor, step: ShiftScaleRotate) -> tf.Tensor:
    """Shifts, scales and rotates images about their centres; beyond the edges they are mirrored.

    Args:
      pixels: [n, size, size, 3] uint8.
      numbers: [n, 5] float32 in [0, 1): shift across, shift down, scale, angle, whether.
      step: limits and probability.
    """
    shift_x, shift_y, grow, turn = tf.unstack(numbers[:, :4] * 2 - 1, axis=-1)
    side = float(pixels.shape[1])
    angle = turn * math.radians(step.rotate_degrees)
    factor = 1.0 + grow * step.scale
    cosine, sine = tf.cos(angle) / factor, tf.sin(angle) / factor
    centre_at = (side - 1) / 2
    moved_x = centre_at + shift_x * step.shift * side
    moved_y = centre_at + shift_y * step.shift * side
    # Output pixel (x, y) reads input pixel R^-1 ((x, y) - moved centre) + centre.
    zero, one = tf.zeros_like(cosine), tf.ones_like(cosine)
    rows = [cosine, sine, centre_at - cosine * moved_x - sine * moved_y]
    rows += [-sine, cosine, centre_at + sine * moved_x - cosine * moved_y, zero, zero]
    stay = [one, zero, zero, zero, one, zero, zero, zero]
    transforms = tf.where(
        (numbers[:, 4] < step.probability)[:, tf.newaxis], tf.stack(rows, 1), tf.stack(stay, 1)
    )
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels,
        transforms=transforms,
        output_shape=pixels.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _decode_as_pillow(decode: Callable, height, width, window: Window, size: int) -> tf.Tensor:
    """Returns the pixels of `window`, resized to [size, size, 3] uint8.

    `decode` returns those of a rectangle: [4] int32, top, left, height, width.

    Bilinear with antialiasing, as Pillow's: a triangle as wide as the reduction. The decoded
    rectangle reaches beyond the window by the triangle's half-width, so that the pixels at the
    edge are those of a resize of the whole image. The result is rounded between the two
    directions, as Pillow does: without that every sixth pixel differs by 1, enough to change the
    first of 1000 classes of 2 images in 100.
    """
    sides = tf.cast(tf.stack([height, width]), tf.float32)
    start = tf.stack([window.top, window.left])
    extent = tf.stack([window.height, window.width])
    margin = tf.maximum(extent / size, 1.0) + 1.0
    low = tf.floor(tf.clip_by_value(start - margin, 0.0, sides - 1.0))
    high = tf.math.ceil(tf.clip_by_value(start + extent + margin, low + 1.0, sides))
    rectangle = tf.cast(tf.concat([low, high - low], 0), tf.int32)
    pixels = decode(rectangle)
    scale = size / extent
    move = (low - start) * scale
    one, zero = tf.ones([]), tf.zeros([])
    across = tf.stack([rectangle[2], size])
    pixels = _resize(pixels, across, tf.stack([one, scale[1]]), tf.stack([zero, move[1]]))
    pixels = _resize(pixels, [size, size], tf.stack([scale[0], one]), tf.stack([move[0], zero]))
    return tf.ensure_shape(pixels, [size, size, 3])


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
