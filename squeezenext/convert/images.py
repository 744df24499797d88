"""Turns any image into a JPEG that every reader accepts; a good JPEG keeps its bytes.

Only the headers of a good JPEG are read: decoding all of ImageNet to learn the sizes made earlier
converters slow.
"""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from squeezenext.images import decoding, jpeg
from squeezenext.images.jpeg import END, ImageError

# Frames that TensorFlow's and every other decoder take: baseline, extended, progressive.
_USUAL_FRAMES = {0xC0, 0xC1, 0xC2}
# Quality and subsampling of JPEGs: the Inception script's, without visible loss, and what leaves
# photographs that are turned about as large as before.
_LOSSLESS, _LIKE_A_CAMERA = (100, "4:4:4"), (95, "4:2:0")
_PADDING = 4096  # bytes appended to a JPEG that may be cut


class Normalised(NamedTuple):
    """A JPEG, its size in pixels, and what was done to it ("" if nothing)."""

    data: bytes
    height: int
    width: int
    repair: str


class Smaller(NamedTuple):
    """The longer side, in pixels, and the JPEG quality that larger images are reduced to."""

    max_side: int
    quality: int


def normalise(
    data: bytes, verify: bool = False, smaller: Smaller | None = None, upright: bool = False
) -> Normalised:
    """Returns the image as a JPEG of one or three components.

    A good JPEG is decoded only if `verify`, which finds damage inside, if it is larger than
    `smaller`, or if `upright` and EXIF says that it is not.

    Raises:
      ImageError: the data is text, cut short, too large, or no image at all.
    """
    image = _usual(data, upright)
    if upright and (held := jpeg.header(image.data).orientation) > 1:
        image = image._replace(repair=_joined(image.repair, _turned(held)))
        if held in decoding.SIDEWAYS:
            image = image._replace(height=image.width, width=image.height)
        if not smaller or max(image.height, image.width) <= smaller.max_side:
            return _re_encoded(image.data, image.repair, upright, _LIKE_A_CAMERA)
    if smaller and max(image.height, image.width) > smaller.max_side:
        return _shrunk(image, smaller, upright)
    if verify and image.data is data:
        decode(data)
    return image


def rgb_mean(data: bytes) -> tuple[float, float, float]:
    """Returns the mean colour in 0..255 of a JPEG from `normalise`.

    It is decoded at an eighth of its size, to the mean of each 8 x 8 block, which a JPEG stores as
    such: the mean of all stays the same to a fraction of a grey level, at a fifth of the time.

    Raises:
      ImageError: it is damaged inside.
    """
    image = decode(data, at_least=(1, 1))
    return tuple(np.asarray(image).mean((0, 1), np.float64).tolist())


def _turned(held: int) -> str:
    return f"turned upright (EXIF {held})"


def _joined(*reasons: str) -> str:
    return ", ".join(dict.fromkeys(filter(None, reasons)))


def decode(
    data: bytes, at_least: tuple[int, int] | None = None, upright: bool = False
) -> Image.Image:
    """Decodes an image, whose scans have been counted, to RGB.

    If a size `at_least` (width, height) suffices, a JPEG is decoded at 1/2, 1/4 or 1/8 of its own.
    If `upright`, it is turned as EXIF's orientation says.

    Raises:
      ImageError: the image is damaged or exceeds a limit.
    """
    return decoding.decode(decoding.open_image(data, at_least, count_scans=False, upright=upright))


def _shrunk(image: Normalised, smaller: Smaller, upright: bool) -> Normalised:
    """Re-encodes as baseline 4:2:0, which decodes fastest, without colour profile and EXIF."""
    ratio = smaller.max_side / max(image.height, image.width)
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    pixels = decode(image.data, at_least=size, upright=upright)
    pixels = pixels.resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    pixels.save(out, "JPEG", quality=smaller.quality, subsampling="4:2:0", optimize=True)
    return Normalised(out.getvalue(), size[1], size[0], image.repair)


def _usual(data: bytes, upright: bool) -> Normalised:
    """Returns a JPEG that every decoder takes. Its EXIF may say that it is still to be turned."""
    kind = decoding.sniff(data)
    if kind != "JPEG":
        return _re_encoded(data, f"{kind} encoded as JPEG", upright, _LOSSLESS)
    header = _header(data)
    if header.components == 4:
        return _re_encoded(data, "CMYK converted to RGB", upright, _LOSSLESS)
    if header.frame not in _USUAL_FRAMES or header.components not in (1, 3):
        kind = f"JPEG of type SOF{header.frame - 0xC0}"
        return _re_encoded(data, f"{kind} re-encoded", upright, _LOSSLESS)
    if header.precision != 8:
        raise ImageError(f"has {header.precision} bits a sample; 8 are supported")
    if _reduced(header):
        return _re_encoded(data, "", upright, _LOSSLESS)
    repair = ""
    if not data.endswith(END) and jpeg.end(data, header.scan) is None:
        data, repair = _with_end(data), "end mark appended"
    return Normalised(data, header.height, header.width, repair)


def _header(data: bytes) -> jpeg.JpegHeader:
    """Returns a JPEG's header; ImageError if it is damaged, or the scans are too many."""
    header = jpeg.header(data)
    if not header.one_scan:
        decoding.check_scans(data)
    return header


def _reduced(header: jpeg.JpegHeader) -> bool:
    """Returns whether a JPEG is too large for its full size; ImageError if it is for any."""
    return decoding.reduction("JPEG", jpeg.to_decode(header)) > 1


def check_trainable(data: bytes) -> jpeg.JpegHeader:
    """Returns the header of an image that training can read from a record.

    Raises:
      ImageError: it is no JPEG in grey or RGB, is damaged, or exceeds a limit.
    """
    if decoding.sniff(data) != "JPEG":
        raise ImageError("is no JPEG, which training needs")
    header = _header(data)
    if header.components not in (1, 3):
        raise ImageError("is no JPEG in grey or RGB, which training needs")
    if _reduced(header):
        raise ImageError(f"has {header.width} x {header.height} pixels, too many for training")
    return header


def _with_end(data: bytes) -> bytes:
    """Appends the end mark to a JPEG that lacks nothing else; ImageError if the picture is cut.

    libjpeg fills what is missing from the padding. If two paddings give the same pixels,
    nothing was missing. Zeros at the end are what an interrupted download leaves.
    """
    data = data.rstrip(b"\0").removesuffix(b"\xff")
    if len(data) + _PADDING + len(END) > decoding.MAX_BYTES:
        raise ImageError("is cut short, and too large for a repair")
    pads = (bytes(_PADDING), b"\x55\xaa\x33" * (_PADDING // 3))
    try:
        first, second = (np.asarray(decode(data + pad + END)) for pad in pads)
    except ImageError as error:
        raise ImageError("is cut short") from error
    if not np.array_equal(first, second) or not jpeg.whole(data):
        raise ImageError("is cut short")
    return data + END


def _re_encoded(data: bytes, repair: str, upright: bool, how: tuple[int, str]) -> Normalised:
    """Decodes an image and encodes it as a JPEG of this quality and subsampling of colours."""
    opened = decoding.open_image(data, count_scans=False, upright=upright)
    pixels, out = decoding.decode(opened), io.BytesIO()
    pixels.save(out, "JPEG", quality=how[0], subsampling=how[1])
    turned = _turned(opened.orientation) if upright and opened.orientation > 1 else ""
    less = pixels.width * pixels.height < opened.size[0] * opened.size[1]
    reduced = "reduced from {} x {} pixels".format(*opened.size) if less else ""
    repair = _joined(repair, turned, reduced)
    return Normalised(out.getvalue(), pixels.height, pixels.width, repair)
