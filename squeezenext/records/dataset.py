"""Which records and classes a command works on: a data directory, or shards made elsewhere."""

import concurrent.futures
import dataclasses
import glob
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from squeezenext import files, labels
from squeezenext.cli import plural
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.records import example, manifest, tfrecord
from squeezenext.records.example import RecordError
from squeezenext.records.manifest import Shard, Split

# Records are read at random by (shard, offset, length): an exact global shuffle needs no buffer.
INDEX_DTYPE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<i8")])


def split_from_pattern(name: str, pattern: str) -> Split:
    """Returns a split of TF-slim shards that have no manifest, by walking their headers.

    Raises:
      InputError: no file matches, or one cannot be read.
      RecordError: a file is cut or no TFRecord.
    """
    paths = [Path(path) for path in sorted(glob.glob(os.path.expanduser(pattern)))]
    if not paths:
        raise InputError(
            f"No file matches {pattern}; quote the pattern so that the shell keeps it."
        )
    walked = _walk_all(paths)
    shards = tuple(
        Shard(path, len(starts) - 1, int(starts[-1]), "")
        for path, starts in zip(paths, walked, strict=True)
    )
    return Split(name, shards, walked=walked)


def index(split: Split) -> np.ndarray:
    """Returns the position of every record of the split, in shard order.

    It comes from a file beside the shards (`train.index`) or, without one, from walking the shards.

    Returns:
      [examples] of `INDEX_DTYPE`: index in `split.shards`, first byte, length with the framing.

    Raises:
      RecordError: a shard is damaged or holds another number of records than promised.
    """
    starts = None if split.walked else _from_sidecar(split)
    if starts is None:
        starts = split.walked or _walk_all([shard.path for shard in split.shards])
        for shard, offsets in zip(split.shards, starts, strict=True):
            if len(offsets) - 1 != shard.examples:
                raise RecordError(
                    f"{shard.path} holds {len(offsets) - 1} records, the manifest says "
                    f"{shard.examples}; copy or convert this shard again."
                )
    table = np.empty(split.examples, INDEX_DTYPE)
    table["shard"] = np.repeat(np.arange(len(starts)), [len(offsets) - 1 for offsets in starts])
    table["offset"] = np.concatenate([offsets[:-1] for offsets in starts] or [[]])
    table["length"] = np.concatenate([np.diff(offsets) for offsets in starts] or [[]])
    return table


class Records:
    """The records of a split, read by number and with their checksums; no TensorFlow."""

    def __init__(self, split: Split):
        self.split = split
        self.index = index(split)
        self._first = np.cumsum([0, *(shard.examples for shard in split.shards)])

    def location(self, number: int) -> tuple[Path, int]:
        """Returns a record's shard, and the record's number in it."""
        shard = int(self.index[number]["shard"])
        return self.split.shards[shard].path, number - int(self._first[shard])

    def read_one(self, number: int) -> bytes:
        """Returns the payload of a record; raises as `tfrecord.read`."""
        path, own_number = self.location(number)
        _, offset, length = (int(value) for value in self.index[number])
        with files.open_file(path) as file:
            return tfrecord.read(file.fileno(), offset, length, str(path), own_number)

    def payload(self, number: int) -> bytes:
        """Returns the payload that stands for a record; here its own."""
        return self.read_one(number)

    def labels(self, classes: int, report_progress: Callable[[], None] | None = None) -> np.ndarray:
        """Returns each example's class, [examples] int64 in 0..classes - 1; reads all records.

        `report_progress` is called after each record.
        """
        name = f"A record of {self.split.shards[0].path.parent}" if self.split.shards else ""
        found = np.empty(self.split.examples, np.int64)
        for number in range(self.split.examples):
            found[number] = example.image_and_class(self.payload(number), classes, name)[1]
            if report_progress:
                report_progress()
        return found


def _walk_all(paths: Sequence[Path]) -> tuple[np.ndarray, ...]:
    # 16: enough to hide a network file system's latency; the work itself holds the GIL.
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return tuple(pool.map(tfrecord.offsets, paths))


def _from_sidecar(split: Split) -> tuple[np.ndarray, ...] | None:
    """Returns [examples + 1] offsets a shard from the sidecar, or None if it does not fit."""
    try:
        data = split.sidecar.path.read_bytes() if split.sidecar else b""
    except OSError:
        return None
    if not data or len(data) != 8 * split.examples:
        return None
    if hashlib.sha256(data).hexdigest() != split.sidecar.sha256:
        return None
    ends = np.cumsum([shard.examples for shard in split.shards])
    parts = zip(np.split(np.frombuffer(data, "<i8"), ends[:-1]), split.shards, strict=True)
    starts = tuple(np.append(part, shard.bytes) for part, shard in parts)
    fits = all(offsets[0] == 0 and (np.diff(offsets) >= 0).all() for offsets in starts)
    return starts if fits else None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`splits` by name, `classes` in label order (None: not known), `source` for messages."""

    splits: dict[str, Split]
    classes: tuple[labels.Label, ...] | None
    source: Path


def find_dataset(
    data_dir: str | Path | None, training: str | None, validation: str | None
) -> Dataset:
    """Returns the data of `--data_dir`, or of the two patterns of TF-slim shards.

    Raises:
      InputError: neither or both are given, or they hold no data.
    """
    if bool(data_dir) == bool(training or validation):
        raise InputError(
            "Give --data_dir, or the pattern of records made elsewhere, not both: --data_dir "
            "records (a folder with manifest.json), or --validation_file_pattern 'valid*'."
        )
    if data_dir:
        directory = Path(data_dir).expanduser()
        loaded = manifest.load_manifest(directory)
        manifest.check_shards(loaded)
        return Dataset(loaded.splits, loaded.classes, directory)
    patterns = {"train": training, "validation": validation}
    splits = {
        name: split_from_pattern(name, pattern) for name, pattern in patterns.items() if pattern
    }
    return Dataset(splits, None, Path(training or validation))


def check_split(dataset: Dataset, name: str) -> None:
    """Raises InputError if the data has no such split, or it is empty."""
    if name not in dataset.splits or not dataset.splits[name].examples:
        held = ", ".join(dataset.splits) or "none"
        raise InputError(
            f"{dataset.source} has no {name} split (it has {held}); convert data with one."
        )


def classes_for(dataset: Dataset, config: Config) -> tuple[labels.Label, ...]:
    """Returns the classes, which for shards without a manifest follow from the configuration."""
    if dataset.classes is not None:
        return dataset.classes
    if config.model.classes == len(labels.imagenet()):
        return labels.imagenet()
    return tuple(labels.Label(f"{i}", f"class {i}") for i in range(config.model.classes))


def check_classes(
    dataset: Dataset, expected: tuple[labels.Label, ...], model: Path | None = None
) -> None:
    """Raises InputError if the data's classes are not the model's, by their number and synsets."""
    if dataset.classes is None:
        return
    name = f"the model in {model}" if model else "the model"
    if len(dataset.classes) != len(expected):
        raise InputError(
            f"{dataset.source} has {plural(len(dataset.classes), 'class')}, {name} "
            f"has {len(expected)}; give data of its own classes, or fine-tune it."
        )
    for index, (ours, theirs) in enumerate(zip(dataset.classes, expected, strict=True)):
        if ours.synset != theirs.synset:
            raise InputError(
                f"Class {index} is {ours.synset} in {dataset.source} and {theirs.synset} in "
                f"{name}; give the data that it was trained on, or data of its classes."
            )
