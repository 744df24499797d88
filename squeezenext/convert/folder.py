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
)
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


@dataclasses.dataclass(frozen=True)
class ClassNames:
    """Rules for the names of class folders.

    Attributes:
      pattern: must match a folder's name; its group is the class.
      skip: folders to skip, None for none.
      reject_nested: make a folder of images inside a class an error. (The published Caltech256
        has one, 056.dog/greg, which is skipped.)
    """

    pattern: re.Pattern = re.compile("(.+)")
    skip: re.Pattern | None = None
    reject_nested: bool = True


@dataclasses.dataclass
class _Found:
    """What the walk through the folders collects."""

    follow_links: bool
    names: ClassNames
    faults: list[Fault] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    others: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def collect(
    source: Path, fraction: float, seed: int, follow_links: bool, names: ClassNames | None = None
) -> Collection:
    """Lists `source`/CLASS/*.jpg, or `source`/{train,validation,test}/CLASS/*.jpg.

    Args:
      source: the folder.
      fraction: share of each class that becomes the validation split if that has no folder.
      seed: decides which images those are.
      follow_links: follow symbolic links instead of rejecting them.
      names: rules for the names of class folders; by default a folder's name is the class.

    Raises:
      InputError: no folder, no image, a class without one, or classes in deeper folders.
    """
    if not source.is_dir():
        raise InputError(f"{source} is no folder; give the one that holds a folder per class.")
    seen = _Found(follow_links, names or ClassNames())
    roots = split_folders(source)
    found = {name: _images(root, seen) for name, root in roots.items()}
    if seen.others:
        counts = ", ".join(f"{count} {ending}" for ending, count in seen.others.most_common(5))
        seen.warnings.append(
            f"{seen.others.total()} files in class folders are left out by their endings "
            f"({counts}); photographs among them must be made JPEG first."
        )
    classes = sorted(found["train"])
    for name, images in found.items():
        for other in sorted(set(images) - set(classes)):
            raise InputError(f"{roots[name] / other} is a class that {roots['train']} lacks.")
    if len(classes) < 2:
        raise InputError(f"{roots['train']} has {len(classes)} class folders with images; {_HINT}.")
    watch = Watch()
    splits = {name: _listing(roots[name], classes, images, watch) for name, images in found.items()}
    if "validation" not in splits:
        splits |= split_off_validation(splits["train"], fraction, seed)
    ordered = {name: splits[name] for name in ("train", "validation", "test") if name in splits}
    described = {
        "file": source.resolve().name,
        "bytes": sum(listed.bytes for listed in ordered.values()),
    }
    labelled = tuple(_label(_class_name(name, seen.names, source)) for name in classes)
    _check_names(labelled, source)
    faults, warnings = tuple(seen.faults), tuple(seen.warnings)
    return Collection(labelled, ordered, faults, (described,), watch, warnings)


def split_off_validation(full: Listing, fraction: float, seed: int) -> dict[str, Listing]:
    """Splits off a fraction of each class: at least one image, and at most all but one.

    A class with a single image keeps it for training.

    Raises:
      InputError: each class has a single image.
    """
    # Not the seed of the shards' order, of which validation would be the beginning.
    order = random_order(full.names, seed ^ 0x5EED)
    labels_in_order = full.table["label"][order]
    chosen = np.zeros(len(order), bool)
    for label in np.unique(labels_in_order):
        members = order[labels_in_order == label]
        count = max(1, round(fraction * len(members)))
        chosen[members[: min(count, len(members) - 1)]] = True
    if not chosen.any():
        raise InputError("Every class has a single image: none is left for validation; add some.")
    return {
        "train": full.take(np.flatnonzero(~chosen)),
        "validation": full.take(np.flatnonzero(chosen)),
    }


def _class_name(folder: str, names: ClassNames, source: Path) -> str:
    match = names.pattern.fullmatch(folder)
    if not match:
        raise InputError(
            f"{source / folder} does not fit the pattern of class names, "
            f"{names.pattern.pattern!r}; rename it or give another --class_pattern."
        )
    return match[1]


def _check_names(classes: tuple[labels.Label, ...], source: Path) -> None:
    twice = [name for name, n in collections.Counter(c.synset for c in classes).items() if n > 1]
    if twice:
        raise InputError(
            f"Two folders in {source} both are the class {twice[0]!r}; give another "
            "--class_pattern."
        )


def split_folders(source: Path) -> dict[str, Path]:
    """Returns the folder of each split; only "train" if no train folder has folders in it."""
    roots: dict[str, Path] = {}
    named = [(_SPLIT_NAMES.get(path.name.lower()), path) for path in _entries(source)]
    named = [(name, path) for name, path in named if name and path.is_dir()]
    # A train folder of images alone is a class with a split's name: bus, plane, train.
    if not any(
        inner.is_dir() for name, path in named if name == "train" for inner in _entries(path)
    ):
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


def _images(root: Path, seen: _Found) -> dict[str, list[Path]]:
    """Returns the image files of each class folder in `root`."""
    found: dict[str, list[Path]] = {}
    loose = 0
    for path in _entries(root):
        if seen.names.skip and seen.names.skip.fullmatch(path.name):
            continue
        if not path.is_dir():
            if is_image(path):
                loose += 1
                reason = "lies beside the class folders: it has no class"
                seen.faults.append(Fault(path.name, reason))
        elif path.is_symlink() and not seen.follow_links:
            seen.faults.append(Fault(path.name, "is a symbolic link; give --follow_links"))
        else:
            found[path.name] = _class_images(root, path, seen)
    if not any(found.values()):
        where = "only outside class folders" if loose else "nowhere in its class folders"
        raise InputError(f"{root} has images {where}; {_HINT}.")
    for name, files in found.items():
        if not files:
            raise InputError(f"{root / name} has no image; add some or remove the folder.")
    return found


def _class_images(root: Path, folder: Path, seen: _Found) -> list[Path]:
    files = []
    for path in _entries(folder):
        if path.is_dir() and any(is_image(deeper) for deeper in _entries(path)):
            if seen.names.reject_nested:
                raise InputError(f"{path} holds images one folder too deep; {_HINT}.")
            name = printable(str(path.relative_to(root)))
            seen.warnings.append(f"{name} is a folder in a class: left out.")
        if not is_image(path) or path.is_dir():
            if not path.is_dir():
                seen.others[printable(path.suffix.lower()) or "no ending"] += 1
            continue
        fault = ""
        if path.is_symlink() and not seen.follow_links:
            fault = "is a symbolic link; give --follow_links"
        elif not path.is_file():
            fault = "is no file, or a link to nothing"
        if fault:
            seen.faults.append(Fault(path.relative_to(root).as_posix(), fault))
        else:
            files.append(path)
    return files


def is_image(path: Path) -> bool:
    """Returns whether a file name has an image's ending."""
    return path.suffix.lower() in ENDINGS


def _listing(
    root: Path, classes: list[str], images: dict[str, list[Path]], watch: Watch
) -> Listing:
    files = [path for name in classes for path in images.get(name, [])]
    ids = {name: number for number, name in enumerate(classes, 1)}
    names = [path.relative_to(root).as_posix() for path in files]
    for name in names:
        check_name(name, root)
    rows = [(index, 0, watch.size(path), ids[path.parent.name]) for index, path in enumerate(files)]
    return Listing.of_rows(files, rows, names)


def _label(folder: str) -> labels.Label:
    """Returns the class of a folder: its name, or the words of an ImageNet synset."""
    if re.fullmatch(r"n\d{8}", folder):
        for label in labels.imagenet():
            if label.synset == folder:
                return label
    return labels.Label(folder, folder)
