"""Estimates how much a conversion will write and how long it will take, for --dry_run."""

import collections
import dataclasses
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from squeezenext.cli import plural, size_text
from squeezenext.convert import commit, imagenet, shards, sources
from squeezenext.convert.listing import Collection
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError

_RECORD_BYTES = 700  # framing, names and sizes of an example; its rows in lists and index
_TRIAL_BYTES = 64 << 20


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
    with tempfile.TemporaryDirectory() as spool, Pool(options.workers or 1) as pool:
        archive = imagenet.train_archive(source, options)
        if options.layout == "imagenet" and imagenet.is_pipe(archive):
            raise InputError("--dry_run cannot look into a pipe, which is read once; give a file.")
        seekable = dataclasses.replace(options, sequential=False)  # without copying the archive
        collection = sources.collect(source, seekable, pool, Path(spool))
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
    try:
        with tempfile.TemporaryDirectory(".trial", dir=commit.nearest_folder(output)) as folder:
            path = Path(folder) / job.path.name
            os.mkdir(path.parent / commit.WORK)
            trial = dataclasses.replace(job, path=path, listing=listing, mean_of=mean_of)
            shards.write(trial)
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror}); choose an --output that can be."
        ) from error
    return (time.monotonic() - start) * size / max(listing.bytes, 1)
