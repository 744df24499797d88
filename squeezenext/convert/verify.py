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
from pathlib import Path
from typing import BinaryIO

import numpy as np
from absl import flags

from squeezenext import cli, progress
from squeezenext.convert import images
from squeezenext.convert.pool import Pool, default_workers
from squeezenext.errors import InputError, SomeInputsFailed
from squeezenext.images import decoding, jpeg
from squeezenext.records import example, tfrecord
from squeezenext.records import manifest as records_manifest

MAX_FAULTS = 20  # reported for each shard; the rest are counted
_MAX_RECORD = 1 << 31  # tensorflow/core/lib/io reads no longer ones


@dataclasses.dataclass(frozen=True)
class ShardFault:
    """A fault in a shard or an index.

    Attributes:
      shard: the file's name.
      record: the record's number from 0, None if the fault is not in a record.
      key: the record's image/filename, "" if unknown.
      fault: the rest of a sentence that begins with the file: "is cut".
    """

    shard: str
    record: int | None
    key: str
    fault: str

    def __str__(self) -> str:
        record = "" if self.record is None else f" record {self.record}"
        return f"{self.shard}:{record}{f' ({self.key})' if self.key else ''} {self.fault}"


@dataclasses.dataclass(frozen=True)
class Inspection:
    """A shard to verify.

    Attributes:
      shard: the manifest's entry.
      synsets: the synsets of label 1, 2, ...
      offsets: [examples] int64, the index's offsets of records; None without an index.
      decode: decode every image.
    """

    shard: records_manifest.Shard
    synsets: tuple[str, ...]
    offsets: np.ndarray | None
    decode: bool


def inspect(job: Inspection) -> list[ShardFault]:
    """Returns a shard's faults; after 20, a last one says how many more there are."""
    found = [ShardFault(job.shard.path.name, *fault) for fault in _faults(job)]
    if len(found) > MAX_FAULTS:
        more = f"has {len(found) - MAX_FAULTS} more faults"
        found[MAX_FAULTS:] = [ShardFault(job.shard.path.name, None, "", more)]
    return found


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
    digest, starts, position, whole = hashlib.sha256(), [], 0, True
    for header, payload, trailer in _records(file, size):
        for part in (header, payload, trailer):
            digest.update(part)
        if fault := _framing(header, payload, trailer, position, size):
            yield len(starts), "", fault
            whole = False
            break
        for key, fault in _example(payload, job):
            yield len(starts), key, fault
        starts.append(position)
        position += tfrecord.FRAMING_BYTES + len(payload)
    while block := file.read(1 << 20):
        digest.update(block)
    if whole and len(starts) != job.shard.examples:
        yield None, "", f"holds {len(starts)} records, the manifest says {job.shard.examples}"
    if job.shard.sha256 and digest.hexdigest() != job.shard.sha256:
        yield None, "", "has another SHA-256 than the manifest says"
    if whole and job.offsets is not None and not np.array_equal(starts, job.offsets):
        yield None, "", "has its records elsewhere than the index says"


def _records(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yields (header, payload, trailing CRC) until the first impossible length."""
    position = 0
    while header := file.read(tfrecord.HEADER_BYTES):
        length = int.from_bytes(header[:8], "little")
        left = size - position - tfrecord.FRAMING_BYTES
        if not tfrecord.header_fits(header) or length > min(left, _MAX_RECORD):
            yield header, b"", b""
            return
        yield header, file.read(length), file.read(4)
        position += tfrecord.FRAMING_BYTES + length


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
    key = (_only(features, example.FILENAME, bytes) or b"").decode("utf-8", "backslashreplace")
    label = _only(features, example.LABEL, int)
    if label is None or not 1 <= label <= len(job.synsets):
        yield key, f"has the label {label}, not one of 1..{len(job.synsets)}"
    elif job.synsets[label - 1].encode() != (_only(features, example.SYNSET, bytes) or b""):
        yield key, f"has the label {label} but not that class's synset, {job.synsets[label - 1]}"
    image = _only(features, example.ENCODED, bytes)
    if image is None:
        yield key, f"has no {example.ENCODED}"
        return
    if fault := _image(image, features, job.decode):
        yield key, fault


def _only(features: dict, name: str, kind: type):
    values = features.get(name, [])
    return values[0] if len(values) == 1 and isinstance(values[0], kind) else None


def _image(data: bytes, features: dict, decode: bool) -> str:
    try:
        header = jpeg.header(data) if decoding.sniff(data) == "JPEG" else None
        if header is None:
            return "is no JPEG, which training needs"
        if decode:
            decoding.check_scans(data)
            images.decode(data)
    except images.ImageError as error:
        return f"holds an image that {error}"
    stated = [_only(features, name, int) for name in (example.HEIGHT, example.WIDTH)]
    if stated != [header.height, header.width] and stated != [None, None]:
        return f"says {stated[0]} x {stated[1]} pixels, its image {header.height} x {header.width}"
    return ""


def shard_offsets(split: records_manifest.Split) -> list[np.ndarray | None]:
    """Returns each shard's record offsets from a split's index, None if it cannot be used."""
    try:
        data = np.frombuffer(Path(split.sidecar.path).read_bytes(), "<i8")
    except (OSError, ValueError, AttributeError):
        return [None] * len(split.shards)
    if len(data) != split.examples:
        return [None] * len(split.shards)
    return np.split(data, np.cumsum([shard.examples for shard in split.shards])[:-1])


def verify(
    directory: Path,
    *,
    decode: bool = False,
    workers: int | None = None,
    show_progress: bool = False,
) -> list[ShardFault]:
    """Returns the faults of the data set in `directory`, in the order of its shards.

    Args:
      directory: the data directory.
      decode: decode every image, not only its header.
      workers: number of processes; default one a CPU.
      show_progress: show progress on standard error.

    Raises:
      InputError: there is no data set, or its manifest is damaged.
    """
    manifest = records_manifest.load_manifest(Path(directory))
    faults = [fault for split in manifest.splits.values() for fault in _sidecar(split)]
    jobs = [
        job for split in manifest.splits.values() for job in _inspections(manifest, split, decode)
    ]
    examples, size = (sum(getattr(job.shard, key) for job in jobs) for key in ("examples", "bytes"))
    with Pool(workers or default_workers()) as pool:
        with progress.throughput("Verifying", examples, size, show_progress) as advance:
            for job, found in zip(jobs, pool.run(inspect, jobs), strict=True):
                faults += found
                advance(job.shard.examples, job.shard.bytes)
    return faults


def _inspections(
    manifest: records_manifest.Manifest, split: records_manifest.Split, decode: bool
) -> Iterator[Inspection]:
    synsets = tuple(label.synset for label in manifest.classes)
    for shard, offsets in zip(split.shards, shard_offsets(split), strict=True):
        yield Inspection(shard, synsets, offsets, decode)


def _sidecar(split: records_manifest.Split) -> Iterator[ShardFault]:
    """Yields the faults of an index file; without an index, training walks the shards."""
    if split.sidecar is None:
        return
    path = split.sidecar.path
    try:
        data = path.read_bytes()
    except OSError as error:
        yield ShardFault(path.name, None, "", f"cannot be read: {error.strerror}")
        return
    if len(data) != split.sidecar.bytes:
        wanted = f"the manifest says {split.sidecar.bytes}"
        yield ShardFault(path.name, None, "", f"has {len(data)} bytes, {wanted}")
    elif hashlib.sha256(data).hexdigest() != split.sidecar.sha256:
        yield ShardFault(path.name, None, "", "has another SHA-256 than the manifest says")


def report_faults(directory: Path, faults: list[ShardFault], as_json: bool) -> None:
    """Prints the faults: as JSON on standard output, or in words on standard error.

    Raises:
      SomeInputsFailed: there are faults.
    """
    manifest = records_manifest.load_manifest(directory)
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
            cli.log(f"fault: {fault}")
    if faults:
        names = sorted({fault.shard for fault in faults})
        raise SomeInputsFailed(
            f"{directory}: {len(faults)} faults in {len(names)} files, {names[0]} for one; copy "
            "these files again, or remove them and run the conversion again with --overwrite."
        )
    cli.log(
        f"{directory}: {counts['shards']} shards, {counts['examples']} examples, "
        f"{counts['bytes']} bytes: all as the manifest says."
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
    directory, workers = Path(positional[0]), values["workers"].value
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers} is less than 1.")
    faults = verify(directory, decode=values["decode"].value, workers=workers, show_progress=True)
    report_faults(directory, faults, values["json"].value)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return cli.run(_command, _flags(), __doc__, argv, positional=True)


if __name__ == "__main__":
    sys.exit(main())
