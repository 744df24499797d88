"""Checks a data directory against its manifest, to the last byte.

  python -m datasets.verify DIR [--decode] [--json]

Every shard: size, SHA-256, each record's checksum and the number of records, labels, image
headers (with --decode: every pixel) and the index beside the shards. A fault is reported with its
shard, its record's number (from 0) and its image's name. Exit code 0: no fault; 1: faults; 2: there
is no data set.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from absl import flags

from squeezenext import cli, progress
from squeezenext.convert import images
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError, SomeInputsFailed
from squeezenext.images.jpeg import ImageError
from squeezenext.records import dataset, example, stores, tfrecord

MAX_FAULTS = 20  # reported for each shard; the rest are counted
_MAX_RECORD = 1 << 31  # tensorflow/core/lib/io reads no longer ones
_OTHER_DIGEST = "has another SHA-256 than the manifest says"


@dataclasses.dataclass(frozen=True)
class ShardFault:
    """A fault in a shard or an index."""

    shard: str  # name of the file
    record: int | None  # the record's number from 0, None if the fault is not in a record
    key: str  # the record's image/filename, "" if unknown
    fault: str  # the rest of a sentence that begins with the file: "is cut"

    def __str__(self) -> str:
        record = "" if self.record is None else f" record {self.record}"
        return f"{self.shard}:{record}{f' ({self.key})' if self.key else ''} {self.fault}"


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A shard to verify."""

    shard: dataset.Shard
    synsets: tuple[str, ...]  # the synsets of the labels 1, 2, ...
    offsets: np.ndarray | None  # where each record begins, by the index: [examples] int64
    decode: bool  # decode every image


def inspect(job: Inspection) -> list[ShardFault]:
    """Returns a shard's faults; after 20, a last one says how many more there are."""
    faults = [ShardFault(job.shard.path.name, *fault) for fault in _faults(job)]
    if len(faults) > MAX_FAULTS:
        more = f"has {len(faults) - MAX_FAULTS} more faults"
        faults[MAX_FAULTS:] = [ShardFault(job.shard.path.name, None, "", more)]
    return faults


def _faults(job: Inspection) -> Iterator[tuple[int | None, str, str]]:
    """Yields (record, key, fault)."""
    shard = job.shard
    try:
        size = shard.path.stat().st_size
        if size != shard.bytes:
            yield None, "", f"has {size} bytes, the manifest says {shard.bytes}"
        with shard.path.open("rb", buffering=4 << 20) as file:
            yield from _content(job, file, size)
    except OSError as error:
        yield None, "", f"cannot be read: {error.strerror}"


def _content(job: Inspection, file: BinaryIO, size: int) -> Iterator[tuple[int | None, str, str]]:
    """Reads a shard once, record by record until the first that is cut or damaged."""
    starts: list[int] = []
    digest, position, framing = hashlib.sha256(), 0, ""
    while not framing and (header := file.read(tfrecord.HEADER_BYTES)):
        payload, trailer = b"", b""
        length = int.from_bytes(header[:8], "little")
        left = size - position - tfrecord.FRAMING_BYTES
        if tfrecord.header_fits(header) and length <= min(left, _MAX_RECORD):
            payload, trailer = file.read(length), file.read(4)
        for part in (header, payload, trailer):
            digest.update(part)
        if framing := _framing(header, payload, trailer, position, size):
            yield len(starts), "", framing
            break
        for key, fault in _example(payload, job):
            yield len(starts), key, fault
        starts.append(position)
        position += tfrecord.FRAMING_BYTES + length
    while block := file.read(1 << 20):
        digest.update(block)
    if not framing and len(starts) != job.shard.examples:
        yield None, "", f"holds {len(starts)} records, the manifest says {job.shard.examples}"
    if job.shard.sha256 and digest.hexdigest() != job.shard.sha256:
        yield None, "", _OTHER_DIGEST
    if not framing and job.offsets is not None and not np.array_equal(starts, job.offsets):
        yield None, "", "has its records elsewhere than the index says"


def _framing(header: bytes, payload: bytes, trailer: bytes, position: int, size: int) -> str:
    if len(header) < tfrecord.HEADER_BYTES:
        return f"is cut inside its header, at byte {size}"
    if not tfrecord.header_fits(header):
        return f"has a damaged length at byte {position}"
    if not trailer:
        return f"is cut: it starts at byte {position} of {size} and does not end"
    if trailer != tfrecord.masked_crc(payload):
        return f"fails its checksum, between byte {position} and {position + len(payload)}"
    return ""


def _example(payload: bytes, job: Inspection) -> Iterator[tuple[str, str]]:
    """Yields (key, fault) for a record with correct checksums."""
    try:
        features = example.decode_example(payload)
    except example.RecordError as error:
        yield "", f"is no example: {error}"
        return
    name = example.single(features, example.FILENAME, bytes) or b""
    key = name.decode("utf-8", "backslashreplace")
    label = example.single(features, example.LABEL, int)
    synset = example.single(features, example.SYNSET, bytes) or b""
    if label is None or not 1 <= label <= len(job.synsets):
        yield key, f"has the label {label}, not one of 1..{len(job.synsets)}"
    elif job.synsets[label - 1].encode() != synset:
        yield key, f"has the label {label} but not that class's synset, {job.synsets[label - 1]}"
    image = example.single(features, example.ENCODED, bytes)
    fault = f"has no {example.ENCODED}" if image is None else _image(image, features, job.decode)
    if fault:
        yield key, fault


def _image(data: bytes, features: dict, decode: bool) -> str:
    try:
        header = images.check_trainable(data)
        if decode:
            images.decode(data)
    except ImageError as error:
        return f"holds an image that {error}"
    stated = [example.single(features, name, int) for name in (example.HEIGHT, example.WIDTH)]
    if stated != [header.height, header.width] and stated != [None, None]:
        return f"says {stated[0]} x {stated[1]} pixels, its image {header.height} x {header.width}"
    return ""


def verify(
    directory: str | stores.AnyPath,
    *,
    decode: bool = False,
    workers: int | None = None,
    show_progress: bool = False,
) -> list[ShardFault]:
    """Returns the faults of a data directory, in the order of its shards.

    With `decode`, every image is decoded; the default number of workers is one a CPU.

    Raises:
      InputError: there is no data set, or its manifest is damaged.
    """
    manifest = dataset.load_manifest(directory)
    synsets = tuple(label.synset for label in manifest.classes)
    faults: list[ShardFault] = []
    jobs: list[Inspection] = []
    for split in manifest.splits.values():
        parts = _index(split, faults)
        for shard, offsets in zip(split.shards, parts, strict=True):
            jobs.append(Inspection(shard, synsets, offsets, decode))
    examples, size = (sum(getattr(job.shard, key) for job in jobs) for key in ("examples", "bytes"))
    with Pool(workers or cli.cores()) as pool:
        with progress.throughput("Verifying", examples, size, show_progress) as advance:
            for job, more in zip(jobs, pool.run(inspect, jobs), strict=True):
                faults += more
                advance(job.shard.examples, job.shard.bytes)
    return faults


def _index(split: dataset.Split, faults: list[ShardFault]) -> Sequence[np.ndarray | None]:
    """Returns each shard's record offsets by the index, None for an index that is absent or cut.

    Adds the faults of the file; without one, training walks the shards.
    """
    data, fault = b"", ""
    if split.sidecar is not None:
        try:
            data = split.sidecar.path.read_bytes()
            if len(data) != split.sidecar.bytes:
                fault = f"has {len(data)} bytes, the manifest says {split.sidecar.bytes}"
            elif hashlib.sha256(data).hexdigest() != split.sidecar.sha256:
                fault = _OTHER_DIGEST
        except OSError as error:
            fault = f"cannot be read: {error.strerror}"
        if fault:
            faults.append(ShardFault(split.sidecar.path.name, None, "", fault))
    if split.sidecar is None or len(data) != 8 * split.examples:
        return [None] * len(split.shards)
    ends = np.cumsum([shard.examples for shard in split.shards])
    return np.split(np.frombuffer(data, "<i8"), ends[:-1])


def report_faults(directory: stores.AnyPath, faults: list[ShardFault], as_json: bool) -> None:
    """Prints the faults: as JSON on standard output, or in words on standard error.

    Raises:
      SomeInputsFailed: there are faults.
    """
    manifest = dataset.load_manifest(directory)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    sums = {key: sum(getattr(shard, key) for shard in shards) for key in ("examples", "bytes")}
    counts = {"shards": len(shards)} | sums
    if as_json:
        rows = [dataclasses.asdict(fault) for fault in faults]
        print(json.dumps({"directory": str(directory), "ok": not faults, **counts, "faults": rows}))
    else:
        for fault in faults:
            cli.log(f"fault: {fault}")
    if faults:
        names = sorted({fault.shard for fault in faults})
        raise SomeInputsFailed(
            f"{directory}: {cli.plural(len(faults), 'fault')} in {cli.plural(len(names), 'file')}, "
            f"{names[0]} for one; copy what is at fault again, or run the conversion "
            f"({cli.module_command('datasets.convert')}) again with --overwrite."
        )
    cli.log(
        f"{directory}: {cli.plural(counts['shards'], 'shard')}, "
        f"{cli.plural(counts['examples'], 'example')}, {counts['bytes']} bytes: all as the "
        "manifest says."
    )


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_bool("decode", False, "Decode every image, not only its header.", **own)
    flags.DEFINE_bool("json", False, "Print the result as JSON on standard output.", **own)
    flags.DEFINE_integer("workers", None, "Number of processes; default one a CPU.", **own)
    return values


def _command(values: flags.FlagValues, positional: list[str]) -> None:
    if len(positional) != 1:
        raise InputError(f"Give one data directory, not {len(positional)}; --help shows how.")
    directory, workers = stores.place(positional[0]), values["workers"].value
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers} is less than 1.")
    faults = verify(directory, decode=values["decode"].value, workers=workers, show_progress=True)
    report_faults(directory, faults, values["json"].value)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return cli.run(_command, _flags(), __doc__, argv, positional=True, addresses=("argument",))


if __name__ == "__main__":
    sys.exit(main())
