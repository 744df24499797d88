"""Lists folders of images: one folder a class, in given or newly made splits."""

import collections
import dataclasses
import re
from pathlib import Path

import numpy as np

from squeezenext import labels
from squeezenext.cli import printable
from squeezenext.convert.listing import (
    Collection,
    Fault,
    Listing,
    Watch,
    check_name,
    random_order,
    sorted_splits,
)
from squeezenext.convert.options import ConvertOptions
from squeezenext.errors import InputError
from squeezenext.images.decoding import ENDINGS

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
_HINT = "make one folder per class, with the images directly in it"
_LINK = "is a symbolic link; give --follow_links"


@dataclasses.dataclass(frozen=True)
class ClassNames:
    """Rules for the names of class folders."""

    pattern: re.Pattern = re.compile("(.+)")  # matches each name; its group is the class
    skip: re.Pattern | None = None
    # Images in a folder of a class are an error. (The published Caltech256 has some, 056.dog/greg.)
    reject_nested: bool = True


@dataclasses.dataclass
class _Walk:
    """The rules of a walk through the folders, and what it reports."""

    follow_links: bool
    names: ClassNames
    faults: list[Fault] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    others: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def collect(source: Path, options: ConvertOptions, names: ClassNames) -> Collection:
    """Lists `source`/CLASS/*.jpg, or `source`/{train,validation,test}/CLASS/*.jpg.

    Raises:
      InputError: no folder, no image, a class without one, or classes in deeper folders.
    """
    walk = _Walk(options.follow_links, names)
    roots = split_folders(source)
    images = {split: _images(root, walk) for split, root in roots.items()}
    if walk.others:
        counts = ", ".join(f"{count} {ending}" for ending, count in walk.others.most_common(5))
        walk.warnings.append(
            f"{walk.others.total()} files in class folders are left out by their endings "
            f"({counts}); photographs among them must be made JPEG first."
        )
    folders = sorted(images["train"])
    for split in images:
        for other in sorted(set(images[split]) - set(folders)):
            raise InputError(f"{roots[split] / other} is a class that {roots['train']} lacks.")
    if len(folders) < 2:
        raise InputError(f"{roots['train']} has {len(folders)} class folders with images; {_HINT}.")
    watch = Watch()
    splits = {split: _listing(roots[split], folders, images[split], watch) for split in images}
    splits = sorted_splits(with_validation(splits, options))
    size = sum(listing.bytes for listing in splits.values())
    described = {"file": source.resolve().name, "bytes": size}
    classes = _classes(folders, names, source)
    faults, warnings = tuple(walk.faults), tuple(walk.warnings)
    return Collection(classes, splits, faults, (described,), watch, warnings)


def with_validation(splits: dict[str, Listing], options: ConvertOptions) -> dict[str, Listing]:
    """Splits off a fraction of each class of "train" if there is no validation split.

    That is at least one image, and at most all but one: a single image stays in training.

    Raises:
      InputError: each class has a single image.
    """
    if "validation" in splits:
        return splits
    full = splits["train"]
    # Not the seed of the shards' order, of which validation would be the beginning.
    order = random_order(full.names, options.seed ^ 0x5EED)
    labels_in_order = full.table["label"][order]
    chosen = np.zeros(len(order), bool)
    for label in np.unique(labels_in_order):
        members = order[labels_in_order == label]
        count = max(1, round(options.validation_fraction * len(members)))
        chosen[members[: min(count, len(members) - 1)]] = True
    if not chosen.any():
        raise InputError("Every class has a single image: none is left for validation; add some.")
    train, validation = (full.take(np.flatnonzero(part)) for part in (~chosen, chosen))
    return splits | {"train": train, "validation": validation}


def _classes(folders: list[str], names: ClassNames, source: Path) -> tuple[labels.Label, ...]:
    """Returns each folder's class: its name, or the words of an ImageNet synset."""
    classes: dict[str, labels.Label] = {}
    for folder in folders:
        match = names.pattern.fullmatch(folder)
        if not match:
            raise InputError(
                f"{source / folder} does not fit the pattern of class names, "
                f"{names.pattern.pattern!r}; rename it or give another --class_pattern."
            )
        if match[1] in classes:
            raise InputError(
                f"Two folders in {source} both are the class {match[1]!r}; give another "
                "--class_pattern."
            )
        classes[match[1]] = labels.Label(match[1], match[1])
    classes |= {label.synset: label for label in labels.imagenet() if label.synset in classes}
    return tuple(classes.values())


def split_folders(source: Path) -> dict[str, Path]:
    """Returns the folder of each split; only "train" if no train folder has folders in it."""
    roots: dict[str, Path] = {}
    named = [(_SPLIT_NAMES.get(path.name.lower()), path) for path in _entries(source)]
    named = [(name, path) for name, path in named if name and path.is_dir()]
    train = [path for name, path in named if name == "train"]
    # A train folder of images alone is a class with a split's name: bus, plane, train.
    if not any(inner.is_dir() for path in train for inner in _entries(path)):
        return {"train": source}
    for name, path in named:
        if name in roots:
            raise InputError(f"{roots[name]} and {path} both are the {name} split; keep one.")
        roots[name] = path
    return roots


def _entries(folder: Path) -> list[Path]:
    """Returns the entries of a folder, in order, without hidden ones."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}.") from error


def _images(root: Path, walk: _Walk) -> dict[str, list[Path]]:
    """Returns the image files of each class folder in `root`."""
    images: dict[str, list[Path]] = {}
    where = "nowhere in its class folders"
    for path in _entries(root):
        if walk.names.skip and walk.names.skip.fullmatch(path.name):
            continue
        if path.is_dir() and path.is_symlink() and not walk.follow_links:
            walk.faults.append(Fault(path.name, _LINK))
        elif path.is_dir():
            images[path.name] = _class_images(root, path, walk)
        elif is_image(path):
            where = "only outside class folders"
            walk.faults.append(Fault(path.name, "lies beside the class folders: it has no class"))
    if not any(images.values()):
        raise InputError(f"{root} has images {where}; {_HINT}.")
    for name, files in images.items():
        if not files:
            raise InputError(f"{root / name} has no image; add some or remove the folder.")
    return images


def _class_images(root: Path, folder: Path, walk: _Walk) -> list[Path]:
    files = []
    for path in _entries(folder):
        if path.is_dir():
            if any(is_image(deeper) for deeper in _entries(path)):
                if walk.names.reject_nested:
                    raise InputError(f"{path} holds images one folder too deep; {_HINT}.")
                name = printable(str(path.relative_to(root)))
                walk.warnings.append(f"{name} is a folder in a class: left out.")
        elif not is_image(path):
            walk.others[printable(path.suffix.lower()) or "no ending"] += 1
        elif path.is_file() and (walk.follow_links or not path.is_symlink()):
            files.append(path)
        else:
            linked = path.is_symlink() and not walk.follow_links
            fault = _LINK if linked else "is no file, or a link to nothing"
            walk.faults.append(Fault(path.relative_to(root).as_posix(), fault))
    return files


def is_image(path: Path) -> bool:
    """Returns whether a file name has an image's ending."""
    return path.suffix.lower() in ENDINGS


def _listing(
    root: Path, folders: list[str], images: dict[str, list[Path]], watch: Watch
) -> Listing:
    files = [path for name in folders for path in images.get(name, [])]
    ids = {name: number for number, name in enumerate(folders, 1)}
    names = [path.relative_to(root).as_posix() for path in files]
    for name in names:
        check_name(name, root)
    rows = [(index, 0, watch.size(path), ids[path.parent.name]) for index, path in enumerate(files)]
    return Listing.of_rows(files, rows, names)
