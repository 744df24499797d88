"""Writes one shard: the job of a worker process. Imports no TensorFlow."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from squeezenext import labels
from squeezenext.convert import commit, images
from squeezenext.convert.listing import Fault, Listing, SourceReader
from squeezenext.records import example as records_example
from squeezenext.records import tfrecord


@dataclasses.dataclass(frozen=True)
class Job:
    """A shard to write: where, from what, and how."""

    path: Path
    listing: Listing
    classes: dict[int, labels.Label]  # those of this shard, by label
    verify_images: bool = False
    mean_of: int = 0  # the first so many count towards rgb_mean
    smaller: images.Smaller | None = None
    plan: str = ""  # the conversion's, `Plan.key`


# What is known of each record: where it starts, its class, its image's length and `fingerprint`.
RECORD = np.dtype([("offset", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("label", "<i4")])


@dataclasses.dataclass
class Written:
    """A shard, and what was seen while it was written.

    `table`: [examples] of RECORD; `names`: each one's file name; `rgb_sum`: the sum of the
    mean colours of the `rgb_images` images that were decoded; `draft`: its name in the work
    folder as long as it is not in its place; `plan`: the conversion's.
    """

    file: str
    draft: str = ""
    plan: str = ""
    bytes: int = 0
    sha256: str = ""
    table: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, RECORD))
    names: list[str] = dataclasses.field(default_factory=list)
    rgb_sum: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.0, 0.0])
    rgb_images: int = 0
    repairs: list[Fault] = dataclasses.field(default_factory=list)
    rejected: list[Fault] = dataclasses.field(default_factory=list)

    @property
    def examples(self) -> int:
        return len(self.names)

    def note(self) -> bytes:
        """Returns this as JSON behind its own SHA-256, to be read after a restart."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["table"] = self.table.tolist()
        text = json.dumps(fields, default=dataclasses.asdict).encode()
        return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def read_note(note: bytes) -> Written:
    """Returns what `Written.note` wrote.

    Raises:
      ValueError, TypeError, KeyError: it is something else, or damaged.
    """
    digest, _, text = note.partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise ValueError("the note is damaged")
    fields = json.loads(text)
    for key in ("repairs", "rejected"):
        fields[key] = [Fault(**row) for row in fields[key]]
    return Written(**fields | {"table": np.array([tuple(r) for r in fields["table"]], RECORD)})


def write(job: Job) -> Written:
    """Writes the shard and puts it in its place, with a note of it in the work folder.

    Raises:
      InputError: the source cannot be read or has changed.
      RunAgain: the disk is full.
    """
    return put(job.path.parent, draft(job))


def draft(job: Job) -> Written:
    """Writes the shard in the work folder; done before, reads its note. Raises as `write`.

    `put`, in whichever process, does the rest: a worker need not wait for the disk.
    """
    work = job.path.parent / commit.WORK
    if (known := _noted(job)) is not None:
        return known
    result, rows = Written(job.path.name, plan=job.plan), []
    labels_of, names = job.listing.table["label"].tolist(), job.listing.names
    with commit.drafted(job.path, work) as file:
        for place, image in _images(job, result):
            label = labels_of[place]
            rows.append((file.position, len(image.data), fingerprint(image.data), label))
            result.names.append(names[place])
            file.write(*tfrecord.frame_parts(_encode(job, names[place], label, image)))
    result.table, result.bytes = np.array(rows, RECORD), file.position
    result.sha256, result.draft = file.sha256, file.path.name
    return result


def put(folder: Path, drafted: Written) -> Written:
    """Puts a drafted shard in its place in `folder`, then its note. Raises as `write`.

    A shard without a note is written again. The note is not flushed: whatever a power cut
    makes of it, its own SHA-256 and the shard's tell.
    """
    if not drafted.draft:
        return drafted
    path, work = folder / drafted.file, folder / commit.WORK
    result = dataclasses.replace(drafted, draft="")
    commit.put(work / drafted.draft, path)
    with commit.drafted(_note(path), work) as file:
        file.write(result.note())
    with commit.explained(path):
        os.replace(file.path, _note(path))
    return result


def drop(folder: Path, drafted: Written) -> None:
    """Removes a draft that is not to be put in its place."""
    if drafted.draft:
        with contextlib.suppress(OSError):
            (folder / commit.WORK / drafted.draft).unlink(missing_ok=True)


def _note(shard: Path) -> Path:
    return shard.parent / commit.WORK / f"{shard.name}.json"


def fingerprint(image: bytes) -> int:
    """Returns the CRC32C of the image's middle: enough to find what may be equal to what."""
    middle = len(image) // 2
    return google_crc32c.value(image[middle : middle + 1024])


def _noted(job: Job) -> Written | None:
    """Returns what the note says if the shard still is what was written, to the last bit."""
    try:
        known = read_note(_note(job.path).read_bytes())
        if (known.file, known.plan) != (job.path.name, job.plan):
            return None
        with job.path.open("rb") as file:
            return known if sha256(file) == known.sha256 else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def sha256(file: BinaryIO) -> str:
    """Returns the digest of what is left of a file."""
    digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _images(job: Job, result: Written) -> Iterator[tuple[int, images.Normalised]]:
    """Yields each usable image with its place; what is seen on the way goes to `result`."""
    reader = SourceReader(job.listing)
    try:
        for place, name in enumerate(job.listing.names):
            try:
                image = images.normalise(reader.read(place), job.verify_images, job.smaller)
                mean = images.rgb_mean(image.data) if place < job.mean_of else None
            except images.ImageError as error:
                result.rejected.append(Fault(name, str(error)))
                continue
            if mean:
                pairs = zip(result.rgb_sum, mean, strict=True)
                result.rgb_sum = [before + more for before, more in pairs]
                result.rgb_images += 1
            if image.repair:
                result.repairs.append(Fault(name, image.repair))
            yield place, image
    finally:
        reader.close()


def _encode(job: Job, name: str, label: int, image: images.Normalised) -> list[bytes]:
    known, corners = job.classes[label], records_example.NO_BOXES
    if boxes := job.listing.boxes.get(name):
        corners = np.frombuffer(boxes, np.float32).reshape(-1, 4)
    example = records_example.ImageExample(
        image.data, image.height, image.width, label, known.synset, known.text, name, corners
    )
    return records_example.example_parts(example)
