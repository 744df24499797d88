"""Turns archives or folders of images into a data directory of TFRecord shards.

  python -m datasets.convert --layout imagenet --source DIR --output DIR/tf-records
  python -m datasets.convert --layout folder --source PHOTOS --output DIR

The output is finished when its manifest.json exists; killed before, the same command goes
on at the next shard, and the bytes are those of an undisturbed run.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from datasets import commit, folder, imagenet, progress, shards
from datasets import output as outputs
from datasets.listing import Collection, Listing, parts, shuffled
from datasets.options import LAYOUTS, Options
from datasets.pool import Pool, default_workers
from squeezenext import flags as command_line
from squeezenext import records
from squeezenext.errors import InputError, RunAgain, SomeInputsFailed

SHARD_BYTES = 100 << 20  # tensorflow.org/guide/data_performance_analysis: 100 to 200 MB
_SHOWN_FAULTS = 20


def convert(source: Path, output: Path, **options) -> records.Manifest:
    """Converts `source` into the data directory `output`; see `Options` for the rest.

    Returns:
      The finished manifest. Images that could not be used are in `raw["rejected"]`.

    Raises:
      InputError: the source or an option is at fault, or `output` holds other data.
      RunAgain: another process writes `output`, or the disk is full.
    """
    source, output, chosen = Path(source), Path(output), Options(**options)
    if not source.is_dir():
        raise InputError(f"--source {source} is no folder; give the one that holds the data.")
    commit.make_folder(output)
    with commit.locked(output), Pool(chosen.workers or default_workers()) as pool:
        collection = _collect(source, chosen, pool)
        identity = outputs.identity(collection, chosen)
        if chosen.overwrite:
            outputs.clear(output)
        if (done := outputs.finished(output, identity)) is not None:
            return done
        fingerprint = outputs.fingerprint(collection)
        outputs.begin(output, {"identity": identity, "fingerprint": fingerprint})
        written = _write_shards(collection, output, chosen, pool)
        if outputs.fingerprint(collection) != fingerprint:
            raise RunAgain(f"{source} changed while it was read; run the same command again.")
        return outputs.finish(collection, output, chosen, written)


def _collect(source: Path, options: Options, pool: Pool) -> Collection:
    if options.layout == "imagenet":
        return imagenet.collect(source, options.partial, pool)
    return folder.collect(source, options.validation_fraction, options.seed, options.follow_links)


def _write_shards(
    collection: Collection, output: Path, options: Options, pool: Pool
) -> dict[str, list[shards.Written]]:
    jobs = [
        (name, job)
        for name in collection.splits
        for job in _jobs(collection, name, output, options)
    ]
    images = sum(len(split.names) for split in collection.splits.values())
    size = sum(split.bytes for split in collection.splits.values())
    written: dict[str, list[shards.Written]] = {name: [] for name in collection.splits}
    with progress.shown("Converting", images, size, options.show_progress) as advance:
        results = pool.run(shards.write, (job for _, job in jobs))
        for (name, job), result in zip(jobs, results, strict=True):
            written[name].append(result)
            advance(len(job.listing.names), job.listing.bytes)
    return written


def _jobs(collection: Collection, name: str, output: Path, options: Options) -> list[shards.Job]:
    split = collection.splits[name]
    ordered = split.take(shuffled(split.names, options.seed))
    count = min(_shard_count(collection, name, options), max(1, len(split.names)))
    return [
        _job(collection, ordered, run, output / f"{name}-{number:05d}-of-{count:05d}", options)
        for number, run in enumerate(parts(len(split.names), count))
    ]


def _job(
    collection: Collection, ordered: Listing, run: slice, path: Path, options: Options
) -> shards.Job:
    listing = ordered.take(np.arange(run.start, run.stop))
    classes = {
        int(label): collection.classes[label - 1] for label in np.unique(listing.table["label"])
    }
    return shards.Job(path, listing, classes, options.verify_images)


def _shard_count(collection: Collection, name: str, options: Options) -> int:
    wanted = getattr(options, f"{name}_shards")
    if wanted is None and options.layout == "imagenet" and not options.partial:
        wanted = imagenet.OFFICIAL_SHARDS[name]
    return wanted or max(1, round(collection.splits[name].bytes / SHARD_BYTES))


def report(manifest: records.Manifest) -> None:
    """Tells what came out, on standard error.

    Raises:
      SomeInputsFailed: images were rejected; each is in the manifest, the first are named.
    """
    counts = ", ".join(f"{split.examples} {name}" for name, split in manifest.splits.items())
    repairs, rejected = manifest.raw["repairs"], manifest.raw["rejected"]
    print(
        f"{manifest.directory}: {counts} images of {len(manifest.classes)} classes, "
        f"{len(repairs)} repaired, {len(rejected)} rejected.",
        file=sys.stderr,
    )
    for row in rejected[:_SHOWN_FAULTS]:
        print(f"rejected: {row['file']} {row['reason']}", file=sys.stderr)
    if rejected:
        raise SomeInputsFailed(
            f"{len(rejected)} files were rejected, all others are converted; "
            f'{manifest.directory / records.MANIFEST} lists them under "rejected".'
        )


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    text = {"flag_values": values}
    flags.DEFINE_enum("layout", None, LAYOUTS, "How the source lies.", **text)
    flags.DEFINE_string("source", None, "Folder of the archives, or of the images.", **text)
    flags.DEFINE_string("output", None, "Data directory to write.", **text)
    flags.DEFINE_integer("seed", 0, "Of the order of examples and of the split.", **text)
    flags.DEFINE_bool("partial", False, "Accept a part of ImageNet.", **text)
    flags.DEFINE_float(
        "validation_fraction", 0.2, "Of each class, where no split is given.", **text
    )
    for name in ("train", "validation", "test"):
        default = "1024, 128 for ImageNet, else one per 100 MB"
        flags.DEFINE_integer(f"{name}_shards", None, f"Number of files; default {default}.", **text)
    flags.DEFINE_bool("verify_images", False, "Decode every image.", **text)
    flags.DEFINE_bool("follow_links", False, "Take symbolic links for their targets.", **text)
    flags.DEFINE_bool("overwrite", False, "Replace a data set that is there.", **text)
    flags.DEFINE_integer("workers", None, "Processes; default one a CPU.", **text)
    return values


def _command(values: flags.FlagValues, positional: list[str]) -> None:
    if positional:
        raise InputError(f"{positional[0]!r} is no flag; did you mean --source {positional[0]}?")
    for name in ("layout", "source", "output"):  # absl's own check would refuse --help, too
        if values[name].value is None:
            raise InputError(f"--{name} is missing; --help shows how to call this command.")
    options = {
        field.name: values[field.name].value
        for field in dataclasses.fields(Options)
        if field.name in values
    }
    report(convert(Path(values["source"].value), Path(values["output"].value), **options))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return command_line.run(_command, _flags(), __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
