"""From an image to what the network reads: the one place where that is decided.

The geometry and the normalisation are arithmetic on their arguments alone, so that the same
functions serve numpy, in `predict.py`, and TensorFlow's graphs, in training and evaluation. Reading
with Pillow stands here, reading in `tf.data` in `augmentation.py`; a test feeds the same files to
both. No TensorFlow here: prediction must not wait for its import.
"""

import io
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from squeezenext.config import Images
from squeezenext.errors import InputError

MAX_PIXELS = 50_000_000  # a 20 kB PNG can decode to 507 MB (13,000 x 13,000)
_MAX_WEBP_PIXELS = 25_000_000  # libwebp and Pillow hold four copies: 50 million take 830 MB
# Of a JPEG; libjpeg looks at every block of the image for each, however little the scan says, so
# that 1 MB of them would take it minutes. Progressive files of cameras and programs have some ten.
MAX_SCANS = 100
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # of a segment that has a length, and the end's
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # not Pillow's 40 others, some of them programs
# File name endings of these formats, in lower case.
ENDINGS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"})


class Window(NamedTuple):
    """A rectangle in source pixels, possibly fractional, that becomes the network's square."""

    top: float
    left: float
    height: float
    width: float


def resized_sides(height, width, images: Images):
    """Returns (height, width) of the image once resized, as integers.

    torchvision's rule for the short side: the long one is cut down to a whole pixel.
    """
    if images.resize_mode == "squash":
        return images.resize, images.resize
    # min() written so that it holds for integers and for tensors alike.
    short = (height + width - abs(height - width)) // 2
    return images.resize * height // short, images.resize * width // short


def crop_window(height, width, top, left, images: Images) -> Window:
    """Returns the source window of the crop at (top, left) of the resized image."""
    resized_height, resized_width = resized_sides(height, width, images)
    return Window(
        top * height / resized_height,
        left * width / resized_width,
        images.size * height / resized_height,
        images.size * width / resized_width,
    )


def centre_window(height, width, images: Images) -> Window:
    """Returns the source window of the centre crop, which evaluation and prediction show.

    Args:
      height: of the source in pixels, an int or an integer tensor; `width` likewise.
    """
    resized_height, resized_width = resized_sides(height, width, images)
    top = _half(resized_height - images.size)
    left = _half(resized_width - images.size)
    return crop_window(height, width, top, left, images)


def _half(margin):
    """Half of a margin, a half pixel going to the even side: torchvision's int(round(m / 2))."""
    return (margin + margin // 2 % 2) // 2


def normalize(pixels, images: Images):
    """Returns what the network reads: [..., 3] floats from RGB pixels in 0..255 (float).

    Works on numpy arrays and on tensors.
    """
    if isinstance(pixels, np.ndarray):
        return _normalized(pixels, images)
    if images.channels == "BGR":
        pixels = pixels[..., ::-1]
    return (pixels - np.float32(images.mean)) / np.float32(images.std)


def _normalized(pixels: np.ndarray, images: Images) -> np.ndarray:
    """The same, a channel at a time: numpy loops over a last axis of 3 at half the speed."""
    outputs = np.empty(pixels.shape, np.float32)
    for channel, (mean, std) in enumerate(zip(images.mean, images.std, strict=True)):
        output = outputs[..., channel]
        source = 2 - channel if images.channels == "BGR" else channel
        np.subtract(pixels[..., source], np.float32(mean), out=output, dtype=np.float32)
        output /= np.float32(std)
    return outputs


def read_image(data: bytes, name: str) -> Image.Image:
    """Decodes a JPEG, PNG, WebP, GIF (first frame) or BMP of any kind to RGB.

    EXIF rotation is not applied: ImageNet's published figures do not.

    Raises:
      InputError: not such an image, damaged, or larger than `open_image` allows.
    """
    return decode(open_image(data, name), name)


def open_image(data: bytes, name: str) -> Image.Image:
    """Reads an image's headers alone: its kind and size, and how many scans a JPEG has.

    Raises:
      InputError: not such an image, larger than 50 million pixels (a WebP: 25), or of over
        `MAX_SCANS` scans.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise InputError(f"{name} is not an image that can be read: {_reason(error)}") from error
    limit = _MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS
    if image.width * image.height > limit:
        raise InputError(
            f"{name} is {image.width} x {image.height}: over {limit:,} pixels; make it smaller."
        )
    if not image.width * image.height:
        raise InputError(f"{name} is {image.width} x {image.height}: it has no pixel.")
    if data.startswith(b"\xff\xd8") and too_many_scans(data):
        raise InputError(f"{name} is a JPEG of over {MAX_SCANS} scans; save it anew.")
    return image


def too_many_scans(data: bytes) -> bool:
    """Says whether a JPEG has more than `MAX_SCANS`, counted as libjpeg comes upon them."""
    count, place = 0, 2
    while count <= MAX_SCANS and (found := _MARKER.search(data, place)) and found[0] != _END:
        count += found[0] == _SCAN
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        place = found.end() + max(length, 2)
    return count > MAX_SCANS


def decode(image: Image.Image, name: str) -> Image.Image:
    """Decodes what `open_image` opened to RGB.

    Raises:
      InputError: it is damaged.
    """
    try:
        return to_rgb(image)
    except Exception as error:
        raise InputError(f"{name} is not an image that can be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not JPEG, PNG, WebP, GIF or BMP."
    return f"{error or type(error).__name__}."


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns an image of any of Pillow's modes as RGB; what is transparent shows white."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip to white
        wide = np.asarray(image)
        return Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque = Image.new("RGB", image.size, "white")  # as the converter shows what is not there
        opaque.paste(image, mask=image)  # half of alpha_composite's memory
        return opaque
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy


def centre_pixels(image: Image.Image, images: Images) -> np.ndarray:
    """Returns the centre crop of an RGB image: [size, size, 3] uint8, RGB, 0..255."""
    window = centre_window(image.height, image.width, images)
    box = (window.left, window.top, window.left + window.width, window.top + window.height)
    # Rounding may put the box a billionth outside, which Pillow refuses.
    box = (max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height))
    side = (images.size, images.size)
    return np.asarray(image.resize(side, Image.Resampling.BILINEAR, box=box))
