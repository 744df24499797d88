"""The data of a command: a data directory with manifest.json, or shards made elsewhere."""

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from squeezenext import files, labels
from squeezenext.cli import module_command, plural
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.records import stores, tfrecord

MANIFEST = "manifest.json"
_CONVERT = module_command("datasets.convert")
ANEW = f"convert the data again ({_CONVERT} ... --overwrite)"
FORMAT_VERSION = 1
MAX_SHARDS = 100_000
MAX_NUMBER = 1 << 50  # bytes of a shard or examples of a split: a petabyte

_REQUIRED = {"format_version", "classes", "splits", "rgb_mean", "repairs", "rejected"}
_OPTIONAL = {"source", "arguments", "partial", "duplicates", "omitted", "rgb_mean_examples"}
_OPTIONAL |= {"warnings", "orientation", "none", "notes"}


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file."""

    path: stores.AnyPath
    examples: int
    bytes: int
    sha256: str  # empty where nobody recorded it


@dataclasses.dataclass(frozen=True)
class Split:
    """The shards of "train", "validation" or "test", in order."""

    name: str
    shards: tuple[Shard, ...]
    sidecar: Shard | None = None  # file with every record's offset
    # [examples + 1] offsets a shard, where the shards were walked: they are walked once.
    walked: tuple[np.ndarray, ...] = dataclasses.field(default=(), compare=False, repr=False)

    @property
    def examples(self) -> int:
        """The number of examples in all shards."""
        return sum(shard.examples for shard in self.shards)

    def shards_sha256(self) -> str:
        """Returns a hash that tells one split from another, wherever its folder lies."""
        shards = [(shard.path.name, shard.bytes, shard.sha256) for shard in self.shards]
        return hashlib.sha256(json.dumps(shards).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    directory: stores.AnyPath
    classes: tuple[labels.Label, ...]
    splits: dict[str, Split]
    rgb_mean: tuple[float, float, float] | None
    raw: dict[str, Any]  # the whole document, with repairs and rejected files


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`splits` by name, `classes` in label order (None: not known), `source` for messages.

    `upright`: whether images were turned as EXIF says, so that a model's own images must be, too.
    """

    splits: dict[str, Split]
    classes: tuple[labels.Label, ...] | None
    source: stores.AnyPath
    upright: bool = False


def load_manifest(directory: str | stores.AnyPath) -> Manifest:
    """Reads and checks `directory`/manifest.json; the shards themselves are not opened.

    Raises:
      InputError: there is none, or it is not one that this version wrote.
    """
    directory = stores.place(directory)
    document = _load_json(directory)
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{directory / MANIFEST} has format_version {version!r}, this program reads "
            f"{FORMAT_VERSION}; {ANEW}."
        )
    try:
        return _manifest(directory, document)
    except (TypeError, ValueError) as error:
        raise InputError(f"{directory / MANIFEST} is damaged: {error}; {ANEW}.") from error


def _load_json(directory: stores.AnyPath) -> Any:
    path = directory / MANIFEST
    if isinstance(directory, stores.Address):
        try:
            text = path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(
                f"{directory} has no {MANIFEST}, so it is no finished data set; this makes one: "
                f"{_CONVERT} --layout folder --source PHOTOS --output {directory}."
            ) from error
    else:
        text = _manifest_bytes(directory)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); {ANEW}.") from error


def _manifest_bytes(directory: Path) -> bytes:
    if not directory.is_dir():
        raise InputError(
            f"{directory} is no folder; give the one that holds {MANIFEST}, the --output of "
            f"{_CONVERT}."
        )
    path = directory / MANIFEST
    if not path.exists():
        inner = sorted(directory.glob(f"*/{MANIFEST}"))
        made = f"{_CONVERT} --layout folder --source {shlex.quote(str(directory))} --output RECORDS"
        raise InputError(
            f"{directory} has no {MANIFEST}; did you mean {inner[0].parent}?"
            if inner
            else f"{directory} has no {MANIFEST}, so it is no finished data set; of a folder of "
            f"photographs this makes one: {made}."
        )
    return files.read_bytes(path, files.MAX_BYTES)


def _manifest(directory: stores.AnyPath, document: dict) -> Manifest:
    _keys(document, _REQUIRED, _OPTIONAL, "the manifest")
    entries = _typed(document["splits"], dict, "splits")
    splits = {_name(name): _split(directory, name, entry) for name, entry in entries.items()}
    classes, mean = _classes(document["classes"]), _mean(document["rgb_mean"])
    return Manifest(directory, classes, splits, mean, document)


def _classes(entries: Any) -> tuple[labels.Label, ...]:
    for entry in _typed(entries, list, "classes"):
        _keys(entry, {"label", "synset", "text"}, set(), "a class")
        if not isinstance(entry["synset"], str) or not isinstance(entry["text"], str):
            raise ValueError(f"the class {entry['label']!r} has a name that is no text")
    ordered = sorted(entries, key=lambda entry: _number(entry["label"], "label"))
    if [entry["label"] for entry in ordered] != list(range(1, len(ordered) + 1)):
        raise ValueError("the labels are not 1..N, each once")
    return labels.as_texts([labels.Label(entry["synset"], entry["text"]) for entry in ordered])


def _split(directory: stores.AnyPath, name: str, entry: Any) -> Split:
    _keys(entry, {"examples", "shards"}, {"index"}, f"the split {name!r}")
    shards = tuple(_shard(directory, item) for item in _typed(entry["shards"], list, "shards"))
    if len(shards) > MAX_SHARDS or len({shard.path for shard in shards}) != len(shards):
        raise ValueError(f"{name} lists a shard twice, or more than {MAX_SHARDS} of them")
    sidecar = None
    if "index" in entry:
        _keys(entry["index"], {"file", "bytes", "sha256"}, set(), "an index")
        sidecar = _shard(directory, {"examples": 0} | entry["index"])
    split = Split(name, shards, sidecar)
    if split.examples != _number(entry["examples"], "examples"):
        raise ValueError(f"{name}'s shards hold {split.examples}, not {entry['examples']}")
    return split


def _shard(directory: stores.AnyPath, entry: Any) -> Shard:
    _keys(entry, {"file", "examples", "bytes", "sha256"}, set(), "a shard")
    sizes = _number(entry["examples"], "examples"), _number(entry["bytes"], "bytes")
    if not isinstance(entry["sha256"], str) or not re.fullmatch("[0-9a-f]{64}|", entry["sha256"]):
        raise ValueError(f"{entry['file']} has no proper sha256")
    return Shard(directory / _name(entry["file"]), *sizes, entry["sha256"])


def _name(name: Any) -> str:
    """Checks a file name from a manifest: it may not lead out of the folder."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w+=@-][\w.+=@-]{0,254}", name):
        raise ValueError(f"{name!r} is no plain file name")
    return name


def _mean(values: Any) -> tuple[float, float, float] | None:
    if values is None:
        return None
    if len(_typed(values, list, "rgb_mean")) != 3 or not all(
        isinstance(value, (int, float)) and 0 <= value <= 255 for value in values
    ):
        raise ValueError("rgb_mean is not three numbers in 0..255")
    return tuple(float(value) for value in values)


def _keys(entry: Any, required: set[str], optional: set[str], what: str) -> None:
    names = set(_typed(entry, dict, what))
    if missing := sorted(required - names):
        raise ValueError(f"{what} has no {missing[0]!r}")
    if unknown := sorted(names - required - optional):
        raise ValueError(f"{what} has the unknown field {unknown[0]!r}")


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{what} is no JSON {'object' if kind is dict else 'list'}")
    return value


def _number(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"{what} is {value!r}, no whole number in 0..{MAX_NUMBER}")
    return value


def check_shards(manifest: Manifest) -> None:
    """Raises InputError for the first shard that is absent or has another size; opens none."""
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    for shard, size in zip(shards, stores.sizes_of([shard.path for shard in shards]), strict=True):
        if isinstance(size, OSError):
            raise InputError(
                f"{shard.path} cannot be read ({size.strerror}) but is in {MANIFEST}; "
                f"copy it again, or {ANEW}."
            ) from size
        if size != shard.bytes:
            raise InputError(
                f"{shard.path} has {size} bytes, {MANIFEST} says {shard.bytes}; "
                f"copy it again, or {ANEW}."
            )


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
    walked = tfrecord.walk_all(paths)
    shards = tuple(
        Shard(path, len(starts) - 1, int(starts[-1]), "")
        for path, starts in zip(paths, walked, strict=True)
    )
    return Split(name, shards, walked=walked)


def holds_upright(directory: Path) -> bool:
    """Returns whether a folder's manifest says that its images were turned upright."""
    with contextlib.suppress(InputError):
        return _is_upright(load_manifest(directory))
    return False


def _is_upright(manifest: Manifest) -> bool:
    return manifest.raw.get("orientation") == "exif"


def find_dataset(
    data_dir: str | Path | None, training: str | Path | None, validation: str | Path | None
) -> Dataset:
    """Returns the data of `--data_dir`, or of the two patterns of TF-slim shards.

    Raises:
      InputError: neither or both are given, or they hold no data.
    """
    if data_dir and (training or validation):
        raise InputError(
            "--data_dir and a pattern of records exclude each other; give one of them."
        )
    if not (data_dir or training or validation):
        raise InputError(
            "No data are given; give --data_dir records (a folder with manifest.json), or the "
            "pattern of records made elsewhere, as --validation_file_pattern 'valid*'."
        )
    if data_dir:
        directory = stores.place(data_dir)
        loaded = load_manifest(directory)
        check_shards(loaded)
        return Dataset(loaded.splits, loaded.classes, directory, _is_upright(loaded))
    patterns = {"train": training, "validation": validation}
    given = {name: str(pattern) for name, pattern in patterns.items() if pattern}
    splits = {name: split_from_pattern(name, pattern) for name, pattern in given.items()}
    source = Path(next(iter(given.values())))
    return Dataset(splits, None, source, holds_upright(source.parent))


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
