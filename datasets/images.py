"""Makes any image a JPEG that every reader takes; a good JPEG keeps its very bytes.

Only headers are read unless something is wrong: decoding all of ImageNet to learn sizes is
what made earlier converters slow.
"""

import io
import re
import struct
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

MAX_BYTES = 64 << 20  # ImageNet's largest image has 15 MB
MAX_PIXELS = 89_478_485  # Pillow's own warning level: 256 MB of RGB
END = b"\xff\xd9"

# Frames that TensorFlow's and every other decoder take: baseline, extended, progressive.
_USUAL_FRAMES = {0xC0, 0xC1, 0xC2}
_FRAMES = {code for code in range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the rest are tables
_START_OF_SCAN, _ADOBE = 0xDA, 0xEE
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")  # Pillow's forty others stay closed
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class ImageError(ValueError):
    """An image that cannot be used; the message completes "<file> ...": "is empty"."""


class Normalised(NamedTuple):
    """A JPEG, its size in pixels, and what was done to it ("" if nothing)."""

    data: bytes
    height: int
    width: int
    repair: str


class JpegHeader(NamedTuple):
    frame: int
    precision: int
    height: int
    width: int
    components: int
    adobe: bool
    scan: int  # where the first scan starts


def normalise(data: bytes, verify: bool = False) -> Normalised:
    """Returns the image as a JPEG of one or three components.

    Args:
      verify: decode good JPEGs too, to find damage inside them.

    Raises:
      ImageError: text, cut short, too large, or no image at all.
    """
    kind = sniff(data)
    if kind != "JPEG":
        image = _rgb(_decode(data))
        return _encoded(image, f"{kind} encoded as JPEG")
    header = jpeg_header(data)
    _check_size(header.width, header.height)
    if header.components == 4:
        return _encoded(_from_cmyk(_decode(data), header.adobe), "CMYK converted to RGB")
    if header.frame not in _USUAL_FRAMES or header.components not in (1, 3):
        return _encoded(_rgb(_decode(data)), f"JPEG of type SOF{header.frame - 0xC0} re-encoded")
    if header.precision != 8:
        raise ImageError(f"has {header.precision} bits a sample; 8 are supported")
    repair = ""
    if not data.endswith(END) and _end(data, header.scan) is None:
        data, repair = _with_end(data), "end mark appended"
    if verify:
        _decode(data)
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
    magics = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
    for magic, kind in magics.items():
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        raise ImageError("is a HEIC or AVIF image; convert it to JPEG")
    what = "text" if re.fullmatch(rb"[\t\n\r -~\x80-\xff]+", data[:512]) else "an unknown format"
    raise ImageError(f"is {what}, no JPEG, PNG, GIF, BMP or WebP image")


def jpeg_header(data: bytes) -> JpegHeader:
    """Reads the segments up to the first scan (ITU T.81, annex B); no pixel is decoded.

    Raises:
      ImageError: the file is cut or damaged before its first scan.
    """
    frame, adobe, position = None, False, 2
    try:
        while True:
            marker, start, end = _segment(data, position)
            if marker == _START_OF_SCAN:
                break
            if marker in _FRAMES and frame is None:
                frame = (marker, *struct.unpack_from(">BHHB", data, start))
            adobe = adobe or (marker == _ADOBE and data[start : start + 5] == b"Adobe")
            position = end
    except (IndexError, struct.error) as error:
        raise ImageError("is cut short or damaged in its header") from error
    if frame is None:
        raise ImageError("has no JPEG frame")
    return JpegHeader(*frame, adobe, end)


def _segment(data: bytes, position: int) -> tuple[int, int, int]:
    """Returns (marker, start and end of its content) of the segment at `position`."""
    if data[position] != 0xFF:
        raise IndexError
    while data[position] == 0xFF:  # any number of fill bytes may come first
        position += 1
    length = struct.unpack_from(">H", data, position + 1)[0]
    if length < 2 or position + 1 + length > len(data):
        raise IndexError
    return data[position], position + 3, position + 1 + length


def _end(data: bytes, scan: int) -> int | None:
    """Returns where the image ends, garbage behind it left out; None if it has no end mark."""
    position = scan
    while found := _NEXT_MARKER.search(data, position):
        if found.group() == END:
            return found.end()
        try:
            position = _segment(data, found.start())[2]
        except (IndexError, struct.error):
            return None
    return None


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
    if not np.array_equal(first, second):
        raise ImageError("is cut short")
    return data + END


def _decode(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF and the like; the pixels are fine
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            _check_size(*image.size)
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
