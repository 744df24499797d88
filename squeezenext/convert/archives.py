"""Zip and tar archives of photographs as trees of folders, read in place; nothing is extracted.

An archive is untrusted: the number of its entries is bounded, members that are no plain files are
marked with a fault, and a photograph is later read, and inflated, only up to the size listed here.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from squeezenext import files
from squeezenext.cli import size_text
from squeezenext.convert import commit, tar
from squeezenext.convert.listing import Fault, Watch, add_faults, unpacked
from squeezenext.errors import InputError
from squeezenext.images import decoding
from squeezenext.images.jpeg import ImageError

# First bytes: PKWARE's APPNOTE 4.3, RFC 1952, and the formats of bzip2, xz, 7-Zip and RAR.
_ZIP = (b"PK\3\4", b"PK\5\6")
_COMPRESSED: dict[bytes, Callable] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_OTHERS = {b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive", b"Rar!": "a RAR archive"}
_TAR_MARK = slice(257, 262)  # "ustar", POSIX.1-1988

_MAX_DIRECTORY = 64 << 20  # bytes of a zip's list of entries, 46 and the name each
_MAX_ENTRIES = 500_000  # files and folders; 900,000 took 991 MB of memory
_MAX_DEPTH = 32  # folders above a file
# Photographs hardly shrink, a drawing as BMP to a fiftieth; a bomb of deflated zeros has 1,032.
_MAX_RATIO, _SMALL = 100, 256 << 20
_CHUNK = 1 << 20
_LOCAL = struct.Struct("<4s22xHH")  # A zip's member: its mark, lengths of name and extra field.
_ENCRYPTED, _UTF8, _UNIX = 1, 1 << 11, 3  # two flags and a system of a zip's member


class Part(NamedTuple):
    """The place of a file in an archive, as the columns of `listing.ROW`; why it cannot be used."""

    offset: int
    size: int
    packed: int = 0
    crc: int = -1
    fault: str = ""


_FOLDER, _ABSENT = Part(0, 0), Part(0, 0)
_NONE: dict = {}  # All files share it.


class Entry:
    """A file or folder in an archive, with the part of `pathlib.Path` that a walk uses."""

    __slots__ = ("_above", "_children", "name", "part")

    def __init__(self, name: str, above: "Entry | None" = None, part: Part = _FOLDER) -> None:
        self.name, self.part, self._above = name, part, above
        self._children: dict[str, Entry] = {} if part is _FOLDER else _NONE

    def __str__(self) -> str:
        return f"{self._above}/{self.name}" if self._above else self.name

    def __lt__(self, other: "Entry") -> bool:
        return self.name < other.name

    def __truediv__(self, name: str) -> "Entry":
        found: Entry | None = self
        for each in name.split("/"):
            found = found.child(each) if found and each != "." else found
        return found or Entry(name, self, _ABSENT)

    @property
    def parent(self) -> "Entry":
        """The folder that this lies in."""
        return self._above or self

    @property
    def suffix(self) -> str:
        """The ending of the name, such as ".jpg"."""
        return PurePosixPath(self.name).suffix

    def is_dir(self) -> bool:
        """Returns whether this is a folder."""
        return self.part is _FOLDER

    def is_file(self) -> bool:
        """Returns whether this is a file that is there."""
        return self.part is not _FOLDER and self.part is not _ABSENT

    def is_symlink(self) -> bool:
        """Returns False: a link is a file with a fault."""
        return False

    def iterdir(self) -> Iterator["Entry"]:
        """Returns the entries of a folder."""
        return iter(self._children.values())

    def child(self, name: str) -> "Entry | None":
        """Returns the entry of this name in a folder, None if there is none."""
        return self._children.get(name)

    def read_bytes(self) -> bytes:
        """Returns the content of a file.

        Raises:
          InputError: it cannot be used, or is damaged.
        """
        try:
            return self._read(self.part)
        except ImageError as error:
            raise InputError(f"{self} {error}.") from error

    def _read(self, part: Part) -> bytes:
        return self.parent._read(part)

    def add(self, name: str, part: Part) -> "Entry":
        """Returns a new entry of a folder."""
        self._children[name] = Entry(name, self, part)
        return self._children[name]


class Archive(Entry):
    """An archive's topmost folder.

    Attributes:
      path: the archive.
      held: the file that holds the bytes of its members: the archive, or its inflated copy.
      watch: the archive's size and time before it was read.
      faults: members whose names have no place in the tree.
    """

    def __init__(self, path: Path, held: Path, watch: Watch) -> None:
        super().__init__(str(path))
        self.path, self.held, self.watch = path, held, watch
        self.faults: list[Fault] = []
        self._entries = 0

    def place(self, name: str, part: Part) -> None:
        """Adds a file by its whole name, but for what systems leave in archives.

        A name that ends in a slash is that of a folder, which needs no entry.

        Raises:
          InputError: there are too many files.
        """
        parts = name.replace("\\", "/").split("/")
        inner = [each for each in parts if each not in ("", ".")]
        if not parts[-1]:
            return
        if ".." in inner or not parts[0] or re.match("[A-Za-z]:$", parts[0]):
            self._refuse(name, "has a name that leads out of the archive")
        elif len(inner) > _MAX_DEPTH:
            self._refuse(name, f"lies more than {_MAX_DEPTH} folders deep")
        elif not any(map(files.is_leftover, inner)):
            self._place(name, inner, part)

    def _read(self, part: Part) -> bytes:
        if part.fault:
            raise ImageError(part.fault)
        with files.open_file(self.held) as file:
            data = files.pread(file.fileno(), part.packed or part.size, part.offset)
        return unpacked(data, part.size, part.packed, part.crc)

    def _place(self, name: str, inner: list[str], part: Part) -> None:
        folder: Entry = self
        for each in inner[:-1]:
            if not (found := folder.child(each)):
                self._count()
                found = folder.add(each, _FOLDER)
            if not found.is_dir():
                return self._refuse(name, f"lies in {each}, which is a file")
            folder = found
        if folder.child(inner[-1]):
            return self._refuse(name, "appears twice")
        self._count()
        folder.add(inner[-1], part)

    def _refuse(self, name: str, reason: str) -> None:
        add_faults(self.faults, [Fault(f"{self.path.name}: {name}", reason)])

    def _count(self) -> None:
        self._entries += 1
        if self._entries > _MAX_ENTRIES:
            raise InputError(
                f"{self.path} has more than {_MAX_ENTRIES:,} files and folders; unpack it, and "
                "give the folder."
            )


def kind(path: Path) -> str:
    """Returns the kind of an archive by its first bytes: "zip", "tar" or "compressed".

    Raises:
      InputError: it is none.
    """
    with files.open_file(path) as file:
        head = file.read(tar.BLOCK)
    if head.startswith(_ZIP):
        return "zip"
    if head[_TAR_MARK] == b"ustar":
        return "tar"
    if any(map(head.startswith, _COMPRESSED)):
        return "compressed"
    what = next((each for mark, each in _OTHERS.items() if head.startswith(mark)), "no zip or tar")
    raise InputError(
        f"{path} is {what}; give a folder with a folder per class, or a zip or tar of it."
    )


def tree(path: Path, spool: Path) -> Archive:
    """Lists an archive.

    Args:
      path: a zip or a tar, which may be compressed.
      spool: the folder for the inflated copy of a compressed tar, which cannot be read in place.

    Raises:
      InputError: it is no archive, damaged, or hostile.
      RunAgain: the disk is full.
    """
    watch = Watch()
    size = watch.size(path)
    found = kind(path)
    if found == "zip":
        return _of_zip(Archive(path, path, watch), size)
    held = path if found == "tar" else _inflated(path, size, spool)
    return _of_tar(Archive(path, held, watch))


def _of_tar(archive: Archive) -> Archive:
    with files.open_file(archive.held) as file:
        end = os.fstat(file.fileno()).st_size
        read_at = lambda position, size: files.pread(file.fileno(), size, position)  # noqa: E731
        for member in tar.members(read_at, str(archive.path), 0, end):
            fault = member.fault or _too_large(member.size)
            archive.place(member.name, Part(member.offset, member.size, fault=fault))
    return archive


def _too_large(size: int) -> str:
    large = size > decoding.MAX_BYTES
    return f"is larger than {decoding.MAX_BYTES >> 20} MB" if large else ""


def _inflated(path: Path, size: int, spool: Path) -> Path:
    """Writes the tar in a compressed file into `spool`; returns its path."""
    with files.open_file(path) as file:
        head = file.read(8)
    opened = next(each for mark, each in _COMPRESSED.items() if head.startswith(mark))
    commit.make_folder(spool)
    with commit.explained(spool), commit.Output(spool / "archive.tar") as output:
        with opened(path, "rb") as file:
            stream = tar.Stream(file, str(path))
            while data := stream.read_at(stream.position, _CHUNK):
                output.write(data)
                _check_ratio(path, stream.position, size)
        output.finish()
    return output.path


def _check_ratio(path: Path, size: int, packed: int) -> None:
    """Raises InputError for an archive that inflates as no photographs do."""
    if size > _SMALL + _MAX_RATIO * packed:
        raise InputError(
            f"{path} inflates to more than {_MAX_RATIO} times its {size_text(packed)}, as no "
            "photographs do; unpack it, look at it, and give the folder."
        )


class _Bounded(io.FileIO):
    """A file of which no more is read at once than a zip's list of entries may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:  # the end, where zipfile looks for the list
            size = _MAX_DIRECTORY
        elif size > _MAX_DIRECTORY:
            raise zipfile.BadZipFile("its list of files is too large")
        return super().read(size)


def _of_zip(archive: Archive, size: int) -> Archive:
    path, last = archive.path, 0
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as found:
            members = sorted(found.infolist(), key=lambda member: member.header_offset)
    # For damage zipfile also raises struct's error, and errors of dates and of names.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as e:
        raise InputError(f"{path} is damaged or cut short ({e}); download or copy it again.") from e
    _check_ratio(path, sum(each.file_size for each in members if not _zip_fault(each)), size)
    with files.open_file(path) as file:
        for member in members:
            head = files.pread(file.fileno(), _LOCAL.size, max(0, member.header_offset))
            mark, name, extra = _LOCAL.unpack(head.ljust(_LOCAL.size, b"\0"))
            offset = member.header_offset + _LOCAL.size + name + extra
            if (
                mark != _ZIP[0]
                or member.header_offset < last
                or offset + member.compress_size > size
            ):
                raise InputError(
                    f"{path} is damaged: its list of files does not fit its content; download or "
                    "copy it again."
                )
            last = offset + member.compress_size
            archive.place(_name(member), _part(member, offset))
    return archive


def _part(member: zipfile.ZipInfo, offset: int) -> Part:
    size, packed = member.file_size, member.compress_size
    stored = member.compress_type == zipfile.ZIP_STORED
    return Part(offset, size, 0 if stored else packed, member.CRC, _zip_fault(member))


def _zip_fault(member: zipfile.ZipInfo) -> str:
    """Returns why a member of a zip cannot be used, or ""."""
    form = stat.S_IFMT(member.external_attr >> 16) if member.create_system == _UNIX else 0
    size, packed, method = member.file_size, member.compress_size, member.compress_type
    if form == stat.S_IFLNK:
        return "is a symbolic link"
    if form not in (0, stat.S_IFREG):
        return "is a device or another special entry"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted; unpack the archive with its password, and give the folder"
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {method}, not by deflate; unpack the archive"
    # Deflate adds 5 bytes to each block of 64 kB, in some programs of 8 kB, that does not shrink.
    if packed > size + (size >> 8) + 128 or method == zipfile.ZIP_STORED and packed != size:
        return f"is damaged: {packed} bytes cannot be the packed form of {size}"
    return _too_large(size)


def _name(member: zipfile.ZipInfo) -> str:
    """Returns a member's name. macOS writes UTF-8 without the flag that says so."""
    if not member.flag_bits & _UTF8:
        with contextlib.suppress(UnicodeError):
            return member.filename.encode("cp437").decode("utf-8")
    return member.filename
