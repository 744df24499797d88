"""Decodes the bytes of an image to RGB pixels: the one decoder of all commands.

Conversion, prediction, evaluation and export decode here, so that all of them accept the same
files and see the same colours. TensorFlow decodes (crops.py) in training, but only JPEGs that
conversion has checked, and in a SavedModel. No TensorFlow here: prediction must not wait for its
import.
"""

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from squeezenext.errors import InputError
from squeezenext.images import containers, heif, jpeg
from squeezenext.images.jpeg import Bare, ImageError

MAX_BYTES = 64 << 20  # encoded; ImageNet's largest image has 15 MB
# Pillow's own warning level. (A 20 kB PNG can hold 13,000 x 13,000 pixels.)
MAX_PIXELS = 89_478_485
# Larger JPEGs of one scan are decoded at 1/2, 1/4 or 1/8 of their sides: phones take photographs of
# 200 million pixels.
MAX_JPEG_PIXELS = 1 << 28
MAX_SIDE = 65_500  # libjpeg's, which encodes the records
# Bytes that the decoding of one image may take; the rest of the program takes about 100 MB.
MAX_MEMORY = 480 << 20
# File name endings of the formats below, in lower case.
ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".heic", ".heif",
     ".avif", ".tif", ".tiff"}
)  # fmt: skip
# Endings of other photographs, which are skipped and counted.
OTHER_ENDINGS = frozenset(
    {".jp2", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"}
)


def _heic(file: io.BytesIO) -> Image.Image:
    """Opens a HEIC image."""
    try:
        from pillow_heif import as_plugin
    except ImportError as error:
        message = "is a HEIC image, which needs the extra heic: pip install pillow-heif"
        raise ImageError(message) from error
    return as_plugin.HeifImageFile(file)


# The decoders themselves: `Image.open` tries one after the other, and refuses 179 million pixels
# before `draft` can make them fewer.
_DECODERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "HEIC": _heic,
}
_MAGICS = {
    jpeg.MAGIC: "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"BM": "BMP",
    b"II*\0": "TIFF", b"MM\0*": "TIFF",
}  # fmt: skip
# What the first box of a file of boxes names. A file may name several; AVIF goes first.
_BRANDS = {
    "AVIF": {b"avif", b"avis"},
    "HEIC": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"},
}
# What turns a photograph upright, by EXIF's orientation; for the last four the sides change places.
_TURNS = dict(zip(range(2, 9), (
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
), strict=True))  # fmt: skip
SIDEWAYS = (5, 6, 7, 8)


def read_image(data: bytes, name: str) -> Image.Image:
    """Decodes an image of any of the formats to RGB, not turned upright as EXIF says.

    Of several frames or pages it is the first.

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


class Opened(NamedTuple):
    """An image of which only the headers have been read.

    Attributes:
      image: for Pillow to decode, perhaps at a part of its size.
      size: (width, height) that the file declares, in pixels.
      orientation: EXIF's, 1 to 8; 1 is upright.
      upright: True if `decode` is to turn the image as the orientation says.
    """

    image: Image.Image
    size: tuple[int, int]
    orientation: int = 1
    upright: bool = False


def open_image(
    data: bytes,
    at_least: tuple[int, int] | None = None,
    *,
    count_scans: bool = True,
    upright: bool = False,
) -> Opened:
    """Reads an image's headers and checks all limits; decodes no pixel.

    Args:
      data: the encoded image.
      at_least: (width, height) that suffice, for which a JPEG is decoded at 1/2, 1/4 or 1/8 of its
        sides; default its full size, or what `MAX_MEMORY` allows.
      count_scans: False for a JPEG that has passed `check_scans`.
      upright: if True, `decode` turns the image as EXIF's orientation says. ImageNet's published
        figures were measured without. A HEIC or AVIF is always turned: there the orientation is
        part of the picture.

    Raises:
      ImageError: the data is no image of a known format, or exceeds a limit.
    """
    kind = sniff(data)
    bare = jpeg.bare(data) if kind == "JPEG" else containers.bare(kind, data)
    turned = bare.orientation > 1 and (upright or kind in heif.CODECS)
    if turned and kind not in heif.CODECS:  # whose decoders take more than the turned copy
        bare = bare._replace(memory=bare.memory + 4)
    scale = reduction(kind, bare)
    if count_scans and bare.coefficients:
        check_scans(data)
    try:
        image = _DECODERS[kind](io.BytesIO(bare.data))
    except ImageError:
        raise
    except Exception as error:  # Pillow raises errors of many types on damaged files
        raise ImageError(f"cannot be decoded ({_reason(error)})") from error
    if image.size != (bare.width, bare.height):
        raise ImageError("is damaged: its header declares two sizes")
    if at_least or scale > 1:
        wanted = at_least or image.size
        if at_least and turned and bare.orientation in SIDEWAYS:
            wanted = wanted[::-1]
        image.draft(
            None,
            (
                max(1, min(wanted[0], image.width // scale)),
                max(1, min(wanted[1], image.height // scale)),
            ),
        )
    return Opened(image, (bare.width, bare.height), bare.orientation, turned)


def sniff(data: bytes) -> str:
    """Returns "JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF", "AVIF" or "HEIC".

    The content decides: file names can be wrong.

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
    what = "text" if re.fullmatch(rb"[\t\n\r -~\x80-\xff]+", data[:512]) else "an unknown format"
    if data[4:8] == b"ftyp":  # ISO/IEC 14496-12
        head = data[8 : min(int.from_bytes(data[:4], "big") or 512, 512)]
        brands = {head[start : start + 4] for start in range(0, len(head), 4)}
        if kind := next((kind for kind, names in _BRANDS.items() if names & brands), ""):
            return kind
        what = "a film"
    raise ImageError(f"is {what}, no JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF or HEIC image")


def reduction(kind: str, image: Bare) -> int:
    """Returns the divisor of an image's sides at which it can be decoded: 1, or 2, 4, 8 for a JPEG.

    Args:
      kind: the format, as `sniff` returns it.
      image: what its container declares.

    Raises:
      ImageError: the image has no pixel, or exceeds a limit.
    """
    pixels, most = check_size(image.width, image.height), 0
    limit = min(MAX_PIXELS, (MAX_MEMORY - image.coefficients) // image.memory)
    if limit <= 0:
        raise ImageError(
            f"declares {image.width} x {image.height} pixels in several scans, which take over "
            f"{MAX_MEMORY >> 20} MB; save it as a baseline JPEG"
        )
    for scale in (1, 2, 4, 8) if kind == "JPEG" else (1,):
        most = min(limit * scale**2, MAX_JPEG_PIXELS)
        if pixels <= most:
            return scale
    raise ImageError(f"declares {image.width} x {image.height} pixels, more than {most}")


def check_size(width: int, height: int) -> int:
    """Returns the number of pixels that an image declares.

    Raises:
      ImageError: there is none, or a side is too long for a JPEG.
    """
    if not width or not height:
        raise ImageError(f"declares {width} x {height} pixels")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"declares {width} x {height} pixels; a side may have {MAX_SIDE}")
    return width * height


def check_scans(data: bytes) -> None:
    """Raises ImageError if decoding a JPEG would take minutes because of its many scans."""
    if jpeg.too_many_scans(data):
        raise ImageError(f"has over {jpeg.MAX_SCANS} scans")


def decode(opened: Opened) -> Image.Image:
    """Decodes an image that `open_image` opened to RGB.

    It is turned upright if that was asked for; else its EXIF has the orientation and nothing else.

    Raises:
      ImageError: the image is damaged.
    """
    try:
        pixels = to_rgb(opened.image)
        if opened.orientation == 1:
            return pixels
        if opened.upright:
            return pixels.transpose(_TURNS[opened.orientation])
        pixels.info["exif"] = jpeg.exif(opened.orientation)
        return pixels
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
        return _by_rows(image, _eight_bits)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque = Image.new("RGB", image.size, "white")
        opaque.paste(image, mask=image)  # half of alpha_composite's memory
        return opaque
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Adobe's JPEGs hold inverted inks, others plain ones; Pillow inverts the inks of both.
        return _by_rows(image, ImageChops.invert)
    return image if image.mode == "RGB" else image.convert("RGB")  # convert() would copy


def _by_rows(image: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Returns `change(image)` as RGB, computed on 64 rows at a time to save a copy."""
    changed = Image.new("RGB", image.size)
    for top in range(0, image.height, 64):
        box = (0, top, image.width, min(top + 64, image.height))
        changed.paste(change(image.crop(box)).convert("RGB"), box)
    return changed


def _eight_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
