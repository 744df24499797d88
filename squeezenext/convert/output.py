"""The output directory: what is done already, and the files that finish it."""

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from squeezenext.convert import commit, imagenet, plan
from squeezenext.convert import lists as convert_lists
from squeezenext.convert.listing import Collection, Fault
from squeezenext.convert.options import Options
from squeezenext.convert.shards import Written
from squeezenext.errors import InputError
from squeezenext.records import example, tfrecord
from squeezenext.records import manifest as records_manifest

# Images that lie in two splits, byte for byte: what is trained on must not be tested on.
#
# Each image's length and the CRC32C of its middle are known from writing it; only images that
# agree in both are read again and compared by their bytes. That costs 12 bytes an image.


MAX_COMPARED = 1_000  # pairs; each is two reads. A source with more has been told enough


@dataclasses.dataclass(frozen=True)
class Twin:
    """An image of a later split whose very bytes an earlier split has."""

    file: str
    same_as: str


def find(output: Path, written: dict[str, list[Written]]) -> list[Twin]:
    """Returns the images of later splits that an earlier split holds too; 1,000 at most."""
    tables = {name: _table(results) for name, results in written.items()}
    twins: dict[str, Twin] = {}
    for earlier, later in itertools.combinations(written, 2):
        for first, second in _candidates(tables[earlier], tables[later]):
            name, image = _image(output, written[earlier], first)
            other, twin = _image(output, written[later], second)
            if image == twin:
                file = f"{later}/{other}"
                twins.setdefault(file, Twin(file, f"{earlier}/{name}"))
            if len(twins) == MAX_COMPARED:
                return list(twins.values())
    return list(twins.values())


def _table(results: list[Written]) -> np.ndarray:
    """Returns length and CRC of each image as one number: uint64 [examples]."""
    table = np.concatenate([result.table for result in results])
    return table["size"].astype(np.uint64) << np.uint64(32) | table["crc"]


def _candidates(earlier: np.ndarray, later: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields (place in `earlier`, place in `later`) of equal numbers, one for each of `later`."""
    order = np.argsort(earlier, kind="stable")
    places = np.searchsorted(earlier, later, sorter=order)
    found = np.flatnonzero(places < len(earlier))
    found = found[earlier[order[places[found]]] == later[found]]
    for place in found.tolist():
        yield int(order[places[place]]), place


def _image(output: Path, results: list[Written], number: int) -> tuple[str, bytes]:
    """Returns name and bytes of a split's image."""
    for result in results:
        if number < result.examples:
            break
        number -= result.examples
    start = int(result.table["offset"][number])
    ends = np.append(result.table["offset"], result.bytes)
    try:
        descriptor = os.open(output / result.file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(
            f"{output / result.file} cannot be read ({error.strerror}); run the command again."
        ) from error
    try:
        length = int(ends[number + 1]) - start
        payload = tfrecord.read(descriptor, start, length, result.file, number)
    finally:
        os.close(descriptor)
    return result.names[number], example.decode_example(payload)["image/encoded"][0]


MAX_ROWS = 10_000  # of each list in the manifest; how many more there are is told beside it


class OtherData(InputError):
    """The place of the output is taken by another conversion's."""


def identity(collection: Collection, options: Options) -> str:
    """Returns a digest of all that decides the output's bytes but the images themselves."""
    digest = hashlib.sha256()
    source = [(row["file"], row["bytes"]) for row in collection.source]  # no checksums: same data
    for part in (options.recorded(), source, collection.classes):
        digest.update(json.dumps(part, default=dataclasses.astuple).encode())
    for name, split in collection.splits.items():
        digest.update(json.dumps([name, split.names]).encode())
        for column in ("size", "label"):  # where the bytes lie is no part of it
            digest.update(np.ascontiguousarray(split.table[column]).tobytes())
        for box in sorted(split.boxes.items()):
            digest.update(repr(box).encode())
    return digest.hexdigest()


def fingerprint(collection: Collection) -> str:
    """Returns a digest of the state the source was found in: sizes, times, and checksums taken.

    It is no part of the identity: a copy of the source makes the same data set. What was made of
    unchecked bytes, as of a pipe, is not gone on with under a checksum.
    """
    state = [collection.watch.digest, list(collection.source)]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def finished(output: Path, identity: str) -> records_manifest.Manifest | None:
    """Returns the manifest if this very conversion was done before; refuses another one."""
    if not (output / records_manifest.MANIFEST).exists():
        return None
    manifest = records_manifest.load_manifest(output)
    if manifest.raw.get("arguments", {}).get("identity") != identity:
        raise OtherData(
            f"{output} holds another data set, or this one converted with other flags; choose "
            "another --output, or give --overwrite."
        )
    records_manifest.check_shards(manifest)
    for left_over in (commit.WORK, commit.SPOOL):  # killed just before their own removal
        shutil.rmtree(output / left_over, ignore_errors=True)
    return manifest


def finish(
    collection: Collection,
    output: Path,
    options: Options,
    written: dict[str, list[Written]],
    planned: plan.Plan,
) -> records_manifest.Manifest:
    """Writes the offsets, the planned lists and, when all else is on the disk, the manifest."""
    for name, results in written.items():
        if not sum(result.examples for result in results):
            raise InputError(f"No image of the {name} split can be used; all were rejected.")
    document = _document(collection, output, options, written)
    document["arguments"]["identity"] = planned.identity
    if convert_lists.LABELS in planned.files:
        convert_lists.write_labels(output, collection.classes)
    convert_lists.write(output, collection.classes, written, document["rgb_mean"])
    commit.write_json(output / records_manifest.MANIFEST, document, output / commit.WORK)
    shutil.rmtree(output / commit.WORK)
    shutil.rmtree(output / commit.SPOOL, ignore_errors=True)
    return records_manifest.load_manifest(output)


def _split(output: Path, name: str, results: list[Written]) -> dict:
    offsets = np.concatenate([result.table["offset"] for result in results]).tobytes()
    path = output / f"{name}.index"
    with commit.written(path, output / commit.WORK) as file:
        file.write(offsets)
    return {
        "examples": sum(result.examples for result in results),
        "shards": [
            {key: getattr(result, key) for key in ("file", "examples", "bytes", "sha256")}
            for result in results
        ],
        "index": {"file": path.name, "bytes": file.position, "sha256": file.sha256},
    }


def _document(
    collection: Collection, output: Path, options: Options, written: dict[str, list[Written]]
) -> dict:
    results = [result for split in written.values() for result in split]
    repairs = [fault for result in results for fault in result.repairs]
    rejected = [*collection.rejected, *(fault for result in results for fault in result.rejected)]
    twins = find(output, written)
    lists = {"repairs": repairs, "rejected": rejected, "duplicates": twins}
    mean, count = convert_lists.rgb_mean(written["train"])
    classes = [
        {"label": number, "synset": label.synset, "text": label.text}
        for number, label in enumerate(collection.classes, 1)
    ]
    return {
        "format_version": records_manifest.FORMAT_VERSION,
        "partial": options.partial,
        "classes": classes,
        "splits": {name: _split(output, name, rows) for name, rows in written.items()},
        "rgb_mean": mean,
        "rgb_mean_examples": count,
        **{name: _rows(rows) for name, rows in lists.items()},
        "omitted": {name: max(0, len(rows) - MAX_ROWS) for name, rows in lists.items()},
        "warnings": [*collection.warnings, *_unexpected(options, repairs)],
        "source": list(collection.source),
        "arguments": options.recorded(),
    }


def _rows(faults: list) -> list[dict]:
    ordered = sorted(faults, key=dataclasses.astuple)
    return [dataclasses.asdict(fault) for fault in ordered[:MAX_ROWS]]


def _unexpected(options: Options, repairs: list[Fault]) -> list[str]:
    """Tells whether the official archives held what they are known to hold."""
    if options.layout != "imagenet" or options.partial:
        return []
    found = {
        kind: sum(fault.reason.startswith(kind) for fault in repairs)
        for kind in imagenet.OFFICIAL_REPAIRS
    }
    if found == imagenet.OFFICIAL_REPAIRS:
        return []
    return [
        f"{found['CMYK']} CMYK images and {found['PNG']} PNG were repaired; the official archives "
        "hold 22 and 1: these are others."
    ]
