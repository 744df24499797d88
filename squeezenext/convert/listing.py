"""What a source holds: which bytes of which file are an example of which class."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from squeezenext import labels
from squeezenext.convert import images
from squeezenext.errors import InputError

# 28 bytes an example: the million examples of ImageNet stay far below a gigabyte.
_MAX_FAULTS = 100_000
_NO_TEXT = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
ROW = np.dtype([("file", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("label", "<i4")])


@dataclasses.dataclass(frozen=True)
class Fault:
    """A file that was refused, or changed, and why; a name cannot forge lines of a report."""

    file: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", printable(self.file))
        object.__setattr__(self, "reason", printable(self.reason))


@dataclasses.dataclass(frozen=True)
class Listing:
    """The examples of a split.

    `table`: [n] of ROW, `file` counting in `files`; `names`: what `image/filename` says,
    each once; `boxes`: for an example that has some, its [k, 4] float32 xmin, ymin, xmax,
    ymax, as bytes.
    """

    files: tuple[Path, ...]
    table: np.ndarray
    names: list[str]
    boxes: dict[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return int(self.table["size"].sum())

    def take(self, order: np.ndarray) -> "Listing":
        """Returns the examples at the places `order`, with only the files they need."""
        table = self.table[order]
        used, table["file"] = np.unique(table["file"], return_inverse=True)
        names = [self.names[place] for place in order]
        boxes = {name: self.boxes[name] for name in names if name in self.boxes}
        return Listing(tuple(self.files[place] for place in used), table, names, boxes)


class Watch:
    """Files that must not change while they are converted: their sizes and times when listed."""

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._digest = hashlib.sha256()

    def size(self, path: Path) -> int:
        """Adds a file before it is read; returns its size. Raises OSError."""
        found = path.stat()
        self.add(path, found.st_size, found.st_mtime_ns)
        return found.st_size

    def add(self, path: Path, size: int, time: int) -> None:
        """Adds a file that had this size and `st_mtime_ns`."""
        self._files.append(path)
        self._digest.update(_state(size, time))

    @property
    def digest(self) -> str:
        """Of all sizes and times as they were added: what an edit would change."""
        return self._digest.hexdigest()

    def changed(self) -> bool:
        """Tells whether a size or time is another one now.

        Raises:
          InputError: a file is gone.
        """
        digest = hashlib.sha256()
        for path in self._files:
            try:
                found = os.stat(path)
            except OSError as error:
                raise InputError(
                    f"{path} is gone ({error.strerror}); run the command again."
                ) from error
            digest.update(_state(found.st_size, found.st_mtime_ns))
        return digest.hexdigest() != self.digest


def _state(size: int, time: int) -> bytes:
    return f"{size} {time}\n".encode()


@dataclasses.dataclass(frozen=True)
class Collection:
    """A whole source: classes, splits, what was refused on the way, and where it is from.

    `watch`: the files that all is read from, those of the listing itself included.
    """

    classes: tuple[labels.Label, ...]
    splits: dict[str, Listing]
    rejected: tuple[Fault, ...]
    source: tuple[dict, ...]
    watch: Watch
    warnings: tuple[str, ...] = ()


def listing(files: Iterable[Path], rows: list[tuple[int, int, int, int]], names: list[str]):
    """Returns a Listing of (file, offset, size, label) rows."""
    return Listing(tuple(files), np.array(rows, ROW), names)


def printable(text: str) -> str:
    """Returns the text with line ends, escapes and the like written as \\n, \\x1b."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def add_all(faults: list[Fault], more: Iterable[Fault]) -> None:
    """Adds faults; a source of nothing but faults must not fill the memory with them.

    Raises:
      InputError: there are more than 100,000.
    """
    faults.extend(more)
    if len(faults) > _MAX_FAULTS:
        raise InputError(
            f"{faults[-1].file} {faults[-1].reason}, like {_MAX_FAULTS} files before it; is this "
            "the right source?"
        )


def is_text(name: str) -> bool:
    """Tells whether a name has no control character, line end or half of a character.

    Other spaces than " " will do: macOS puts one (U+202F) into the names of screenshots.
    """
    return not _NO_TEXT.search(name)


def check_name(name: str, source: Path) -> None:
    """Refuses a file or class name that no CSV or JSON file could carry.

    Raises:
      InputError: it has control characters, or is not UTF-8 (which shows as surrogates).
    """
    if not is_text(name):
        raise InputError(f"{ascii(name)} in {source} has a name that is no text; rename it.")


def shuffled(names: list[str], seed: int) -> np.ndarray:
    """Returns the seeded order of `names` as places: int64 [n].

    Sorted by a keyed hash: the same on every version of numpy, whatever order the source
    came in, and the rest keeps its order when some names are left out.
    """
    digests = [name_digest(name, seed) for name in names]
    return np.array(sorted(range(len(names)), key=digests.__getitem__), np.int64)


def name_digest(name: str, seed: int) -> bytes:
    """Returns what the order of examples is sorted by."""
    key = seed.to_bytes(8, "little", signed=True)
    return hashlib.blake2b(name.encode(), digest_size=16, key=key).digest()


def parts(examples: int, shards: int) -> list[slice]:
    """Cuts `examples` into `shards` runs whose lengths differ by one at most."""
    bounds = [number * examples // shards for number in range(shards + 1)]
    return [slice(*pair) for pair in zip(bounds, bounds[1:], strict=False)]


# Reads the bytes of examples out of the files that a listing names.


class SourceReader:
    """Reads examples' bytes; the last file stays open, since an archive holds many."""

    def __init__(self, listing: Listing) -> None:
        self._files = listing.files
        self._rows = listing.table[["file", "offset", "size"]].tolist()  # numpy's cost 5 us each
        self._file = self._descriptor = -1

    def read(self, place: int) -> bytes:
        """Returns the bytes of the example at `place`.

        Raises:
          ImageError: they are too many.
          InputError: the file is gone, or shorter than when it was listed.
        """
        file, offset, size = self._rows[place]
        if size > images.MAX_BYTES:
            raise images.ImageError(f"is larger than {images.MAX_BYTES >> 20} MB")
        try:
            if file != self._file:
                self._open(file)
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise InputError(
                f"{self._files[file]} cannot be read ({error.strerror}); mend that and run the "
                "command again."
            ) from error
        if len(data) != size:
            raise InputError(
                f"{self._files[file]} became shorter while it was read; run the command again."
            )
        return data

    def _open(self, file: int) -> None:
        self.close()
        self._descriptor = os.open(self._files[file], os.O_RDONLY | os.O_CLOEXEC)
        self._file = file

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._file = self._descriptor = -1
