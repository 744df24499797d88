"""Finishes the output directory: index, lists beside the records, duplicates and manifest.

The lists are named and filled as the PyTorch SqueezeNet's preparation did: `labels.txt` (as
TF-slim reads it), `categories.csv` (id,label), `train.csv` and `val.csv` (image,class), where an
id counts from 0; and `rgb_val.json`, the training split's mean colour.
"""

import csv
import dataclasses
import hashlib
import io
import itertools
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from squeezenext import files, labels
from squeezenext.cli import printable
from squeezenext.convert import commit, imagenet_archives, plan
from squeezenext.convert.listing import Collection, Fault
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.shards import Written
from squeezenext.convert.uploads import Destination
from squeezenext.errors import InputError
from squeezenext.records import dataset, example, stores, tfrecord

MAX_COMPARED = 1_000  # pairs of possible duplicates; comparing a pair takes two reads
MAX_ROWS = 10_000  # rows of a list in the manifest; "omitted" counts the others


class OtherData(InputError):
    """The output folder holds another conversion's data set."""


def identity(collection: Collection, options: ConvertOptions) -> str:
    """Returns a digest of everything that decides the output's bytes, except the images' own."""
    digest = hashlib.sha256()
    # Without checksums, and names of folders: a source that was moved makes the same data.
    source = [row["bytes"] for row in collection.source]
    for part in (options.recorded(), source, collection.classes):
        digest.update(json.dumps(part, default=dataclasses.astuple).encode())
    for name, split in collection.splits.items():
        digest.update(json.dumps([name, split.names]).encode())
        for column in ("size", "label"):  # but not where the bytes are stored
            digest.update(np.ascontiguousarray(split.table[column]).tobytes())
        for box in sorted(split.boxes.items()):
            digest.update(repr(box).encode())
    return digest.hexdigest()


def fingerprint(collection: Collection, options: ConvertOptions) -> str:
    """Returns a digest of the source's state: sizes, times and the checksums computed.

    It is no part of the identity, since a copy of the source makes the same data set. But what a
    conversion without --checksum began is not resumed with --checksum, nor is one that an earlier
    release began without turning photographs upright.
    """
    state = [collection.watch.digest, list(collection.source), options.upright]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def finished(output: stores.AnyPath, expected: str) -> dataset.Manifest | None:
    """Returns the manifest of the conversion whose `identity` is expected, None without a manifest.

    Raises:
      OtherData: the manifest is that of another conversion.
      InputError: a shard is missing or has another size.
    """
    if not (output / dataset.MANIFEST).exists():
        return None
    manifest = dataset.load_manifest(output)
    if manifest.raw.get("arguments", {}).get("identity") != expected:
        raise OtherData(
            f"{output} holds another data set, or this one converted with other flags; choose "
            "another --output, or give --overwrite."
        )
    dataset.check_shards(manifest)
    return manifest


def finish(
    collection: Collection,
    target: Destination,
    options: ConvertOptions,
    written: dict[str, list[Written]],
    planned: plan.ConversionPlan,
) -> dataset.Manifest:
    """Writes the indices, the planned lists and, when all else is on the disk, the manifest.

    Raises:
      InputError: a split has no usable image.
      RunAgain: the disk is full, or the store does not answer.
    """
    output = target.folder
    for name, results in written.items():
        if not sum(result.examples for result in results):
            example = next((f": {x.file} {x.reason}, for one" for x in collection.rejected), "")
            raise InputError(
                f"No image of the {name} split can be used; all were rejected{example}."
            )
    document = _document(collection, output, options, written)
    document["arguments"]["identity"] = planned.identity
    if plan.LABELS in planned.files:
        with commit.written(output / plan.LABELS, output / commit.WORK) as file:
            for number, label in enumerate(collection.classes, 1):
                file.write(f"{number}:{label.text}\n".encode())
    _write_lists(output, collection.classes, written, document["rgb_mean"])
    commit.write_document(output / dataset.MANIFEST, document, output / commit.WORK)
    target.finish(planned.files, options.show_progress)
    target.clean()
    return dataset.load_manifest(target.place)


def _split(output: Path, name: str, results: list[Written]) -> dict:
    """Writes the index of a split; returns the split's part of the manifest."""
    path = output / f"{name}.index"
    with commit.written(path, output / commit.WORK) as file:
        file.write(_column(results, "offset").tobytes())
    keys = ("file", "examples", "bytes", "sha256")
    return {
        "examples": sum(result.examples for result in results),
        "shards": [{key: getattr(result, key) for key in keys} for result in results],
        "index": {"file": path.name, "bytes": file.position, "sha256": file.sha256},
    }


def _column(results: list[Written], name: str) -> np.ndarray:
    return np.concatenate([result.table[name] for result in results])


def _document(
    collection: Collection, output: Path, options: ConvertOptions, written: dict[str, list[Written]]
) -> dict:
    results = [result for split in written.values() for result in split]
    repairs = [fault for result in results for fault in result.repairs]
    rejected = [*collection.rejected, *(fault for result in results for fault in result.rejected)]
    twins = duplicates(output, written)
    lists = {"repairs": repairs, "rejected": rejected, "duplicates": twins}
    count = sum(result.rgb_images for result in written.get("train", ()))
    total = np.sum([result.rgb_sum for result in written.get("train", ())], axis=0)
    classes = [
        {"label": number, "synset": label.synset, "text": label.text}
        for number, label in enumerate(collection.classes, 1)
    ]
    return {
        "format_version": dataset.FORMAT_VERSION,
        "partial": options.partial,
        "classes": classes,
        "splits": {name: _split(output, name, rows) for name, rows in written.items()},
        "rgb_mean": [round(float(value), 3) for value in total / count] if count else None,
        "rgb_mean_examples": count,
        **{name: _rows(rows) for name, rows in lists.items()},
        "omitted": {name: max(0, len(rows) - MAX_ROWS) for name, rows in lists.items()},
        "warnings": [
            *collection.warnings,
            *_unexpected(options, repairs),
            *_alike(collection.classes),
            *_contradictions(output, collection.classes, written),
        ],
        "source": list(collection.source),
        "arguments": options.recorded(),
        **({"orientation": "exif"} if options.upright or collection.upright else {}),
        **({"notes": list(collection.notes)} if collection.notes else {}),
        **({"none": collection.none} if collection.none else {}),
    }


def _rows(faults: list) -> list[dict]:
    ordered = sorted(faults, key=dataclasses.astuple)
    return [dataclasses.asdict(fault) for fault in ordered[:MAX_ROWS]]


def _unexpected(options: ConvertOptions, repairs: list[Fault]) -> list[str]:
    """Returns a warning if the official archives needed other repairs than they are known to."""
    official = imagenet_archives.OFFICIAL_REPAIRS
    counts = {kind: sum(fault.reason.startswith(kind) for fault in repairs) for kind in official}
    if options.layout != "imagenet" or options.partial or counts == official:
        return []
    return [
        f"{counts['CMYK']} CMYK images and {counts['PNG']} PNG were repaired; the official "
        "archives hold 22 and 1: these are others."
    ]


@dataclasses.dataclass(frozen=True)
class Twin:
    """An image of a later split that is also in an earlier one, byte for byte."""

    file: str
    same_as: str


def duplicates(output: Path, written: dict[str, list[Written]]) -> list[Twin]:
    """Returns images that lie in two splits, 1,000 at most: test images must not be trained on.

    Each image's length and the CRC32C of its middle are known from writing it. Only images that
    agree in both are read again and compared. That costs 12 bytes an image.
    """
    keys = {name: _keys(results) for name, results in written.items()}
    twins: dict[str, Twin] = {}
    for earlier, later in itertools.combinations(written, 2):
        for first, second in _candidates(keys[earlier], keys[later]):
            name, image = _image(output, written[earlier], first)
            other, twin = _image(output, written[later], second)
            if image == twin:
                file = f"{later}/{other}"
                twins.setdefault(file, Twin(file, f"{earlier}/{name}"))
            if len(twins) == MAX_COMPARED:
                return list(twins.values())
    return list(twins.values())


def _alike(classes: Sequence[labels.Label]) -> list[str]:
    """Returns a warning for each two classes whose names differ in case or spaces alone."""
    found: dict[str, str] = {}
    warnings = []
    for name in (label.synset for label in classes):
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        if key in found:
            warnings.append(
                f"the classes {printable(found[key])!r} and {printable(name)!r} differ in case or "
                "spaces alone; if they are one class, give them one name."
            )
        found[key] = name
    return warnings


def _contradictions(
    output: Path, classes: Sequence[labels.Label], written: dict[str, list[Written]]
) -> list[str]:
    """Returns a warning if images lie in two classes, of the same split or of two."""
    results = [result for rows in written.values() for result in rows]
    keys, numbers = _keys(results), _column(results, "label")
    pairs = ((a, b) for a, b in _candidates(keys, keys) if numbers[a] != numbers[b])
    found = []
    for pair in itertools.islice(pairs, MAX_COMPARED):
        (name, image), (other, twin) = (_image(output, results, number) for number in pair)
        if image == twin:
            ours, others = (classes[numbers[number] - 1].text for number in pair)
            found.append(f"{name} ({ours}) = {other} ({others})")
    if not found:
        return []
    count = "1 image lies" if len(found) == 1 else f"{len(found):,} images lie"
    return [f"{count} in two classes, {found[0]} for one; remove each from the wrong one."]


def _keys(results: list[Written]) -> np.ndarray:
    """Returns length and CRC of each image as one number: [examples] uint64."""
    return _column(results, "size").astype(np.uint64) << np.uint64(32) | _column(results, "crc")


def _candidates(earlier: np.ndarray, later: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields (index in `earlier`, index in `later`) of equal numbers, one for each of `later`."""
    order = np.argsort(earlier, kind="stable")
    positions = np.searchsorted(earlier, later, sorter=order)
    inside = np.flatnonzero(positions < len(earlier))
    equal = inside[earlier[order[positions[inside]]] == later[inside]]
    for index in equal.tolist():
        yield int(order[positions[index]]), index


def _image(output: Path, results: list[Written], number: int) -> tuple[str, bytes]:
    """Returns the name and the bytes of a split's image by its number."""
    for result in results:
        if number < result.examples:
            break
        number -= result.examples
    start, end = np.append(result.table["offset"], result.bytes)[number : number + 2].tolist()
    with files.open_file(output / result.file) as file:
        payload = tfrecord.read(file.fileno(), start, end - start, result.file, number)
    return result.names[number], example.decode_example(payload)["image/encoded"][0]


def _write_lists(
    output: Path,
    classes: Sequence[labels.Label],
    written: dict[str, list[Written]],
    mean: list[float] | None,
) -> None:
    """Writes all lists except for labels.txt, which may be the source's."""
    rows = ((number, label.text) for number, label in enumerate(classes))
    _write_csv(output / plan.CATEGORIES, ("id", "label"), rows)
    for name, results in written.items():
        pairs = (
            (image, label - 1)
            for result in results
            for image, label in zip(result.names, result.table["label"].tolist(), strict=True)
        )
        _write_csv(output / plan.LISTS[name], ("image", "class"), pairs)
    if mean:
        with commit.written(output / plan.MEAN, output / commit.WORK) as file:
            file.write(json.dumps(dict(zip("RGB", mean, strict=True))).encode() + b"\n")


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple]) -> None:
    with commit.written(path, path.parent / commit.WORK) as file:
        rows = itertools.chain([header], rows)
        while batch := list(itertools.islice(rows, 10_000)):  # ImageNet has over a million
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(batch)
            file.write(text.getvalue().encode())
