"""Makes any image a JPEG that every reader takes; a good JPEG keeps its very bytes.

Only headers are read unless something is wrong: decoding all of ImageNet to learn sizes is
what made earlier converters slow.
"""

import io
import re
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

from squeezenext.images import decoding, jpeg
from squeezenext.images.jpeg import END, ImageError

MAX_BYTES = 64 << 20  # ImageNet's largest image has 15 MB
MAX_PIXELS = 89_478_485  # Pillow's own warning level: 256 MB of RGB

# Frames that TensorFlow's and every other decoder take: baseline, extended, progressive.
_USUAL_FRAMES = {0xC0, 0xC1, 0xC2}
_MAGICS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")  # Pillow's forty others stay closed


class Normalised(NamedTuple):
    """A JPEG, its size in pixels, and what was done to it ("" if nothing)."""

    data: bytes
    height: int
    width: int
    repair: str


class Smaller(NamedTuple):
    """What larger images become: JPEGs whose longer side is `max_side`, of this quality."""

    max_side: int
    quality: int


def normalise(data: bytes, verify: bool = False, smaller: Smaller | None = None) -> Normalised:
    """Returns the image as a JPEG of one or three components.

    Args:
      verify: decode good JPEGs too, to find damage inside them.
      smaller: re-encode what is larger than that; None keeps every good JPEG's bytes.

    Raises:
      ImageError: text, cut short, too large, or no image at all.
    """
    image = _usual(data)
    if smaller and max(image.height, image.width) > smaller.max_side:
        return _shrunk(image, smaller)
    if verify and image.data is data:
        _decode(data)
    return image


def rgb_mean(data: bytes) -> tuple[float, float, float]:
    """Returns a JPEG's mean colour in 0..255, decoded at an eighth of its size.

    An eighth is the mean of each 8 x 8 block, which a JPEG stores as such: the mean of all
    stays the same to a fraction of a grey level, at a fifth of the time.

    Raises:
      ImageError: it is damaged inside.
    """
    image = _decode(data, at_least=(1, 1)).convert("RGB")
    return tuple(np.asarray(image).mean((0, 1), np.float64).tolist())


def decode(data: bytes) -> None:
    """Decodes every pixel.

    Raises:
      ImageError: the image is damaged.
    """
    _decode(data)


def _shrunk(image: Normalised, smaller: Smaller) -> Normalised:
    """Baseline 4:2:0, which decodes fastest. A colour profile or EXIF is left behind."""
    ratio = smaller.max_side / max(image.height, image.width)
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    pixels = _decode(image.data, at_least=size).convert("RGB")
    pixels = pixels.resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    pixels.save(out, "JPEG", quality=smaller.quality, subsampling="4:2:0", optimize=True)
    return Normalised(out.getvalue(), size[1], size[0], image.repair)


def _usual(data: bytes) -> Normalised:
    kind = sniff(data)
    if kind != "JPEG":
        image = _rgb(_decode(data))
        return _encoded(image, f"{kind} encoded as JPEG")
    header = jpeg.header(data)
    _check_size(header.width, header.height)
    if not header.one_scan and decoding.too_many_scans(data):
        raise ImageError(f"has over {decoding.MAX_SCANS} scans")
    if header.components == 4:
        return _encoded(_from_cmyk(_decode(data), header.adobe), "CMYK converted to RGB")
    if header.frame not in _USUAL_FRAMES or header.components not in (1, 3):
        return _encoded(_rgb(_decode(data)), f"JPEG of type SOF{header.frame - 0xC0} re-encoded")
    if header.precision != 8:
        raise ImageError(f"has {header.precision} bits a sample; 8 are supported")
    repair = ""
    if not data.endswith(END) and jpeg.end(data, header.scan) is None:
        data, repair = _with_end(data), "end mark appended"
    return Normalised(data, header.height, header.width, repair)


def sniff(data: bytes) -> str:
    """Returns "JPEG", "PNG", "GIF", "BMP" or "WebP", by content: names lie.

    Raises:
      ImageError: it is none of them.
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
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        raise ImageError("is a HEIC or AVIF image; convert it to JPEG")
    what = "text" if re.fullmatch(rb"[\t\n\r -~\x80-\xff]+", data[:512]) else "an unknown format"
    raise ImageError(f"is {what}, no JPEG, PNG, GIF, BMP or WebP image")


def _with_end(data: bytes) -> bytes:
    """Returns a JPEG that lacks only its end mark with one.

    libjpeg fills what is missing from the padding. If two paddings give the same pixels,
    nothing was missing. Zeros at the end are what an interrupted download leaves.

    Raises:
      ImageError: the picture itself is cut.
    """
    data = data.rstrip(b"\0").removesuffix(b"\xff")
    pads = (bytes(4096), b"\x55\xaa\x33" * 1365)
    try:
        first, second = (np.asarray(_decode(data + pad + END)) for pad in pads)
    except ImageError as error:
        raise ImageError("is cut short") from error
    if not np.array_equal(first, second) or not jpeg.whole(data):
        raise ImageError("is cut short")
    return data + END


def _decode(data: bytes, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Returns the pixels; `at_least` lets a JPEG be decoded at 1/2, 1/4 or 1/8 of its size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF and the like; the pixels are fine
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            _check_size(*image.size)
            if at_least:
                image.draft(None, at_least)
            image.load()
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(f"declares more than {MAX_PIXELS} pixels") from error
        except (
            Exception
        ) as error:  # Pillow's decoders raise of every kind: SyntaxError, struct.error
            raise ImageError(f"cannot be decoded ({error})".replace("\n", " ")) from error
    return image


def _check_size(width: int, height: int) -> None:
    if not width or not height:
        raise ImageError(f"declares {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(f"declares {width} x {height} pixels, more than {MAX_PIXELS}")


def _from_cmyk(image: Image.Image, adobe: bool) -> Image.Image:
    """Adobe stores inks inverted, and Pillow assumes Adobe; others store them plain."""
    return (image if adobe else ImageChops.invert(image)).convert("RGB")


def _rgb(image: Image.Image) -> Image.Image:
    """Returns 8-bit RGB: 16 bits lose their low byte, transparency shows white."""
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow's own conversion clips 16-bit grey at 255: a white picture.
        pixels = np.asarray(image, np.float64)
        image = Image.fromarray((np.clip(pixels, 0, 65535) / 256).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _encoded(image: Image.Image, repair: str) -> Normalised:
    """Quality 100 and 4:4:4, as the Inception script re-encodes: no visible loss is added."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=100, subsampling=0)
    return Normalised(out.getvalue(), image.height, image.width, repair)
