"""How much a conversion will write and how long it will take, before any of it is done."""

import dataclasses
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from squeezenext.convert import commit, imagenet, imagenet_archives, plan, shards, sources, space
from squeezenext.convert.listing import Collection
from squeezenext.convert.options import Options
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError

_RECORD_BYTES = 700  # framing, names and sizes of an example, its rows in the lists and index
_TRIAL_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What would be done."""

    examples: dict[str, int]
    shards: dict[str, int]
    classes: int
    refused: int
    bytes: int
    free: int
    seconds: float


def needed(collection: Collection, output: Path, options: Options) -> int:
    """Returns how many bytes of shards and lists are still to be written.

    From above; with --max_side, about.
    """
    examples = sum(len(split.names) for split in collection.splits.values())
    images = sum(split.bytes for split in collection.splits.values())
    if options.layout == "tfrecord":
        return 0 if _same_file_system(collection, output) else images
    images = space.reencoded(images, examples, options.max_side)
    return max(0, images + examples * _RECORD_BYTES - space.of_shards(output))


def _same_file_system(collection: Collection, output: Path) -> bool:
    files = [path for split in collection.splits.values() for path in split.files]
    return bool(files) and files[0].stat().st_dev == space.parent(output).stat().st_dev


def make_estimate(source: Path, output: Path, options: Options) -> Estimate:
    """Lists the source, tries its first images and returns what would be done; nothing stays.

    Raises:
      InputError: the source or an option is at fault, or the output cannot be written.
    """
    sources.check_apart(source, output, options)
    with tempfile.TemporaryDirectory() as spool, Pool(options.workers or 1) as pool:
        archive = imagenet.train_archive(source, options)
        if options.layout == "imagenet" and imagenet_archives.is_pipe(archive):
            raise InputError("--dry_run cannot look into a pipe, which is read once; give a file.")
        seekable = dataclasses.replace(options, sequential=False)  # nothing is laid by
        collection = sources.collect(source, seekable, pool, Path(spool))
    named = plan.shard_jobs(collection, output, options)
    counts = {name: len(split.names) for name, split in collection.splits.items()}
    of_split = {name: sum(name == other for other, _ in named) for name in counts}
    size = sum(split.bytes for split in collection.splits.values())
    seconds = 0.0 if options.layout == "tfrecord" else _trial(named[0][1], output, size)
    spooled = collection.splits["train"].bytes if options.sequential else 0
    needs, free = needed(collection, output, options) + spooled, space.free_bytes(output)
    refused = len(collection.rejected)
    return Estimate(counts, of_split, len(collection.classes), refused, needs, free, seconds)


def _trial(job: shards.Job, output: Path, size: int) -> float:
    """Converts some of the first shard and returns the seconds all would take with one worker."""
    images = len(job.listing.names)
    count = int(np.searchsorted(np.cumsum(job.listing.table["size"]), _TRIAL_BYTES)) + 1
    listing = job.listing.take(np.arange(min(count, images)))
    mean_of = -(-job.mean_of * len(listing.names) // images)
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(".trial", dir=space.parent(output)) as folder:
            path = Path(folder) / job.path.name
            os.mkdir(path.parent / commit.WORK)
            trial = dataclasses.replace(job, path=path, listing=listing, mean_of=mean_of)
            shards.write(trial)
    except OSError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror}); choose an --output that can be."
        ) from error
    return (time.monotonic() - start) * size / max(listing.bytes, 1)


def told(plan: Estimate, workers: int) -> str:
    """Returns the plan in words."""
    lines = [
        f"{plan.examples[name]} {name} images in {plan.shards[name]} shards"
        for name in plan.examples
    ]
    lines.append(f"{plan.classes} classes; {plan.refused} files would be refused unread")
    lines.append(f"{plan.bytes / 1e9:.2f} GB to write, {plan.free / 1e9:.2f} GB free")
    lines.append(f"about {plan.seconds / workers:.0f} s with {workers} workers, from a short trial")
    return "\n".join(lines)
