"""Writes one shard: the job of a worker process. Imports no TensorFlow."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets import commit, images
from datasets.listing import Fault, Listing
from squeezenext import labels, records
from squeezenext.errors import InputError


@dataclasses.dataclass(frozen=True)
class Job:
    """A shard to write: where, from what, and how."""

    path: Path
    listing: Listing
    classes: dict[int, labels.Label]  # those of this shard, by label
    verify_images: bool


@dataclasses.dataclass(frozen=True)
class Written:
    """A shard that lies in its place, and each record's offset."""

    file: str
    examples: int
    bytes: int
    sha256: str
    offsets: list[int]
    repairs: list[Fault]
    rejected: list[Fault]


def write(job: Job) -> Written:
    """Writes the shard and a note of it in the work folder; done already, reads the note.

    The note comes after the shard's rename: a shard without one is written again.

    Raises:
      InputError: the source cannot be read or has changed.
      RunAgain: the disk is full.
    """
    work = job.path.parent / commit.WORK
    note = work / f"{job.path.name}.json"
    if (known := _noted(note, job.path)) is not None:
        return known
    repairs: list[Fault] = []
    rejected: list[Fault] = []
    digest, offsets, position = hashlib.sha256(), [], 0
    with commit.written(job.path, work) as file:
        for payload in _examples(job, repairs, rejected):
            framed = records.frame(payload)
            file.write(framed)
            digest.update(framed)
            offsets.append(position)
            position += len(framed)
    result = Written(
        job.path.name, len(offsets), position, digest.hexdigest(), offsets, repairs, rejected
    )
    commit.write_json(note, dataclasses.asdict(result), work)
    return result


def _noted(note: Path, shard: Path) -> Written | None:
    try:
        fields = json.loads(note.read_text("utf-8"))
        if shard.stat().st_size != fields["bytes"]:
            return None
    except (OSError, ValueError, KeyError):
        return None
    faults = {key: [Fault(**row) for row in fields[key]] for key in ("repairs", "rejected")}
    return Written(**fields | faults)


def _examples(job: Job, repairs: list[Fault], rejected: list[Fault]) -> Iterator[bytes]:
    """Yields the encoded examples in order; faults are added to the two lists."""
    reader = _Reader(job.listing)
    try:
        for place, name in enumerate(job.listing.names):
            try:
                image = images.normalise(reader.read(place), job.verify_images)
            except images.ImageError as error:
                rejected.append(Fault(name, str(error)))
                continue
            if image.repair:
                repairs.append(Fault(name, image.repair))
            yield _encode(job, place, image)
    finally:
        reader.close()


def _encode(job: Job, place: int, image: images.Normalised) -> bytes:
    name = job.listing.names[place]
    label = int(job.listing.table["label"][place])
    corners = np.frombuffer(job.listing.boxes.get(name, b""), np.float32).reshape(-1, 4)
    features = records.example_features(
        image.data,
        image.height,
        image.width,
        label,
        job.classes[label].synset,
        job.classes[label].text,
        name,
        [records.Box(*corner) for corner in corners.tolist()],
    )
    return records.encode_example(features)


class _Reader:
    """Reads examples' bytes; the last file stays open, since an archive holds many."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._path: Path | None = None
        self._descriptor = -1

    def read(self, place: int) -> bytes:
        """Returns the bytes of the example at `place`.

        Raises:
          ImageError: they are too many.
          InputError: the file is gone, or shorter than when it was listed.
        """
        row = self._listing.table[place]
        path, offset, size = self._listing.files[row["file"]], int(row["offset"]), int(row["size"])
        if size > images.MAX_BYTES:
            raise images.ImageError(f"is larger than {images.MAX_BYTES >> 20} MB")
        try:
            self._open(path)
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}); mend that and run the command again."
            ) from error
        if len(data) != size:
            raise InputError(f"{path} became shorter while it was read; run the command again.")
        return data

    def _open(self, path: Path) -> None:
        if path != self._path:
            self.close()
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._path = path

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._path = -1, None
