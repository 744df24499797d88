"""Says what a source holds, how much its conversion will write, and how long it will take."""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import operator
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from squeezenext import files
from squeezenext.cli import plural, printable, size_text
from squeezenext.convert import commit, imagenet, shards, sources
from squeezenext.convert.listing import Collection
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError
from squeezenext.images import decoding
from squeezenext.images.jpeg import ImageError

_RECORD_BYTES = 700  # framing, names and sizes of an example; its rows in lists and index
_TRIAL_BYTES = 64 << 20
_HEAD = 1024  # bytes that show whether a file is an image, or may be a copy
_MOST_ROWS = 40  # rows of a table


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The size and the duration of a conversion that has not begun."""

    examples: dict[str, int]  # number of images by split
    shards: dict[str, int]  # number of shards by split
    classes: int  # number of classes
    rejected: int  # number of files rejected while listing
    bytes: int  # to write
    free: int  # bytes on the output's disk
    seconds: float  # with one worker

    def lines(self, workers: int) -> list[str]:
        """Returns the lines that --dry_run prints."""
        return [
            *(
                f"{plural(n, f'{name} image')} in {plural(self.shards[name], 'shard')}"
                for name, n in self.examples.items()
            ),
            f"{plural(self.classes, 'class')}; "
            f"{plural(self.rejected, 'file')} would be refused unread",
            f"{size_text(self.bytes)} to write, {size_text(self.free)} free",
            f"about {self.seconds / workers:.0f} s with {plural(workers, 'worker')}, from a short "
            "trial",
        ]


def remaining_bytes(collection: Collection, output: Path, options: ConvertOptions) -> int:
    """Returns an upper bound of the bytes still to write.

    It is about right with --max_side, and where photographs are turned upright.
    """
    examples = sum(len(split.names) for split in collection.splits.values())
    images = sum(split.bytes for split in collection.splits.values())
    if options.layout == "tfrecord":  # links need no room
        source = collection.splits["train"].files[0]
        linked = source.stat().st_dev == commit.nearest_folder(output).stat().st_dev
        return 0 if linked else images
    images = commit.reencoded(images, examples, options.max_side)
    return max(0, images + examples * _RECORD_BYTES - commit.shard_bytes(output))


def estimate_conversion(source: Path, output: Path, options: ConvertOptions) -> Estimate:
    """Lists the source and converts its first images on trial; leaves no file.

    Raises:
      InputError: the source or an option is at fault, or the output cannot be written.
    """
    sources.check_apart(source, output, options)
    with _spool(output) as spool, Pool(options.workers or 1) as pool:
        archive = imagenet.train_archive(source, options)
        if options.layout == "imagenet" and imagenet.is_pipe(archive):
            raise InputError("--dry_run cannot look into a pipe, which is read once; give a file.")
        seekable = dataclasses.replace(options, sequential=False)  # without copying the archive
        collection = sources.collect(source, seekable, pool, spool)
        jobs = shards.shard_jobs(collection, output, options)
        total = sum(split.bytes for split in collection.splits.values())
        seconds = 0.0 if options.layout == "tfrecord" else _trial(jobs[0][1], output, total)
    spooled = collection.splits["train"].bytes if options.sequential else 0
    return Estimate(
        examples={name: len(split.names) for name, split in collection.splits.items()},
        shards=collections.Counter(name for name, _ in jobs),
        classes=len(collection.classes),
        rejected=len(collection.rejected),
        bytes=remaining_bytes(collection, output, options) + spooled,
        free=commit.free_bytes(output),
        seconds=seconds,
    )


def _trial(job: shards.ShardJob, output: Path, size: int) -> float:
    """Converts a part of the first shard; returns the seconds for all with one worker."""
    images = len(job.listing.names)
    count = int(np.searchsorted(np.cumsum(job.listing.table["size"]), _TRIAL_BYTES)) + 1
    listing = job.listing.take(np.arange(min(count, images)))
    mean_of = -(-job.mean_of * len(listing.names) // images)
    start = time.monotonic()
    with _spool(output) as folder:
        path = folder / job.path.name
        os.mkdir(path.parent / commit.WORK)
        shards.write(dataclasses.replace(job, path=path, listing=listing, mean_of=mean_of))
    return (time.monotonic() - start) * size / max(listing.bytes, 1)


@contextlib.contextmanager
def _spool(output: Path) -> Iterator[Path]:
    """Makes a folder on the output's disk for a while."""
    try:
        with tempfile.TemporaryDirectory(".trial", dir=commit.nearest_folder(output)) as folder:
            yield Path(folder)
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror}); choose an --output that can be."
        ) from error


def look(source: Path, options: ConvertOptions) -> list[str]:
    """Returns the lines of `found_lines`, and what else listing the source says; leaves no file."""
    with tempfile.TemporaryDirectory() as spool, Pool(1) as pool:
        collection = sources.collect(source, options, pool, Path(spool))
        refused = [f"refused: {each.file} {each.reason}" for each in collection.rejected]
        said = [*collection.notes, *collection.warnings]
        return [*found_lines(collection), *said, *refused[:_MOST_ROWS]]


def found_lines(collection: Collection) -> list[str]:
    """Returns a table of what a source holds, with a line for each class.

    "unreadable" counts files that were refused, or whose first bytes are no image's: only the
    conversion looks into them. "copies" have all bytes of a photograph that was counted before.
    """
    # By printable names, as a fault has its file's.
    classes = {printable(label.synset): n for n, label in enumerate(collection.classes, 1)}
    labels = {name: split.table["label"].tolist() for name, split in collection.splits.items()}
    refused = [classes.get(fault.file.split("/")[0], 0) for fault in collection.rejected]
    unreadable, copies = _glance(collection)
    columns = {
        "photographs": [*itertools.chain(*labels.values()), *refused],
        **{f"for {split}": labels[split] for split in ("validation", "test") if split in labels},
        "unreadable": [*refused, *unreadable],
        "copies": copies,
    }
    counts = [np.bincount(np.array(c, int), minlength=len(classes) + 1) for c in columns.values()]
    names = ["of no class", *(printable(label.text)[:40] for label in collection.classes)]
    table = np.stack(counts, 1)  # [1 + classes, columns]
    shown = [(names[number], table[number]) for number in range(1, min(len(names), _MOST_ROWS))]
    if (more := len(names) - _MOST_ROWS) > 0:
        shown.append((f"{more:,} more classes", table[_MOST_ROWS:].sum(0)))
    if table[0].any():
        shown.append((names[0], table[0]))
    shown.append(("all", table.sum(0)))
    cells = [["class", *columns], *([name, *(f"{n:,}" for n in row)] for name, row in shown)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells
    ]


def _glance(collection: Collection) -> tuple[list[int], list[int]]:
    """Returns the labels of the images that are none by their first bytes, and of the copies."""
    unreadable = []
    alike: dict[tuple[int, int], list] = collections.defaultdict(list)
    for split in collection.splits.values():
        for number, run in itertools.groupby(split.table.tolist(), operator.itemgetter(0)):
            path = split.files[number]
            with files.open_file(path) as file:
                for _, offset, size, label, packed, stated in run:
                    crc = max(stated, 0)
                    head = files.pread(file.fileno(), min(packed or size, _HEAD), offset)
                    if not _begins_as_image(head, packed):
                        unreadable.append(label)
                    middle = b"" if crc else files.pread(file.fileno(), _HEAD, offset + size // 2)
                    alike[size, crc or zlib.crc32(middle)].append((path, offset, label, crc))
    copies = []
    for (size, _), same in alike.items():
        seen: set[int | bytes] = set()
        for path, offset, label, crc in same if len(same) > 1 else ():
            content = crc or _digest(path, offset, size)
            if content in seen:
                copies.append(label)
            seen.add(content)
    return unreadable, copies


def _begins_as_image(head: bytes, packed: int) -> bool:
    try:
        decoding.sniff(zlib.decompressobj(-zlib.MAX_WBITS).decompress(head) if packed else head)
    except (ImageError, zlib.error):
        return False
    return True


def _digest(path: Path, offset: int, size: int) -> bytes:
    with files.open_file(path) as file:
        data = files.pread(file.fileno(), min(size, decoding.MAX_BYTES + 1), offset)
    return hashlib.blake2b(data).digest()
