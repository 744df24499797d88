"""Checks a data directory against its manifest, to the last byte.

  python -m datasets.verify DIR [--decode] [--json]

Every shard: size, SHA-256, each record's checksum and the number of records, labels, image
headers (with --decode: every pixel) and the index beside the shards. Each fault is named with
its shard, its record's number (from 0) and its image's name. Exit code 0: all is well; 1: faults
were found; 2: there is no data set.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from squeezenext import cli as command_line
from squeezenext import records
from squeezenext.errors import InputError, SomeInputsFailed

from . import progress
from .inspection import Fault, Job, inspect, shard_offsets
from .pool import Pool, default_workers


def verify(
    directory: Path, *, decode: bool = False, workers: int | None = None, show: bool = False
) -> list[Fault]:
    """Returns all that is wrong with the data set in `directory`, in the order of its shards.

    Args:
      decode: decode every image, not only its header.
      workers: processes; default one a CPU.
      show: tell on standard error how far it is.

    Raises:
      InputError: there is no data set, or its manifest is damaged.
    """
    manifest = records.load_manifest(Path(directory))
    faults = [fault for split in manifest.splits.values() for fault in _sidecar(split)]
    jobs = [job for split in manifest.splits.values() for job in _jobs(manifest, split, decode)]
    examples, size = (sum(getattr(job.shard, key) for job in jobs) for key in ("examples", "bytes"))
    with Pool(workers or default_workers()) as pool:
        with progress.shown("Verifying", examples, size, show) as advance:
            for job, found in zip(jobs, pool.run(inspect, jobs), strict=True):
                faults += found
                advance(job.shard.examples, job.shard.bytes)
    return faults


def _jobs(manifest: records.Manifest, split: records.Split, decode: bool) -> Iterator[Job]:
    synsets = tuple(label.synset for label in manifest.classes)
    for shard, offsets in zip(split.shards, shard_offsets(split), strict=True):
        yield Job(shard, synsets, offsets, decode)


def _sidecar(split: records.Split) -> Iterator[Fault]:
    """Yields what is wrong with the index as a file; training then walks the shards instead."""
    if split.sidecar is None:
        return
    path = split.sidecar.path
    try:
        data = path.read_bytes()
    except OSError as error:
        yield Fault(path.name, None, "", f"cannot be read: {error.strerror}")
        return
    if len(data) != split.sidecar.bytes:
        wanted = f"the manifest says {split.sidecar.bytes}"
        yield Fault(path.name, None, "", f"has {len(data)} bytes, {wanted}")
    elif hashlib.sha256(data).hexdigest() != split.sidecar.sha256:
        yield Fault(path.name, None, "", "has another SHA-256 than the manifest says")


def report(directory: Path, faults: list[Fault], as_json: bool) -> None:
    """Tells what was found: as JSON on standard output, or in words on standard error.

    Raises:
      SomeInputsFailed: there are faults.
    """
    manifest = records.load_manifest(directory)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    counts = {
        "shards": len(shards),
        "examples": sum(shard.examples for shard in shards),
        "bytes": sum(shard.bytes for shard in shards),
    }
    if as_json:
        rows = [dataclasses.asdict(fault) for fault in faults]
        print(json.dumps({"directory": str(directory), "ok": not faults, **counts, "faults": rows}))
    else:
        for fault in faults:
            print(f"fault: {fault}", file=sys.stderr)
    if faults:
        names = sorted({fault.shard for fault in faults})
        raise SomeInputsFailed(
            f"{directory}: {len(faults)} faults in {len(names)} files, {names[0]} for one; copy "
            "these files again, or remove them and run the conversion again with --overwrite."
        )
    print(
        f"{directory}: {counts['shards']} shards, {counts['examples']} examples, "
        f"{counts['bytes']} bytes: all as the manifest says.",
        file=sys.stderr,
    )


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_bool("decode", False, "Decode every image, not only its header.", **own)
    flags.DEFINE_bool("json", False, "Print the result as JSON on standard output.", **own)
    flags.DEFINE_integer("workers", None, "Processes; default one a CPU.", **own)
    return values


def _command(values: flags.FlagValues, positional: list[str]) -> None:
    if len(positional) != 1:
        raise InputError(f"Give one data directory, not {len(positional)}; --help shows how.")
    directory, workers = Path(positional[0]), values["workers"].value
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers} is less than 1.")
    faults = verify(directory, decode=values["decode"].value, workers=workers, show=True)
    report(directory, faults, values["json"].value)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return command_line.run(_command, _flags(), __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
