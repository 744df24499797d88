"""Which records and classes a command works on: a data directory, or shards made elsewhere."""

import dataclasses
import glob
from pathlib import Path

from squeezenext import labels, records
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.records import manifest
from squeezenext.records.manifest import Split


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`splits` by name, `classes` in label order (None: not known), `source` for messages."""

    splits: dict[str, Split]
    classes: tuple[labels.Label, ...] | None
    source: Path


def find(data_dir: str | Path | None, training: str | None, validation: str | None) -> Dataset:
    """Returns the data of `--data_dir`, or of the two patterns of TF-slim shards.

    Raises:
      InputError: neither or both are given, or they hold no data.
    """
    if bool(data_dir) == bool(training or validation):
        raise InputError("Give --data_dir, or --training_file_pattern for records made elsewhere.")
    if data_dir:
        inside = Path(data_dir) / "tf-records"
        if not (Path(data_dir) / manifest.MANIFEST).exists() and inside.is_dir():
            raise InputError(f"{data_dir} holds no shards; give --data_dir {inside}.")
        found = manifest.load_manifest(Path(data_dir))
        manifest.check_shards(found)
        return Dataset(found.splits, found.classes, Path(data_dir))
    patterns = {"train": training, "validation": validation}
    splits = {name: _matching(name, pattern) for name, pattern in patterns.items() if pattern}
    return Dataset(splits, None, Path(training or validation))


def check_split(dataset: Dataset, name: str) -> None:
    """Raises:
    InputError: the data has no such split, or it is empty.
    """
    if name not in dataset.splits or not dataset.splits[name].examples:
        raise InputError(f"{dataset.source} has no {name} split; convert it with one.")


def _matching(name: str, pattern: str) -> Split:
    paths = [Path(path) for path in sorted(glob.glob(pattern))]
    if not paths:
        raise InputError(
            f"No file matches {pattern}; quote the pattern so that the shell keeps it."
        )
    return records.split_from_files(name, paths)


def classes_for(dataset: Dataset, config: Config) -> tuple[labels.Label, ...]:
    """Returns the classes, which for shards without a manifest follow from the configuration."""
    if dataset.classes is not None:
        return dataset.classes
    if config.model.classes == len(labels.imagenet()):
        return labels.imagenet()
    return tuple(labels.Label(f"{i}", f"class {i}") for i in range(config.model.classes))


def check_classes(dataset: Dataset, known: tuple[labels.Label, ...], model: Path) -> None:
    """Refuses data whose classes are not a model's.

    Raises:
      InputError: another number of classes, or others by synset.
    """
    if dataset.classes is None:
        return
    if len(dataset.classes) != len(known):
        raise InputError(
            f"{dataset.source} has {len(dataset.classes)} classes, the model in {model} tells "
            f"{len(known)} apart; evaluate it on data of its own classes, or fine-tune it."
        )
    pairs = zip(dataset.classes, known, strict=True)
    for index, (ours, theirs) in enumerate(pairs):
        if ours.synset != theirs.synset:
            raise InputError(
                f"Class {index} is {ours.synset} in {dataset.source} and {theirs.synset} in the "
                f"model in {model}."
            )
