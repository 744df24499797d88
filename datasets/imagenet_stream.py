"""The training archive in one pass from front to back: for pipes, network files and old disks.

The records' order is that of a hash of their names, so an image can be laid by, as it comes, in
one of 64 files by the first bits of its hash: each holds a run of the final order, and writing
the shards then reads one such file after the other. It costs the archive's size once more in
the output folder; the records are the same as without.
"""

import contextlib
import hashlib
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from squeezenext import files
from squeezenext.errors import InputError

from . import checksum, commit, imagenet_tar, progress, space
from .listing import Fault, Listing, name_digest
from .options import Options
from .writer import Output

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
        row = {"file": imagenet_tar.TRAIN, "bytes": self.position}
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
        space.check(spool, _needed(path.stat().st_size, options, spool.parent))
    name = "standard input" if str(path) == "-" else str(path)
    if str(path) == "-" and sys.stdin is None:
        raise InputError("--train_tar -: standard input is closed; pipe the archive into it.")
    with contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if str(path) == "-" else stack.enter_context(path.open("rb"))
        stream = Stream(file, name, options.checksum)
        shown = progress.shown("Reading", 0, 0, options.show_progress)
        listed = _lay_by(stream, Path(name), options, faults, spool, stack.enter_context(shown))
        row = stream.finish()
    if options.checksum and not options.partial:
        checksum.compare(Path(name), checksum.OFFICIAL[imagenet_tar.TRAIN], row)
    return listed, row


def _needed(size: int, options: Options, output: Path) -> int:
    """Returns the room for what is laid by and then the shards, but for those that are there."""
    shards = space.reencoded(size, -(-size // _IMAGE_BYTES), options.max_side)
    return size + max(0, shards - space.of_shards(output))


def _lay_by(
    stream: Stream, path: Path, options: Options, faults: list[Fault], spool: Path, advance
) -> Listing:
    ids = imagenet_tar.synset_ids()
    paths = [spool / f"{number:02d}" for number in range(1 << _BUCKET_BITS)]
    rows, names = [], []
    with contextlib.ExitStack() as stack, commit.explained(spool):
        outputs = [stack.enter_context(Output(path)) for path in paths]
        for inner in imagenet_tar.classes(stream, path, ids, faults, None):
            label = ids[imagenet_tar.synset(inner.name)]
            for name, data in _contents(stream, path, inner, faults):
                bucket = name_digest(name, options.seed)[0] >> (8 - _BUCKET_BITS)
                rows.append((bucket, outputs[bucket].position, len(data), label))
                names.append(name)
                outputs[bucket].write(data)
                advance(1, len(data))
        for output in outputs:
            output.finish()
            files.flush(output.path)  # a network file system may say only now that it is full
    return imagenet_tar.train_listing(paths, rows, names, faults, path)


def _contents(stream, path: Path, inner, faults: list[Fault]) -> Iterator[tuple[str, bytes]]:
    for name, offset, size in imagenet_tar.class_images(stream, path, inner, faults):
        data = stream.read_at(offset, size)
        if len(data) != size:
            raise InputError(
                f"{path}: {inner.name} is cut inside its member {name}; download or copy it again."
            )
        yield name, data
