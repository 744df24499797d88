"""Cuts splits into shards and writes a shard, the job of a worker process; no TensorFlow."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import operator
import os
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np

from squeezenext import files, labels
from squeezenext.convert import commit, images
from squeezenext.convert.listing import Collection, Fault, Listing, random_order, unpacked
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
    """A shard to write."""

    path: Path
    listing: Listing  # its examples, in order
    classes: dict[int, labels.Label]  # classes of the shard's examples, by label
    verify_images: bool  # decode every image
    mean_of: int  # number of images, from the first, that count towards the mean colour
    smaller: images.Smaller | None
    upright: bool  # turn images as EXIF's orientation says
    plan: str  # key of the conversion, `ConversionPlan.key`


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
    """Returns (split, job) of every shard: a function of the names, the seed and the options."""
    smaller = images.Smaller(options.max_side, options.quality) if options.max_side else None
    jobs = []
    for split, full in collection.splits.items():
        ordered = full.take(random_order(full.names, options.seed))
        names = shard_names(collection, split, options)
        # The order is random, so the first images of each shard are a fair sample of colours.
        sample = mean_sample(len(full.names), full.bytes) if split == "train" else 0
        runs = even_runs(len(full.names), len(names)), even_runs(sample, len(names))
        for name, run, quota in zip(names, *runs, strict=True):
            listing = ordered.take(np.arange(run.start, run.stop))
            used = np.unique(listing.table["label"]).tolist()
            classes = {label: collection.classes[label - 1] for label in used}
            mean_of = quota.stop - quota.start
            how = options.verify_images, mean_of, smaller, options.upright
            jobs.append((split, ShardJob(output / name, listing, classes, *how, plan)))
    return jobs


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


# The start, size, `content_crc` and label of each record.
RECORD = np.dtype([("offset", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("label", "<i4")])


@dataclasses.dataclass
class Written:
    """A shard as it was written."""

    file: str  # name in the output folder
    draft: str = ""  # name in the work folder until it is published
    plan: str = ""  # key of the conversion
    bytes: int = 0
    sha256: str = ""
    table: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, RECORD))  # [examples]
    names: list[str] = dataclasses.field(default_factory=list)  # names of the images
    rgb_sum: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.0, 0.0])
    rgb_images: int = 0  # number of images whose mean colours `rgb_sum` adds up
    repairs: list[Fault] = dataclasses.field(default_factory=list)  # images that were changed
    rejected: list[Fault] = dataclasses.field(default_factory=list)  # images that are not used

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
    """Reads what `Written.note` wrote; ValueError, TypeError or KeyError if it is damaged."""
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
    if (finished := _noted(job)) is not None:
        return finished
    result, rows = Written(job.path.name, plan=job.plan), []
    with commit.drafted(job.path, job.path.parent / commit.WORK) as file:
        for name, label, image in _images(job, result):
            rows.append((file.position, len(image.data), content_crc(image.data), label))
            result.names.append(name)
            file.write(*tfrecord.frame_parts(_encode(job, name, label, image)))
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


def _note(shard: Path) -> Path:
    return shard.parent / commit.WORK / f"{shard.name}.json"


def _noted(job: ShardJob) -> Written | None:
    """Returns what the note says, if the shard is still what was written, to the last bit."""
    try:
        noted = _read_note(_note(job.path).read_bytes())
        if (noted.file, noted.plan) != (job.path.name, job.plan):
            return None
        with job.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return noted if digest == noted.sha256 else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def content_crc(image: bytes) -> int:
    """Returns the CRC32C of the image's middle, which is enough to find possible duplicates."""
    middle = len(image) // 2
    return google_crc32c.value(image[middle : middle + 1024])


def _images(job: ShardJob, result: Written) -> Iterator[tuple[str, int, images.Normalised]]:
    """Yields name, label and image where it is usable; adds what it finds to `result`."""
    examples = zip(job.listing.names, _contents(job.listing), strict=True)
    for index, (name, (label, data, stated)) in enumerate(examples):
        try:
            data = unpacked(data, *stated)
            image = images.normalise(data, job.verify_images, job.smaller, job.upright)
            mean = images.rgb_mean(image.data) if index < job.mean_of else None
        except images.ImageError as error:
            result.rejected.append(Fault(name, str(error)))
            continue
        if mean:
            result.rgb_sum = list(map(operator.add, result.rgb_sum, mean))
            result.rgb_images += 1
        if image.repair:
            result.repairs.append(Fault(name, image.repair))
        yield name, label, image


def image_bytes(listing: Listing, number: int) -> bytes:
    """Returns the bytes of one image, in any thread. Raises as `_contents` and `unpacked`."""
    with contextlib.closing(_contents(listing.take(np.array([number])))) as content:
        _, data, stated = next(content)
    return unpacked(data, *stated)


def _contents(listing: Listing) -> Iterator[tuple[int, bytes, tuple[int, int, int]]]:
    """Yields label, bytes as they are stored, and what else `unpacked` takes, of each image.

    Of one that is too large there are only enough bytes to show that.

    Raises:
      InputError: a file is gone, or shorter than when it was listed.
    """
    rows = listing.table.tolist()  # numpy's rows cost 5 us each
    for number, run in itertools.groupby(rows, operator.itemgetter(0)):
        path = listing.files[number]
        with files.open_file(path) as file:  # once for many images of an archive
            for _, offset, size, label, packed, crc in run:
                held = packed or min(size, decoding.MAX_BYTES + 1)
                data = files.pread(file.fileno(), held, offset)
                if len(data) != held:
                    raise InputError(
                        f"{path} became shorter while it was read; run the command again."
                    )
                yield label, data, (size, packed, crc)


def _encode(job: ShardJob, name: str, label: int, image: images.Normalised) -> list[bytes]:
    named, boxes = job.classes[label], records_example.NO_BOXES
    if corners := job.listing.boxes.get(name):
        boxes = np.frombuffer(corners, np.float32).reshape(-1, 4)
    example = records_example.ImageExample(
        image.data, image.height, image.width, label, named.synset, named.text, name, boxes
    )
    return records_example.example_parts(example)
