"""Cuts a collection into shards: which examples, in which order, under which name."""

import dataclasses
from pathlib import Path

import numpy as np

from . import imagenet, images, summary
from .listing import Collection, Listing, parts, shuffled
from .options import Options
from .shards import Job

SHARD_BYTES = 100 << 20  # tensorflow.org/guide/data_performance_analysis: 100 to 200 MB


def names(collection: Collection, split: str, options: Options) -> list[str]:
    """Returns the names of a split's shards."""
    if options.layout == "tfrecord":
        return [path.name for path in collection.splits[split].files]
    examples = max(1, len(collection.splits[split].names))
    count = min(_shard_count(collection, split, options), examples)
    return [f"{split}-{place:05d}-of-{count:05d}" for place in range(count)]


def all_of(
    collection: Collection, output: Path, options: Options, plan: str = ""
) -> list[tuple[str, Job]]:
    """Returns (split, job) of every shard; a function of the names, the seed and the options.

    Args:
      plan: of which these are a part, see `Plan.key`.
    """
    return [
        (name, dataclasses.replace(job, plan=plan))
        for name in collection.splits
        for job in _of_split(collection, name, output, options)
    ]


def _of_split(collection: Collection, name: str, output: Path, options: Options) -> list[Job]:
    split = collection.splits[name]
    ordered = split.take(shuffled(split.names, options.seed))
    paths = [output / file for file in names(collection, name, options)]
    sample = summary.mean_sample(len(split.names), split.bytes) if name == "train" else 0
    runs = parts(len(split.names), len(paths)), parts(sample, len(paths))
    return [
        _job(collection, ordered, run, quota, path, options)
        for path, run, quota in zip(paths, *runs, strict=True)
    ]


def _job(
    collection: Collection, ordered: Listing, run: slice, quota: slice, path: Path, options: Options
) -> Job:
    """The order is random, so the first of each shard are a fair sample for the mean colour."""
    listing = ordered.take(np.arange(run.start, run.stop))
    classes = {
        int(label): collection.classes[label - 1] for label in np.unique(listing.table["label"])
    }
    smaller = images.Smaller(options.max_side, options.quality) if options.max_side else None
    return Job(path, listing, classes, options.verify_images, quota.stop - quota.start, smaller)


def _shard_count(collection: Collection, name: str, options: Options) -> int:
    wanted = getattr(options, f"{name}_shards")
    if wanted is None and options.layout == "imagenet" and not options.partial:
        wanted = imagenet.OFFICIAL_SHARDS[name]
    return wanted or max(1, round(collection.splits[name].bytes / SHARD_BYTES))
