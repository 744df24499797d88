"""Reads a JPEG's segments (ITU T.81, annex B) as libjpeg does, and EXIF; decodes no pixel."""

import contextlib
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MAGIC = b"\xff\xd8\xff"
START = b"\xff\xd8"
END = b"\xff\xd9"
# Most scans of a JPEG that is decoded. libjpeg visits every block of the image for each scan,
# however little the scan holds: 1 MB of scans would take minutes. Progressive files of cameras
# and programs have about ten.
MAX_SCANS = 100
# Most segments. ICC profiles and depth maps fill some hundreds; 64 MB of empty ones would take
# this module's walk 15 s.
MAX_SEGMENTS = 10_000

_FRAMES = {code for code in range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the rest are tables
_SEQUENTIAL = {0xC0, 0xC1}  # Huffman-coded
_BARE = {0x01, 0xD8, 0xD9}  # markers that no length follows; 0xD0 to 0xD7 are part of a scan
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_METADATA = {*range(0xE0, 0xF0), 0xFE, *_BARE}  # application segments and comments
# Segments that say how colours are stored: JFIF as YCbCr, Adobe's by its transform.
_NEEDED, _NOTHING = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}, b"\0no segment begins so"
_APP1, _EXIF = 0xE1, b"Exif\0\0"
_ORIENTATION, _SHORT = 0x0112, 3  # EXIF's tag and type
_MAX_ENTRIES = 1000  # entries of EXIF's first directory; cameras write some twenty
_FILL = b"\x00\xff"  # bytes that cameras put between segments, and decoders skip
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class ImageError(ValueError):
    """An image that cannot be used; the message completes "<file> ...": "is empty"."""


class Bare(NamedTuple):
    """An image file without metadata.

    Attributes:
      width: declared pixels.
      height: declared pixels.
      memory: bytes that decoding to RGB takes for each pixel, with Pillow 12.3.
      coefficients: bytes that libjpeg takes beside them for a JPEG of several scans.
      data: the file.
      orientation: EXIF's, see `orientation`.
    """

    width: int
    height: int
    memory: int
    coefficients: int
    data: bytes
    orientation: int = 1


# (marker without 0xFF, first byte of the content, first byte behind the content, sound, stray).
# sound: the marker has a length, and the content lies within the file.
# stray: bytes stand before the marker that are no fill (0x00, 0xFF), nor part of a segment or scan.
Segment = tuple[int, int, int, bool, bool]


class JpegHeader(NamedTuple):
    """What the segments before the first scan say.

    Attributes:
      frame: marker of the frame, 0xC0 for a baseline JPEG.
      precision: bits of a sample.
      height: pixels.
      width: pixels.
      components: 1 for grey, 3 for colour, 4 for inks.
      scan: first byte of the first scan's data.
      one_scan: whether the first scan holds the whole image, so that libjpeg reads no other.
      coefficients: bytes that libjpeg takes for all coefficients, which it does for several scans.
      needed: (first byte, first byte behind) of the segments before the first scan, its own
        included, that a decoder needs.
      orientation: EXIF's, see `orientation`.
    """

    frame: int
    precision: int
    height: int
    width: int
    components: int
    scan: int
    one_scan: bool
    coefficients: int
    needed: list[tuple[int, int]]
    orientation: int


def orientation(exif: bytes) -> int:
    """Returns how a camera was held: EXIF's orientation, 1 (upright) to 8; 1 where none is given.

    Pillow would read all entries, of which a hostile file has thousands that share a megabyte.

    Args:
      exif: a TIFF structure, as JPEG, PNG and WebP files hold it (CIPA DC-008, section 4.6.5).
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    with contextlib.suppress(struct.error):  # cut
        (first,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, first)
        for entry in range(min(count, _MAX_ENTRIES)):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, first + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and 1 <= value <= 8 else 1
    return 1


def exif(held: int) -> bytes:
    """Returns EXIF that holds an orientation alone, as a JPEG's segment holds it."""
    entry = struct.pack("<HHIHH", _ORIENTATION, _SHORT, 1, held, 0)
    return _EXIF + b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


def segments(data: bytes, position: int = 2) -> Iterator[Segment]:
    """Yields the segments from `position` on; the end mark is the last.

    As libjpeg does, it skips markers without a length and bytes between segments. Taking those
    bytes for a length would hide the scans behind them. Strays are no fill: a segment of a wrong
    length is before them, of which libjpeg would make wrong pixels.
    """
    in_scan, size, count = False, len(data), 0
    while found := _MARKER.search(data, position):
        count += 1
        if count > MAX_SEGMENTS:
            raise ImageError(f"has over {MAX_SEGMENTS} segments")
        before, start = found.span()
        marker = data[start - 1]
        stray = before > position and not in_scan and bool(data[position:before].strip(_FILL))
        if marker in _BARE:
            yield marker, start, start, marker == _END_OF_IMAGE, stray
            if marker == _END_OF_IMAGE:
                return
            position = start
            continue
        length = int.from_bytes(data[start : start + 2], "big")
        position = start + max(length, 2)
        yield marker, start + 2, position, length >= 2 and position <= size, stray
        in_scan = marker == _START_OF_SCAN


def header(data: bytes) -> JpegHeader:
    """Reads the segments up to the first scan.

    Raises:
      ImageError: the file is cut or damaged before its first scan.
    """
    frame, needed, held = b"", [(0, len(START))], 0
    for marker, start, stop, sound, stray in segments(data):
        if not sound or stray or marker == _END_OF_IMAGE:
            break
        if marker in _FRAMES and not frame:
            frame = bytes([marker]) + data[start:stop]
        if marker == _APP1 and data.startswith(_EXIF, start) and not held:  # the first
            held = orientation(data[start + len(_EXIF) : stop])
        if marker not in _METADATA or data.startswith(_NEEDED.get(marker, _NOTHING), start):
            needed.append((start - 4, stop))
        if marker == _START_OF_SCAN:
            if not frame:
                raise ImageError("has no JPEG frame")
            if len(frame) < 7:
                break
            return _header(frame, data[start : start + 1], stop, needed, held or 1)
    raise ImageError("is cut short or damaged in its header")


def _header(
    frame: bytes, components_of_scan: bytes, scan: int, needed: list, held: int
) -> JpegHeader:
    marker, precision, height, width, components = struct.unpack(">BBHHB", frame[:7])
    one_scan = marker in _SEQUENTIAL and components_of_scan == bytes([components])
    # Samples of each component relative to the most finely sampled one (T.81, A.1.1).
    factors = [(value >> 4) * (value & 15) for value in frame[8 : 7 + 3 * components : 3]] or [1]
    share = sum(factors) / max(*factors, 1)
    return JpegHeader(
        marker,
        precision,
        height,
        width,
        components,
        scan,
        one_scan,
        round(2 * share * width * height),
        needed,
        held,
    )


def bare(data: bytes) -> Bare:
    """Returns a JPEG without metadata; raises ImageError as `header`."""
    found = header(data)
    head = b"".join(data[start:stop] for start, stop in found.needed)
    return to_decode(found, head + data[found.scan :])


def to_decode(header: JpegHeader, data: bytes = b"") -> Bare:
    """Returns what a JPEG's header says about its decoding."""
    # A grey image and its copy in RGB, RGB alone, or inks and their copy in RGB: Pillow takes 4
    # bytes for a pixel of all but grey.
    memory = {1: 5, 3: 4}.get(header.components, 8)
    coefficients = 0 if header.one_scan else header.coefficients
    return Bare(header.width, header.height, memory, coefficients, data, header.orientation)


def end(data: bytes, scan: int) -> int | None:
    """Returns the position behind the end mark, or None if there is none.

    Args:
      data: the file, which may hold garbage behind the end mark.
      scan: position from which to search, `JpegHeader.scan`.
    """
    for marker, _, stop, sound, _ in segments(data, scan):
        if marker == _END_OF_IMAGE or not sound:
            return stop if sound else None
    return None


def whole(data: bytes) -> bool:
    """Returns whether the scans send every coefficient of every component to its last bit.

    A file that is cut between two scans decodes without an error, but blurred or grey. A scan
    says which components and coefficients it sends (Ss, Se) and down to which bit (Al).
    """
    missing = np.full((256, 64), 16, np.uint8)  # bits not sent, by component and coefficient
    components: set[int] = set()
    for marker, start, stop, sound, stray in segments(data):
        if not sound or stray:
            break
        if marker in _FRAMES:
            components |= set(data[start + 6 : stop : 3])
        elif marker == _START_OF_SCAN:
            ids = list(data[start + 1 : stop - 3 : 2])
            first, last, bits = data[stop - 3 : stop]
            missing[ids, first : last + 1] = bits & 15
    return bool(components) and not missing[sorted(components)].any()


def too_many_scans(data: bytes) -> bool:
    """Returns whether libjpeg would work through more than `MAX_SCANS` scans."""
    count = 0
    for marker, *_ in segments(data):
        count += marker == _START_OF_SCAN
        if count > MAX_SCANS:
            return not _one_scan(data)
    return False


def _one_scan(data: bytes) -> bool:
    try:
        return header(data).one_scan
    except ImageError:
        return False
