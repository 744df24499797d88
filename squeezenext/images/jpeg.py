"""Reads a JPEG's segments (ITU T.81, annex B); no pixel is decoded."""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

END = b"\xff\xd9"

_FRAMES = {code for code in range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the rest are tables
_SEQUENTIAL = {0xC0, 0xC1}  # coded by Huffman's codes
# Markers without a length, over which libjpeg steps: what follows would be taken for one, and
# could hide another image from us.
_BARE = {0x00, 0x01, *range(0xD0, 0xDA)}
_START_OF_SCAN, _ADOBE = 0xDA, 0xEE
_SEGMENT = struct.Struct(">BBH")  # 0xFF, marker, length of what follows the marker
_FRAME = struct.Struct(">BHHB")  # precision, height, width, components
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class ImageError(ValueError):
    """An image that cannot be used; the message completes "<file> ...": "is empty"."""


class JpegHeader(NamedTuple):
    frame: int
    precision: int
    height: int
    width: int
    components: int
    adobe: bool
    scan: int  # where the first scan starts
    one_scan: bool  # the first holds all, and libjpeg reads no other


def header(data: bytes) -> JpegHeader:
    """Reads the segments up to the first scan.

    Raises:
      ImageError: the file is cut or damaged before its first scan.
    """
    frame, adobe, marker, end = None, False, 0, 2
    try:
        while marker != _START_OF_SCAN:
            marker, start, end = _segment(data, end)
            if marker in _FRAMES and frame is None:
                frame = (marker, *_FRAME.unpack_from(data, start))
            elif marker == _ADOBE and data[start : start + 5] == b"Adobe":
                adobe = True
    except (IndexError, struct.error) as error:
        raise ImageError("is cut short or damaged in its header") from error
    if frame is None:
        raise ImageError("has no JPEG frame")
    one_scan = frame[0] in _SEQUENTIAL and data[start : start + 1] == bytes(frame[-1:])
    return JpegHeader(*frame, adobe, end, one_scan)


def _segment(data: bytes, position: int) -> tuple[int, int, int]:
    """Returns (marker, start and end of its content) of the segment at `position`."""
    mark, marker, size = _SEGMENT.unpack_from(data, position)
    while marker == mark == 0xFF:  # any number of fill bytes may come first
        position += 1
        mark, marker, size = _SEGMENT.unpack_from(data, position)
    end = position + 2 + size
    if mark != 0xFF or marker in _BARE or size < 2 or end > len(data):
        raise IndexError
    return marker, position + 4, end


def end(data: bytes, scan: int) -> int | None:
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


def whole(data: bytes) -> bool:
    """Tells whether the scans send every coefficient of every component to its last bit.

    A file that is cut between two scans decodes without an error, but blurred or grey. A scan
    says which components and coefficients it sends (Ss, Se) and down to which bit (Al).
    """
    missing = np.full((256, 64), 16, np.uint8)  # by component and coefficient: bits not sent
    components: set[int] = set()
    for marker, start, stop in _segments(data):
        if marker in _FRAMES:
            components |= set(data[start + 6 : stop : 3])
        elif marker == _START_OF_SCAN:
            ids = list(data[start + 1 : stop - 3 : 2])
            first, last, bits = data[stop - 3 : stop]
            missing[ids, first : last + 1] = bits & 15
    return bool(components) and not missing[sorted(components)].any()


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, start and end of its content), from scan to scan, as far as they go."""
    position = 2
    while data[position : position + 2] != END:
        try:
            segment = _segment(data, position)
        except (IndexError, struct.error):
            return
        yield segment
        position = segment[2]
        if segment[0] == _START_OF_SCAN:
            found = _NEXT_MARKER.search(data, position)
            if not found:
                return
            position = found.start()
