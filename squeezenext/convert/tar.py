"""Walks a tar archive by its 512-byte headers; nothing is extracted.

Python's tarfile trusts sizes before it checks them and takes some 60 microseconds a member. The
archives here are untrusted: every number is bounded before it is used, and members that are no
plain files are marked, so that the caller can reject them by name.
"""

import hashlib
import lzma
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from squeezenext.cli import printable
from squeezenext.errors import InputError

BLOCK = 512
_CHUNK = 1 << 20
_HEADER = struct.Struct("100s24x12s12x8sc")  # name, size, checksum, kind
_OCTAL = re.compile(rb"[\0 ]*([0-7]*)[\0 ]*")
MAX_EXTENSION_BYTES = 64 << 10  # a PAX or long-name header; names are at most 4096 bytes
# Added to archives by macOS: a file's attributes beside the file, and the Finder's settings.
_APPLE = re.compile(r"(?:^|/)(?:\._[^/]*|\.DS_Store)$|^__MACOSX/")
MAX_MEMBERS = 2_000_000  # one archive of ILSVRC2012 has at most 544,546 (the boxes)

_FILE, _DIRECTORY, _NO_DATA = b"0\x007", b"5", b"123456"
_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"5": "a folder"}
_HARMLESS_PAX = ("mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment", "path")


class Member(NamedTuple):
    """An entry of an archive; `fault` is the reason why it is no plain file, or ""."""

    name: str
    offset: int
    size: int
    fault: str


class Stream:
    """A file that is read from front to back only: a pipe, or a compressed one."""

    def __init__(self, file: BinaryIO, name: str, digest: "hashlib._Hash | None" = None) -> None:
        self._file, self._name = file, name
        self.position, self.digest = 0, digest  # both count the bytes read so far

    def read_at(self, position: int, size: int) -> bytes:
        """Returns the bytes at a position, which must not lie before the last one read."""
        while self.position < position:
            if not self._read(min(position - self.position, _CHUNK)):
                break
        return self._read(size)

    def read_to_end(self, limit: int | None = None) -> None:
        """Reads to the end, where gzip has its checksum, and as the writer of a pipe expects.

        Raises:
          InputError: the end is more than `limit` bytes away, or cannot be read.
        """
        start = self.position
        while self._read(_CHUNK):
            if limit is not None and self.position - start > limit:
                raise InputError(f"{self._name} goes on behind its end mark; download it again.")

    def _read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            if reason := getattr(error, "strerror", None):
                raise InputError(f"{self._name} cannot be read: {reason}.") from error
            raise InputError(
                f"{self._name} is damaged or cut ({error}); download or copy it again."
            ) from error
        self.position += len(data)
        if self.digest:
            self.digest.update(data)
        return data


# Returns `size` bytes at a position, fewer at the end; positions only grow.
ReadAt = Callable[[int, int], bytes]


def members(read_at: ReadAt, name: str, start: int = 0, end: int | None = None) -> Iterator[Member]:
    """Yields the entries of an archive.

    Args:
      read_at: reads the file.
      name: the archive's name, for messages.
      start: position of the archive's first byte.
      end: position after its last byte, None if unknown (a compressed stream).

    Raises:
      InputError: it is no archive, damaged, cut, or malicious; the last member is named.
    """
    position, last, extended = start, "its start", ""
    for _ in range(MAX_MEMBERS):
        block = read_at(position, BLOCK)
        if len(block) < BLOCK or (end is not None and position + BLOCK > end):
            raise _damaged(name, f"is cut after {last}: it ends without an end mark")
        if not block.strip(b"\0"):
            return
        field, digits, checksum, kind = _HEADER.unpack_from(block)
        if not _checksum_fits(block, checksum):
            fault = "is no tar archive" if position == start else f"is damaged after {last}"
            raise _damaged(name, fault)
        member = extended or _name(field, block)
        declared = _size(digits, member, name)
        size = 0 if kind in _NO_DATA else declared
        offset = position + BLOCK
        position = offset + -(-size // BLOCK) * BLOCK
        if end is not None and offset + size > end:
            raise _damaged(name, f"is cut inside its member {member}")
        if kind in b"xgLK":
            extended = _extension(read_at, offset, declared, kind, name) or extended
        else:
            last, extended = member, ""
            if kind != _DIRECTORY and not _APPLE.search(member):
                fault = f"is {_KINDS.get(kind, 'a device or another special entry')}"
                yield Member(member, offset, size, "" if kind in _FILE else fault)
    raise _damaged(name, f"has more than {MAX_MEMBERS} members")


def _damaged(name: str, fault: str) -> InputError:
    return InputError(printable(f"{name} {fault}; download or copy it again."))


def _checksum_fits(block: bytes, checksum: bytes) -> bool:
    """Compares the checksum: the sum of the header with spaces for the checksum's own bytes.

    The low half of Adler-32 is that sum plus one, modulo 65,521, and takes a tenth of the time.
    """
    try:
        stated = int(checksum.strip(b"\0 ") or b"x", 8)
    except ValueError:
        return False
    total = (zlib.adler32(block) & 0xFFFF) - 1
    return (stated - total + sum(checksum) - 8 * 0x20) % 65_521 == 0 <= stated < BLOCK << 8


def _size(digits: bytes, member: str, name: str) -> int:
    """Returns an octal number; the base-256 form, for files above 8 GB, is an error.

    So is a sign, which int() accepts: reading -1 bytes would read everything.
    """
    match = _OCTAL.fullmatch(digits)
    if not match:
        raise _damaged(name, f"declares no proper size for {member}")
    return int(match[1] or b"0", 8)


def _name(field: bytes, block: bytes) -> str:
    name = field.split(b"\0", 1)[0]
    if block[345] and block[257:263] == b"ustar\0":
        name = block[345:500].split(b"\0")[0] + b"/" + name
    return name.decode("utf-8", "backslashreplace")


def _extension(read_at: ReadAt, offset: int, size: int, kind: bytes, name: str) -> str:
    """Returns the next member's name from a PAX ("x", "g") or GNU ("L") header, "" if none."""
    if size > MAX_EXTENSION_BYTES:
        raise _damaged(name, f"has an extension header of {size} bytes")
    data = read_at(offset, size)
    if kind == b"L":
        return data.split(b"\0")[0].decode("utf-8", "backslashreplace")
    if kind == b"K":  # a long link name: links are rejected anyway
        return ""
    records = dict(_pax(data, name))
    for key in records:
        if key not in _HARMLESS_PAX and not key.startswith(("SCHILY.", "LIBARCHIVE.")):
            raise _damaged(name, f"has a PAX header that sets {key!r}, which is refused")
    return records.get("path", "") if kind == b"x" else ""


def _pax(data: bytes, name: str) -> Iterator[tuple[str, str]]:
    r"""Yields the (key, value) pairs of "<length> <key>=<value>\n" records."""
    while data.strip(b"\0"):
        digits, _, rest = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        key, equals, value = rest[: length - len(digits) - 1].partition(b"=")
        if length < 5 or length > len(data) or not equals:
            raise _damaged(name, "has a damaged PAX header")
        yield key.decode("utf-8", "replace"), value[:-1].decode("utf-8", "backslashreplace")
        data = data[length:]
