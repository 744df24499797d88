"""Decodes the bytes of an image to RGB pixels: the one decoder of all commands.

Conversion, prediction, evaluation and export decode here, so that all of them accept the same
files and see the same colours. Only `tf.data` decodes elsewhere (crops.py), and only JPEGs that
conversion has checked. No TensorFlow here: prediction must not wait for its import.
"""

import contextlib
import io
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageChops

from squeezenext.errors import InputError
from squeezenext.images import jpeg
from squeezenext.images.jpeg import ImageError

MAX_BYTES = 64 << 20  # encoded; ImageNet's largest image has 15 MB
# Pillow's own warning level. A decoded image takes 4 bytes a pixel, and twice that while
# transparency is removed or while libjpeg holds a progressive image: about 0.8 GB. (A 20 kB PNG
# can hold 13,000 x 13,000 pixels.)
MAX_PIXELS = 89_478_485
_MAX_WEBP_PIXELS = MAX_PIXELS // 2  # libwebp and Pillow hold four copies: 50 million take 830 MB
# File name endings of the formats below, in lower case.
ENDINGS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"})

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # not Pillow's 40 others, some of them programs
_MAGICS = {jpeg.MAGIC: "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
_HEIF = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")


def read_image(data: bytes, name: str) -> Image.Image:
    """Decodes a JPEG, PNG, WebP, GIF (first frame) or BMP of any kind to RGB.

    EXIF rotation is not applied: ImageNet's published figures do not apply it.

    Raises:
      InputError: the data is no such image, is damaged, or exceeds a limit; the message begins
        with `name`.
    """
    with errors_naming(name):
        return decode(open_image(data))


@contextlib.contextmanager
def errors_naming(name: str) -> Iterator[None]:
    """Turns an ImageError into an InputError whose message begins with `name`."""
    try:
        yield
    except ImageError as error:
        raise InputError(f"{name} {error}.") from error


def open_image(data: bytes, count_scans: bool = True) -> Image.Image:
    """Reads an image's headers and checks all limits; decodes no pixel.

    Args:
      data: the encoded image.
      count_scans: False for a JPEG that has passed `check_scans`.

    Raises:
      ImageError: the data is no image of a known format, or exceeds a limit.
    """
    kind = sniff(data)
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"declares more than {MAX_PIXELS} pixels") from error
    except Exception as error:  # Pillow raises errors of many types on damaged files
        raise ImageError(f"cannot be decoded ({_reason(error)})") from error
    check_size(image.width, image.height, kind)
    if count_scans and kind == "JPEG":
        check_scans(data)
    return image


def sniff(data: bytes) -> str:
    """Returns "JPEG", "PNG", "GIF", "BMP" or "WebP", by content: file names can be wrong.

    Raises:
      ImageError: the data is empty, too large, or none of these.
    """
    if not data:
        raise ImageError("is empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"is larger than {MAX_BYTES >> 20} MB")
    for magic, kind in _MAGICS.items():
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:12] in _HEIF:
        raise ImageError("is a HEIC or AVIF image; convert it to JPEG")
    what = "text" if re.fullmatch(rb"[\t\n\r -~\x80-\xff]+", data[:512]) else "an unknown format"
    raise ImageError(f"is {what}, no JPEG, PNG, GIF, BMP or WebP image")


def check_size(width: int, height: int, kind: str) -> None:
    """Checks the size that an image's header declares.

    Args:
      width: pixels.
      height: pixels.
      kind: the format, as `sniff` returns it.

    Raises:
      ImageError: the image has no pixel, or more than its format may have.
    """
    if not width or not height:
        raise ImageError(f"declares {width} x {height} pixels")
    limit = _MAX_WEBP_PIXELS if kind == "WebP" else MAX_PIXELS
    if width * height > limit:
        raise ImageError(f"declares {width} x {height} pixels, more than {limit}")


def check_scans(data: bytes) -> None:
    """Raises ImageError if decoding a JPEG would take minutes because of its many scans."""
    if jpeg.too_many_scans(data):
        raise ImageError(f"has over {jpeg.MAX_SCANS} scans")


def decode(image: Image.Image) -> Image.Image:
    """Decodes an image that `open_image` opened to RGB.

    Raises:
      ImageError: the image is damaged.
    """
    try:
        return to_rgb(image)
    except Exception as error:  # SyntaxError and struct.error among them
        raise ImageError(f"cannot be decoded ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "its header is damaged"  # Pillow's message is the address of a BytesIO
    return f"{error or type(error).__name__}".replace("\n", " ")


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns a Pillow image of any mode as 8-bit RGB; transparency shows white."""
    image.load()
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip to white
        wide = np.asarray(image)
        return Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque = Image.new("RGB", image.size, "white")
        opaque.paste(image, mask=image)  # half of alpha_composite's memory
        return opaque
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        return _from_plain_inks(image)
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy


def _from_plain_inks(image: Image.Image) -> Image.Image:
    """Returns a CMYK JPEG without Adobe's marker as RGB.

    Adobe's JPEGs hold inverted inks, others plain ones; Pillow inverts the inks of both. By rows,
    so that no third copy of the pixels is made.
    """
    colours = Image.new("RGB", image.size)
    for top in range(0, image.height, 64):
        box = (0, top, image.width, min(top + 64, image.height))
        colours.paste(ImageChops.invert(image.crop(box)).convert("RGB"), box)
    return colours
