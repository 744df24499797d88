"""What lies in ImageNet's archives, member by member, from a file or a stream."""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from squeezenext import files, labels, progress
from squeezenext.convert import checksums, commit, images, space, tar
from squeezenext.convert.commit import Output
from squeezenext.convert.listing import Fault, Listing, add_all, listing, name_digest, printable
from squeezenext.convert.options import Options
from squeezenext.errors import InputError

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
TWICE = "appears twice"

_INNER = re.compile(r"(?:\./)?(n\d{8})\.tar")
_TRAIN_IMAGE = re.compile(r"(?:\./)?(n\d{8}_\d+\.JPEG)")
_VALIDATION_IMAGE = re.compile(r"(?:\./)?(ILSVRC2012_val_(\d{8})\.JPEG)")

Image = tuple[str, int, int]  # name, offset, size


@contextlib.contextmanager
def opened(path: Path, member: tar.Member | None = None) -> Iterator[tar.Descriptor]:
    """Gives a file, or the part of it that is `member`, to walk by its headers."""
    start, size = (member.offset, member.size) if member else (0, 0)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if hasattr(os, "posix_fadvise"):  # else each header drags 128 KB of image into memory
            os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_RANDOM)
        yield tar.Descriptor(descriptor)
    finally:
        os.close(descriptor)


def synset(member_name: str) -> str:
    """Returns "n01440764" of "./n01440764.tar"."""
    return _INNER.fullmatch(member_name)[1]


def validation_number(name: str) -> int:
    """Returns 17 of "ILSVRC2012_val_00000017.JPEG"."""
    return int(_VALIDATION_IMAGE.fullmatch(name)[2])


def classes(
    source: tar.Source, path: Path, ids: dict[str, int], faults: list[Fault], end: int | None
) -> Iterator[tar.Member]:
    """Yields the archives of the classes in the archive `path`; others are refused by name."""
    seen: set[str] = set()
    for member in _members(source, path, _INNER, "n01440764.tar", end):
        match = _INNER.fullmatch(member.name)
        fault = member.fault or ("" if match else "is no archive of a class")
        if match and not fault:
            fault = "" if match[1] in ids else "is none of the 1000 classes"
            fault = fault or (TWICE if match[1] in seen else "")
        if fault:
            add_all(faults, [Fault(f"{path.name}: {member.name}", fault)])
            continue
        seen.add(match[1])
        yield member


def class_images(
    source: tar.Source, path: Path, inner: tar.Member, faults: list[Fault]
) -> Iterator[Image]:
    """Yields the images of one class's archive, which lies in the archive `path`."""
    seen: set[str] = set()
    end = inner.offset + inner.size
    for member in tar.members(source, f"{path}: {inner.name}", inner.offset, end):
        match = _TRAIN_IMAGE.fullmatch(member.name)
        if fault := _image_fault(member, match, seen):
            add_all(faults, [Fault(f"{inner.name}: {member.name}", fault)])
            continue
        seen.add(match[1])
        yield match[1], member.offset, member.size


def validation_images(
    source: tar.Source, path: Path, last: int, faults: list[Fault]
) -> Iterator[Image]:
    """Yields the images of the flat archive; their numbers are 1..`last`."""
    seen: set[str] = set()
    example = "ILSVRC2012_val_00000001.JPEG"
    for member in _members(source, path, _VALIDATION_IMAGE, example, path.stat().st_size):
        match = _VALIDATION_IMAGE.fullmatch(member.name)
        fault = _image_fault(member, match, seen)
        if not fault and not 1 <= int(match[2]) <= last:
            fault = f"has a number outside 1..{last}"
        if fault:
            add_all(faults, [Fault(f"{path.name}: {member.name}", fault)])
            continue
        seen.add(match[1])
        yield match[1], member.offset, member.size


def _image_fault(member: tar.Member, match: re.Match | None, seen: set[str]) -> str:
    if member.fault or not match:
        return member.fault or "is no image of the data set"
    if member.size > images.MAX_BYTES:
        return f"is larger than {images.MAX_BYTES >> 20} MB"
    return TWICE if match[1] in seen else ""


def _members(
    source: tar.Source, path: Path, pattern: re.Pattern, example: str, end: int | None
) -> Iterator[tar.Member]:
    """Yields the members of an archive, after a look at the first: is it the right one?"""
    for number, member in enumerate(tar.members(source, str(path), 0, end)):
        if number == 0 and not pattern.fullmatch(member.name):
            raise InputError(_wrong(path, member.name, example))
        yield member


def _wrong(path: Path, found: str, example: str) -> str:
    kinds = {TRAIN: _INNER, VALIDATION: _VALIDATION_IMAGE}
    for name, pattern in kinds.items():
        if pattern.fullmatch(found):
            return f"{path} is the wrong archive: its content is that of {name}; rename it."
    return (
        f"{path} is the wrong archive: its first member is {printable(found)}, not one like "
        f"{example}; download {path.name} from image-net.org."
    )


def synset_ids() -> dict[str, int]:
    """Returns the label, 1..1000, of each synset."""
    return {label.synset: number for number, label in enumerate(labels.imagenet(), 1)}


def train_listing(
    files: list[Path], rows: list, names: list[str], faults: list[Fault], path: Path
) -> Listing:
    """Returns the listing without images whose names another class had before."""
    if not rows:
        raise InputError(f"{path} holds no image of ImageNet's 1000 classes; download it again.")
    full = listing(files, rows, names)
    if len(set(names)) == len(names):
        return full
    seen: set[str] = set()
    keep = []
    for place, name in enumerate(names):
        if name in seen:
            add_all(faults, [Fault(name, TWICE)])
        else:
            keep.append(place)
            seen.add(name)
    return full.take(keep)


# The training archive in one pass from front to back: for pipes, network files and old disks.
#
# The records' order is that of a hash of their names, so an image can be laid by, as it comes, in
# one of 64 files by the first bits of its hash: each holds a run of the final order, and writing
# the shards then reads one such file after the other. It costs the archive's size once more in
# the output folder; the records are the same as without.


_BUCKET_BITS = 6
_BLOCK = 1 << 20
_IMAGE_BYTES = 115_440  # of the official archive, 147,897,477,120 bytes of 1,281,167 images


class Stream:
    """An archive that is read from front to back only."""

    def __init__(self, file: BinaryIO, name: str, digest: bool) -> None:
        self._file, self._name, self.position = file, name, 0
        self._digest = hashlib.sha256() if digest else None

    def read_at(self, position: int, size: int) -> bytes:
        while self.position < position:
            if not self._read(min(position - self.position, _BLOCK)):
                break
        return self._read(size)

    def finish(self) -> dict:
        """Reads on to the end (whoever writes must not find the pipe closed) and describes it."""
        while self._read(_BLOCK):
            pass
        row = {"file": TRAIN, "bytes": self.position}
        return row | ({"sha256": self._digest.hexdigest()} if self._digest else {})

    def _read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise InputError(f"{self._name} cannot be read: {error.strerror}.") from error
        self.position += len(data)
        if self._digest:
            self._digest.update(data)
        return data


def is_pipe(path: Path) -> bool:
    """Tells whether `path` is standard input ("-") or cannot seek."""
    try:
        mode = path.stat().st_mode if str(path) != "-" else stat.S_IFIFO
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    except OSError:
        return False


def collect(path: Path, options: Options, faults: list[Fault], spool: Path) -> tuple[Listing, dict]:
    """Lays the images by in `spool`; returns where they are, and what the manifest tells.

    Raises:
      InputError: the archive is cut, damaged or another one.
      RunAgain: the disk is full.
    """
    shutil.rmtree(spool, ignore_errors=True)
    commit.make_folder(spool)
    if path.is_file():
        space.check_room(spool, _needed(path.stat().st_size, options, spool.parent))
    name = "standard input" if str(path) == "-" else str(path)
    if str(path) == "-" and sys.stdin is None:
        raise InputError("--train_tar -: standard input is closed; pipe the archive into it.")
    with contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if str(path) == "-" else stack.enter_context(path.open("rb"))
        stream = Stream(file, name, options.checksum)
        shown = progress.throughput("Reading", 0, 0, options.show_progress)
        listed = _lay_by(stream, Path(name), options, faults, spool, stack.enter_context(shown))
        row = stream.finish()
    if options.checksum and not options.partial:
        checksums.compare(Path(name), checksums.OFFICIAL[TRAIN], row)
    return listed, row


def _needed(size: int, options: Options, output: Path) -> int:
    """Returns the room for what is laid by and then the shards, but for those that are there."""
    shards = space.reencoded(size, -(-size // _IMAGE_BYTES), options.max_side)
    return size + max(0, shards - space.of_shards(output))


def _lay_by(
    stream: Stream, path: Path, options: Options, faults: list[Fault], spool: Path, advance
) -> Listing:
    ids = synset_ids()
    paths = [spool / f"{number:02d}" for number in range(1 << _BUCKET_BITS)]
    rows, names = [], []
    with contextlib.ExitStack() as stack, commit.explained(spool):
        outputs = [stack.enter_context(Output(path)) for path in paths]
        for inner in classes(stream, path, ids, faults, None):
            label = ids[synset(inner.name)]
            for name, data in _contents(stream, path, inner, faults):
                bucket = name_digest(name, options.seed)[0] >> (8 - _BUCKET_BITS)
                rows.append((bucket, outputs[bucket].position, len(data), label))
                names.append(name)
                outputs[bucket].write(data)
                advance(1, len(data))
        for output in outputs:
            output.finish()
            files.flush(output.path)  # a network file system may say only now that it is full
    return train_listing(paths, rows, names, faults, path)


def _contents(stream, path: Path, inner, faults: list[Fault]) -> Iterator[tuple[str, bytes]]:
    for name, offset, size in class_images(stream, path, inner, faults):
        data = stream.read_at(offset, size)
        if len(data) != size:
            raise InputError(
                f"{path}: {inner.name} is cut inside its member {name}; download or copy it again."
            )
        yield name, data
