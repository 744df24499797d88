"""Cuts splits into shards and writes a shard, the job of a worker process; no TensorFlow."""

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
from squeezenext.convert.listing import Collection, Fault, Listing, random_order
from squeezenext.convert.options import ConvertOptions
from squeezenext.errors import InputError
from squeezenext.images import decoding
from squeezenext.records import example as records_example
from squeezenext.records import tfrecord

SHARD_BYTES = 100 << 20  # tensorflow.org/guide/data_performance_analysis: 100 to 200 MB
_IMAGENET_SHARDS = {"train": 1024, "validation": 128}
_EXACT_BYTES = 256 << 20  # images whose mean colours take some 5 s


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """A shard to write.

    Attributes:
      path: the file to write.
      listing: its examples, in order.
      classes: the classes of its examples, by label.
      verify_images: decode every image.
      mean_of: how many of the first images count towards the mean colour.
      smaller: what larger images are re-encoded to, None for no limit.
      plan: the key of the conversion, `ConversionPlan.key`.
    """

    path: Path
    listing: Listing
    classes: dict[int, labels.Label]
    verify_images: bool = False
    mean_of: int = 0
    smaller: images.Smaller | None = None
    plan: str = ""


def shard_names(collection: Collection, split: str, options: ConvertOptions) -> list[str]:
    """Returns the file names of a split's shards."""
    if options.layout == "tfrecord":
        return [path.name for path in collection.splits[split].files]
    examples = max(1, len(collection.splits[split].names))
    count = min(_shard_count(collection, split, options), examples)
    return [f"{split}-{index:05d}-of-{count:05d}" for index in range(count)]


def _shard_count(collection: Collection, split: str, options: ConvertOptions) -> int:
    count = getattr(options, f"{split}_shards")
    if count is None and options.layout == "imagenet" and not options.partial:
        count = _IMAGENET_SHARDS[split]
    return count or max(1, round(collection.splits[split].bytes / SHARD_BYTES))


def shard_jobs(
    collection: Collection, output: Path, options: ConvertOptions, plan: str = ""
) -> list[tuple[str, ShardJob]]:
    """Returns (split, job) of every shard: a function of the names, the seed and the options.

    Args:
      collection: the source.
      output: the folder of the shards.
      options: decide the number of shards and the order of examples.
      plan: the key of the conversion.
    """
    return [
        (split, dataclasses.replace(job, plan=plan))
        for split in collection.splits
        for job in _split_jobs(collection, split, output, options)
    ]


def _split_jobs(
    collection: Collection, split: str, output: Path, options: ConvertOptions
) -> list[ShardJob]:
    listing = collection.splits[split]
    ordered = listing.take(random_order(listing.names, options.seed))
    paths = [output / file for file in shard_names(collection, split, options)]
    sample = mean_sample(len(listing.names), listing.bytes) if split == "train" else 0
    runs = even_runs(len(listing.names), len(paths)), even_runs(sample, len(paths))
    return [
        _shard_job(collection, ordered, run, quota, path, options)
        for path, run, quota in zip(paths, *runs, strict=True)
    ]


def _shard_job(
    collection: Collection,
    ordered: Listing,
    run: slice,
    quota: slice,
    path: Path,
    options: ConvertOptions,
) -> ShardJob:
    """The order is random, so the first images of each shard are a fair sample of colours."""
    listing = ordered.take(np.arange(run.start, run.stop))
    classes = {
        int(label): collection.classes[label - 1] for label in np.unique(listing.table["label"])
    }
    smaller = images.Smaller(options.max_side, options.quality) if options.max_side else None
    mean_of = quota.stop - quota.start
    return ShardJob(path, listing, classes, options.verify_images, mean_of, smaller)


def even_runs(examples: int, shards: int) -> list[slice]:
    """Cuts `examples` into `shards` runs whose lengths differ by at most one."""
    bounds = [index * examples // shards for index in range(shards + 1)]
    return [slice(*pair) for pair in zip(bounds, bounds[1:], strict=False)]


def mean_sample(examples: int, size: int) -> int:
    """Returns how many training images the mean colour is computed from.

    All of them up to 256 MB; else 400 and a hundredth of all. Mean colours of photographs have a
    deviation of 35 in 0..255, so the standard error is 0.3 for ImageNet's 13,211 and at most 1.7
    for smaller sets: a fiftieth of the 58 by which pixels deviate. Each image costs 2 ms, as much
    as converting fifteen.
    """
    return examples if size <= _EXACT_BYTES else min(examples, 400 + examples // 100)


# Start, class, image size and `content_crc` of each record.
RECORD = np.dtype([("offset", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("label", "<i4")])


@dataclasses.dataclass
class Written:
    """A shard as it was written.

    Attributes:
      file: its name in the output folder.
      draft: its name in the work folder until it is published, "" afterwards.
      plan: the key of the conversion.
      bytes: its size.
      sha256: its digest.
      table: [examples] of `RECORD`.
      names: the images' names.
      rgb_sum: the sum of the mean colours of the decoded images.
      rgb_images: the number of those images.
      repairs: images that were changed.
      rejected: images that could not be used.
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
        """The number of records."""
        return len(self.names)

    def note(self) -> bytes:
        """Returns this as JSON after its own SHA-256, for a later run to read."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["table"] = self.table.tolist()
        text = json.dumps(fields, default=dataclasses.asdict).encode()
        return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


def _read_note(note: bytes) -> Written:
    """Reads what `Written.note` wrote.

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


def write(job: ShardJob) -> Written:
    """Writes a shard and publishes it, with a note about it in the work folder.

    Raises:
      InputError: the source cannot be read or has changed.
      RunAgain: the disk is full.
    """
    return publish(job.path.parent, draft(job))


def draft(job: ShardJob) -> Written:
    """Writes a shard in the work folder, or reads the note of one that is finished.

    `publish`, in whichever process, does the rest, so a worker need not wait for the disk. Raises
    as `write`.
    """
    work = job.path.parent / commit.WORK
    if (known := _noted(job)) is not None:
        return known
    result, rows = Written(job.path.name, plan=job.plan), []
    labels_of, names = job.listing.table["label"].tolist(), job.listing.names
    with commit.drafted(job.path, work) as file:
        for index, image in _images(job, result):
            label = labels_of[index]
            rows.append((file.position, len(image.data), content_crc(image.data), label))
            result.names.append(names[index])
            file.write(*tfrecord.frame_parts(_encode(job, names[index], label, image)))
    result.table, result.bytes = np.array(rows, RECORD), file.position
    result.sha256, result.draft = file.sha256, file.path.name
    return result


def publish(folder: Path, drafted: Written) -> Written:
    """Moves a drafted shard into `folder`, then its note into the work folder. Raises as `write`.

    A shard without a note is written again. The note is not flushed: after a power cut, its own
    SHA-256 and the shard's show whether it is true.
    """
    if not drafted.draft:
        return drafted
    path, work = folder / drafted.file, folder / commit.WORK
    result = dataclasses.replace(drafted, draft="")
    commit.publish(work / drafted.draft, path)
    with commit.drafted(_note(path), work) as file:
        file.write(result.note())
    with commit.explained(path):
        os.replace(file.path, _note(path))
    return result


def drop(folder: Path, drafted: Written) -> None:
    """Removes a draft that will not be published."""
    if drafted.draft:
        with contextlib.suppress(OSError):
            (folder / commit.WORK / drafted.draft).unlink(missing_ok=True)


def _note(shard: Path) -> Path:
    return shard.parent / commit.WORK / f"{shard.name}.json"


def _noted(job: ShardJob) -> Written | None:
    """Returns what the note says, if the shard is still what was written, to the last bit."""
    try:
        known = _read_note(_note(job.path).read_bytes())
        if (known.file, known.plan) != (job.path.name, job.plan):
            return None
        with job.path.open("rb") as file:
            return known if sha256(file) == known.sha256 else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def content_crc(image: bytes) -> int:
    """Returns the CRC32C of the image's middle, which is enough to find possible duplicates."""
    middle = len(image) // 2
    return google_crc32c.value(image[middle : middle + 1024])


def sha256(file: BinaryIO) -> str:
    """Returns the digest of the rest of a file."""
    digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _images(job: ShardJob, result: Written) -> Iterator[tuple[int, images.Normalised]]:
    """Yields each usable image with its index; adds repairs, rejections and colours to `result`."""
    with contextlib.closing(_ImageReader(job.listing)) as reader:
        for index, name in enumerate(job.listing.names):
            try:
                image = images.normalise(reader.read(index), job.verify_images, job.smaller)
                mean = images.rgb_mean(image.data) if index < job.mean_of else None
            except images.ImageError as error:
                result.rejected.append(Fault(name, str(error)))
                continue
            if mean:
                pairs = zip(result.rgb_sum, mean, strict=True)
                result.rgb_sum = [before + more for before, more in pairs]
                result.rgb_images += 1
            if image.repair:
                result.repairs.append(Fault(name, image.repair))
            yield index, image


class _ImageReader:
    """Reads images' bytes; the last file stays open, since an archive holds many."""

    def __init__(self, listing: Listing) -> None:
        self._files = listing.files
        self._rows = listing.table[["file", "offset", "size"]].tolist()  # numpy's cost 5 us each
        self._file = self._descriptor = -1

    def read(self, index: int) -> bytes:
        """Returns the bytes of the image at `index`.

        Raises:
          ImageError: it is too large.
          InputError: the file is gone, or shorter than when it was listed.
        """
        file, offset, size = self._rows[index]
        if size > decoding.MAX_BYTES:
            raise images.ImageError(f"is larger than {decoding.MAX_BYTES >> 20} MB")
        try:
            if file != self._file:
                self._open(file)
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise InputError(
                f"{self._files[file]} cannot be read ({error.strerror}); mend that and run the "
                "command again."
            ) from error
        if len(data) != size:
            raise InputError(
                f"{self._files[file]} became shorter while it was read; run the command again."
            )
        return data

    def _open(self, file: int) -> None:
        self.close()
        self._descriptor = os.open(self._files[file], os.O_RDONLY | os.O_CLOEXEC)
        self._file = file

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._file = self._descriptor = -1


def _encode(job: ShardJob, name: str, label: int, image: images.Normalised) -> list[bytes]:
    known, corners = job.classes[label], records_example.NO_BOXES
    if boxes := job.listing.boxes.get(name):
        corners = np.frombuffer(boxes, np.float32).reshape(-1, 4)
    example = records_example.ImageExample(
        image.data, image.height, image.width, label, known.synset, known.text, name, corners
    )
    return records_example.example_parts(example)
