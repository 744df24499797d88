"""Folders of images: one folder a class, split by you or by us."""

import os
import re
from pathlib import Path

import numpy as np

from datasets.listing import Collection, Fault, Listing, listing, shuffled
from squeezenext import labels
from squeezenext.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
_HINT = "make one folder per class, with the images directly in it"


def collect(source: Path, fraction: float, seed: int, follow_links: bool) -> Collection:
    """Lists `source`/CLASS/*.jpg, or `source`/{train,validation,test}/CLASS/*.jpg.

    Args:
      fraction: of each class that becomes the validation split where there is no folder
        for it.
      follow_links: take symbolic links for what they point to; they are rejected otherwise.

    Raises:
      InputError: no folder, no image, a class without one, or classes in deeper folders.
    """
    if not source.is_dir():
        raise InputError(f"{source} is no folder; give the one that holds a folder per class.")
    faults: list[Fault] = []
    roots = _split_folders(source)
    found = {name: _images(root, follow_links, faults) for name, root in roots.items()}
    classes = sorted(found["train"])
    for name, images in found.items():
        for other in sorted(set(images) - set(classes)):
            raise InputError(f"{roots[name] / other} is a class that {roots['train']} lacks.")
    if len(classes) < 2:
        raise InputError(f"{roots['train']} has {len(classes)} class folders with images; {_HINT}.")
    splits = {name: _listing(roots[name], classes, images) for name, images in found.items()}
    if "validation" not in splits:
        splits |= _cut(splits["train"], fraction, seed)
    ordered = {name: splits[name] for name in ("train", "validation", "test") if name in splits}
    described = {
        "file": source.resolve().name,
        "bytes": sum(split.bytes for split in ordered.values()),
    }
    return Collection(tuple(map(_label, classes)), ordered, tuple(faults), (described,))


def _split_folders(source: Path) -> dict[str, Path]:
    """Returns the folder of each split; without a train folder, all is "train"."""
    roots: dict[str, Path] = {}
    for path in _entries(source):
        name = _SPLIT_NAMES.get(path.name.lower())
        if name and path.is_dir():
            if name in roots:
                raise InputError(f"{roots[name]} and {path} both are the {name} split; keep one.")
            roots[name] = path
    return roots if "train" in roots else {"train": source}


def _entries(folder: Path) -> list[Path]:
    """Returns what lies in a folder, in order; hidden files and folders are none of ours."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}.") from error


def _images(root: Path, follow_links: bool, faults: list[Fault]) -> dict[str, list[Path]]:
    """Returns the image files of each class folder in `root`."""
    found: dict[str, list[Path]] = {}
    loose = 0
    for folder in _entries(root):
        if not folder.is_dir():
            if _is_image(folder):
                loose += 1
                faults.append(Fault(folder.name, "lies beside the class folders: it has no class"))
            continue
        if folder.is_symlink() and not follow_links:
            faults.append(Fault(folder.name, "is a symbolic link; give --follow_links"))
            continue
        found[folder.name] = _class_images(root, folder, follow_links, faults)
    if not any(found.values()):
        where = "only outside class folders" if loose else "nowhere in its class folders"
        raise InputError(f"{root} has images {where}; {_HINT}.")
    for name, files in found.items():
        if not files:
            raise InputError(f"{root / name} has no image; add some or remove the folder.")
    return found


def _class_images(root: Path, folder: Path, follow: bool, faults: list[Fault]) -> list[Path]:
    files = []
    for path in _entries(folder):
        if path.is_dir() and any(_is_image(deeper) for deeper in _entries(path)):
            raise InputError(f"{path} holds images one folder too deep; {_HINT}.")
        if not _is_image(path) or path.is_dir():
            continue
        fault = ""
        if path.is_symlink() and not follow:
            fault = "is a symbolic link; give --follow_links"
        elif not path.is_file():
            fault = "is no file, or a link to nothing"
        if fault:
            faults.append(Fault(path.relative_to(root).as_posix(), fault))
        else:
            files.append(path)
    return files


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def _listing(root: Path, classes: list[str], images: dict[str, list[Path]]) -> Listing:
    files = [path for name in classes for path in images.get(name, [])]
    ids = {name: number for number, name in enumerate(classes, 1)}
    names = [path.relative_to(root).as_posix() for path in files]
    for name in names:
        if not name.isprintable():  # also the surrogates of a name that is not UTF-8
            raise InputError(f"{ascii(name)} in {root} has a name that is no text; rename it.")
    rows = [
        (place, 0, os.stat(path).st_size, ids[path.parent.name]) for place, path in enumerate(files)
    ]
    return listing(files, rows, names)


def _cut(full: Listing, fraction: float, seed: int) -> dict[str, Listing]:
    """Splits each class by the same fraction; one image at least stays on either side.

    A class of a single image keeps it for training.
    """
    if not 0 < fraction < 1:
        raise InputError(f"--validation_fraction {fraction} is not between 0 and 1.")
    # Another seed than the shards' order: otherwise validation would be its beginning.
    order = shuffled(full.names, seed ^ 0x5EED)
    labels_in_order = full.table["label"][order]
    chosen = np.zeros(len(order), bool)
    for label in np.unique(labels_in_order):
        places = order[labels_in_order == label]
        count = max(1, round(fraction * len(places)))
        chosen[places[: min(count, len(places) - 1)]] = True
    if not chosen.any():
        raise InputError("Every class has a single image: none is left for validation; add some.")
    return {
        "train": full.take(np.flatnonzero(~chosen)),
        "validation": full.take(np.flatnonzero(chosen)),
    }


def _label(folder: str) -> labels.Label:
    """The folder's name is key and text; an ImageNet synset is given its words."""
    if re.fullmatch(r"n\d{8}", folder):
        for label in labels.imagenet():
            if label.synset == folder:
                return label
    return labels.Label(folder, folder)
