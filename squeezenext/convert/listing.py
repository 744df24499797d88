"""Lists what a source holds: which bytes of which file are an example of which class."""

import dataclasses
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from squeezenext import labels
from squeezenext.cli import plural, printable
from squeezenext.convert.options import ConvertOptions
from squeezenext.errors import InputError
from squeezenext.images.jpeg import ImageError
from squeezenext.network import known

T = TypeVar("T")
_MAX_FAULTS = 100_000
# Names, in lower case, of classes whose photographs show none of the other classes.
_NONE = frozenset({"none", "other", "background"})
# 40 bytes an example: the million examples of ImageNet stay far below a gigabyte.
_PLAIN = [("file", "<i4"), ("offset", "<i8"), ("size", "<i8"), ("label", "<i4")]
# For a zip's member `packed` is its size in the zip if it is deflated, else 0, and `crc` is the
# CRC-32 of its content. For other examples they are 0 and -1.
ROW = np.dtype([*_PLAIN, ("packed", "<i8"), ("crc", "<i8")])


@dataclasses.dataclass(frozen=True)
class Fault:
    """A file that was rejected or re-encoded, and why; printable, so that no name forges a line."""

    file: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", printable(self.file))
        object.__setattr__(self, "reason", printable(self.reason))


def add_faults(faults: list[Fault], more: Iterable[Fault]) -> None:
    """Extends a list of faults; InputError above 100,000, which would only fill the memory."""
    faults.extend(more)
    if len(faults) > _MAX_FAULTS:
        raise InputError(
            f"{faults[-1].file} {faults[-1].reason}, like {_MAX_FAULTS} files before it; is this "
            "the right source?"
        )


@dataclasses.dataclass(frozen=True)
class Listing:
    """The examples of a split."""

    files: tuple[Path, ...]
    table: np.ndarray  # [examples] of `ROW`; its `file` is an index into `files`
    names: list[str]  # each record's `image/filename`, without duplicates
    # Bounding boxes by name: the bytes of [boxes, 4] float32 xmin, ymin, xmax, ymax.
    boxes: dict[str, bytes] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_rows(
        cls, files: Iterable[Path], rows: list[tuple[int, int, int, int]], names: list[str]
    ) -> "Listing":
        """Returns the listing of (file, offset, size, label) rows."""
        table = np.zeros(len(rows), ROW)
        table["crc"] = -1
        table[[name for name, _ in _PLAIN]] = np.array(rows, _PLAIN)
        return cls(tuple(files), table, names)

    @property
    def bytes(self) -> int:
        """The size of all images together."""
        return int(self.table["size"].sum())

    def take(self, order: np.ndarray) -> "Listing":
        """Returns the examples with the indices `order`, and only the files that they need."""
        table = self.table[order]
        used, table["file"] = np.unique(table["file"], return_inverse=True)
        names = [self.names[index] for index in order]
        boxes = {name: self.boxes[name] for name in names if name in self.boxes}
        return Listing(tuple(self.files[index] for index in used), table, names, boxes)


class Watch:
    """Sizes and modification times of source files, which must not change during a conversion."""

    def __init__(self) -> None:
        self._files: list[Path] = []
        self._newest: tuple[int, Path | None] = (0, None)
        self._state = hashlib.sha256()

    def size(self, path: Path) -> int:
        """Adds a file before it is read; returns its size. Raises OSError."""
        status = path.stat()
        self.add(path, status.st_size, status.st_mtime_ns)
        return status.st_size

    def add(self, path: Path, size: int, time: int) -> None:
        """Adds a file by its size and `st_mtime_ns`."""
        self._files.append(path)
        self._newest = max(self._newest, (time, path), key=lambda newest: newest[0])
        self._state.update(f"{size} {time}\n".encode())

    def changed_since(self, time: int) -> Path | None:
        """Returns the newest file if it changed after a time as of `st_mtime_ns`, else None."""
        return self._newest[1] if self._newest[0] > time else None

    @property
    def digest(self) -> str:
        """The digest of all sizes and times at the time of adding."""
        return self._state.hexdigest()

    def changed(self) -> bool:
        """Returns whether any size or time differs now; InputError if a file is gone."""
        now = Watch()
        for path in self._files:
            try:
                now.size(path)
            except OSError as error:
                raise InputError(
                    f"{path} is gone ({error.strerror}); run the command again."
                ) from error
        return now.digest != self.digest


def unpacked(data: bytes, size: int, packed: int, crc: int) -> bytes:
    """Returns an image from the bytes at its offset; the other arguments are `ROW`'s columns.

    Raises:
      ImageError: it is not what the archive states.
    """
    if crc < 0:
        return data
    try:
        if packed:  # one byte more would show that the size is a lie
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except zlib.error as error:
        raise ImageError(f"is damaged in the archive ({error})") from error
    if len(data) != size or zlib.crc32(data) != crc:
        raise ImageError("is damaged: the archive states another size or checksum")
    return data


@dataclasses.dataclass(frozen=True)
class Collection:
    """A whole source."""

    classes: tuple[labels.Label, ...]  # the classes of label 1, 2, ...
    splits: dict[str, Listing]
    rejected: tuple[Fault, ...]  # while listing
    source: tuple[dict, ...]  # the manifest's description of the source files
    watch: Watch  # the state of all files that are read, lists included
    warnings: tuple[str, ...] = ()  # sentences for the manifest and the user
    notes: tuple[str, ...] = ()  # sentences that report, and warn of nothing
    upright: bool = False  # shards of images that were turned upright
    none: int = 0  # number of photographs that were left out because they are of no class


def sorted_splits(splits: dict[str, T]) -> dict[str, T]:
    """Returns the splits in the order of the manifest: training, validation, test."""
    return {name: splits[name] for name in ("train", "validation", "test") if name in splits}


def is_none(label: labels.Label) -> bool:
    """Returns whether a class is named none, other or background."""
    return label.synset.strip().casefold() in _NONE


def numbers_of_none(classes: Sequence[labels.Label]) -> list[int]:
    """Returns the numbers, from 1, of the classes `is_none`; [] if fewer than two others are left.

    A classifier needs two classes: where there are only cat and other, both stay.
    """
    found = [number for number, label in enumerate(classes, 1) if is_none(label)]
    return found if len(classes) - len(found) > 1 else []


def parted(collection: Collection, options: ConvertOptions) -> Collection:
    """Returns a collection, which has its splits already, as `options.none` says.

    "left out" removes the photographs of the classes `numbers_of_none`; "alone" keeps only them.
    """
    none = numbers_of_none(collection.classes) if options.none != "a class" else []
    if not none:
        return _noted(collection, _kept_as_classes(collection, options))
    alone = _of_classes(collection, none)
    if options.none == "alone":
        return dataclasses.replace(alone, rejected=(), warnings=(), notes=())
    others = [n for n in range(1, len(collection.classes) + 1) if n not in none]
    rest = _of_classes(collection, others)
    counts = {name: len(listing.names) for name, listing in alone.splits.items()}
    count, names = sum(counts.values()), [label.synset for label in alone.classes]
    of_none = f"The {plural(count, 'photograph')} of {' and '.join(names)}"
    held_out = len(rest.splits["validation"].names) if "validation" in rest.splits else 0
    if held_out < known.LEAST:
        sentence = (
            f"{of_none} will have no effect until {known.LEAST} photographs of the classes are "
            f"held out, and {held_out} {'is' if held_out == 1 else 'are'}; no class is made of "
            "them."
        )
    else:
        sentence = (
            f"{of_none} will teach what is unknown, {count - counts.get('train', 0)} of them held "
            "out; no class is made of them."
        )
    return dataclasses.replace(_noted(rest, [sentence]), none=count)


def _kept_as_classes(collection: Collection, options: ConvertOptions) -> list[str]:
    """Returns a sentence if a class `is_none`, but `options.none` would have left it out."""
    names = [label.synset for label in collection.classes if is_none(label)]
    if options.none != "left out" or len(names) != 1:
        return []
    return [f"{names[0]} is a class here, since only one class lies beside it."]


def _noted(collection: Collection, sentences: Sequence[str]) -> Collection:
    notes = (*collection.notes, *map(printable, sentences))
    return dataclasses.replace(collection, notes=notes)


def _of_classes(collection: Collection, numbers: list[int]) -> Collection:
    """Returns the photographs of some classes; a split that has none of them is left out."""
    renumbered = np.zeros(len(collection.classes) + 1, np.int32)
    renumbered[numbers] = range(1, len(numbers) + 1)
    splits = {}
    for name, listing in collection.splits.items():
        table = listing.table.copy()
        table["label"] = renumbered[table["label"]]
        if len(order := np.flatnonzero(table["label"])):
            splits[name] = dataclasses.replace(listing, table=table).take(order)
    classes = tuple(collection.classes[number - 1] for number in numbers)
    return dataclasses.replace(collection, classes=classes, splits=splits)


def name_fault(name: str) -> str:
    """Returns what is wrong with a name that is no text, "" for a text."""
    if not (found := labels.NO_TEXT.search(name)):
        return ""
    if "\ud800" <= found[0]:  # Python's stand-in for a byte
        return f"has a name that is not UTF-8 (the byte \\x{ord(found[0]) & 0xFF:02x}); rename it"
    return f"has the control character {printable(found[0])} in its name; rename it"


def check_name(name: str, source: Path | str) -> None:
    """Raises InputError if the name of a class in `source` is no text."""
    if fault := name_fault(name):
        raise InputError(f"The class {printable(name)} in {source} {fault}.")


def random_order(names: list[str], seed: int) -> np.ndarray:
    """Returns the random order in which examples are stored: int64 [examples] indices into `names`.

    It is that of a keyed hash of each name: the same on every version of numpy, independent of the
    order of the source, and it survives the removal of some names. (The order of an epoch is
    another one: `order` in squeezenext/records/batches.py.)
    """
    digests = [order_key(name, seed) for name in names]
    return np.array(sorted(range(len(names)), key=digests.__getitem__), np.int64)


def order_key(name: str, seed: int) -> bytes:
    """Returns the 16 bytes by which `random_order` sorts an example."""
    key = seed.to_bytes(8, "little", signed=True)
    return hashlib.blake2b(name.encode(), digest_size=16, key=key).digest()


def with_validation(
    splits: dict[str, Listing],
    options: ConvertOptions,
    groups: np.ndarray | None = None,
    sides: np.ndarray | None = None,
) -> dict[str, Listing]:
    """Splits off a fraction of each class of "train" if there is no validation split.

    That is at least one image, and at most all but one: a single image stays in training, and so
    does a group that holds the only images of another class.

    Args:
      splits: the listings by split.
      options: the fraction and the seed.
      groups: int64 [examples] of "train"; examples of one number stay in one split. Default: each
        is a group of its own.
      sides: int64 [examples] of "train": 1 for an image that stays held out, with its whole group,
        -1 for one that stays in training, 0 for one that is to be split. Default: all 0.

    Raises:
      InputError: each class has a single image, or a single group.
    """
    if "validation" in splits:
        return splits
    full = splits["train"]
    # Not the seed of the shards' order, of which validation would be the beginning.
    order = random_order(full.names, options.seed ^ 0x5EED)
    groups = np.arange(len(order)) if groups is None else groups
    sides = np.zeros(len(order), np.int64) if sides is None else sides
    numbers, firsts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    held, trained = (np.isin(numbers, groups[sides == side]) for side in (1, -1))
    by_place = np.argsort(firsts)
    labels_in_order = full.table["label"][order]
    of_group = labels_in_order[firsts]  # the class of its first example
    for label in np.setdiff1d(labels_in_order, of_group):  # else it could lose all its examples
        holders = np.isin(numbers, groups[order[labels_in_order == label]]) & ~held
        of_group[np.flatnonzero(holders)[:1]] = 0  # stays in training
    chosen = np.zeros(len(order), bool)
    for label in np.unique(of_group[of_group > 0]):
        mine = by_place[of_group[by_place] == label]
        count = max(1, round(options.validation_fraction * sizes[mine].sum()))
        held_out, new = mine[held[mine]], mine[~held[mine] & ~trained[mine]]
        if (more := count - sizes[held_out].sum()) > 0:
            held_out = np.append(held_out, new[_fitting(sizes[new].tolist(), more)])
        chosen |= np.isin(groups, numbers[held_out])
    if not chosen.any():
        raise InputError("Every class has a single image: none is left for validation; add some.")
    train, validation = (full.take(np.flatnonzero(part)) for part in (~chosen, chosen))
    return sorted_splits(splits | {"train": train, "validation": validation})


def _fitting(sizes: list[int], count: int) -> list[int]:
    """Returns the indices of the first groups that hold `count` examples at most together.

    If each holds more, it is the smallest group; one at least is left.
    """
    found, left = [], min(count, sum(sizes) - 1)
    for number, size in enumerate(sizes):
        if size <= left:
            found.append(number)
            left -= size
    if not found and len(sizes) > 1:
        return [sizes.index(min(sizes))]
    return found
