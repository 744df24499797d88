"""Finds the photographs in what people have: which folder is which split, which name is a class.

A place is a folder, or one in an archive. What systems and programs leave in it counts for nothing.
"""

import collections
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from squeezenext.cli import counted, printable
from squeezenext.convert.archives import Entry
from squeezenext.convert.listing import ROW, Listing, Watch
from squeezenext.errors import InputError
from squeezenext.files import is_leftover
from squeezenext.images.decoding import ENDINGS

Place = Path | Entry

# The names that Hugging Face's datasets know, too.
SPLIT_NAMES = {
    name: split
    for split, names in {
        "train": ("train", "training"),
        "validation": ("validation", "valid", "val", "dev"),
        "test": ("test", "testing", "eval", "evaluation"),
    }.items()
    for name in names
}
_METADATA = "metadata.csv"  # Hugging Face's imagefolder has it: file_name,label
_MOST_AROUND = 8  # folders that may lie one in the other around the class folders
# A name without digits before a number: cat_001, cat.1, dog (3). It ends in a letter.
_NUMBERED = re.compile(r"(\D*[^\W\d_])[ ._-]*(?:\d+|\(\d+\))")
# What cameras, phones and programs write before a number.
_CAMERAS = frozenset(
    {"img", "image", "images", "dsc", "dscn", "dscf", "dcim", "pxl", "mvimg", "fb_img", "cimg",
     "imgp", "sam", "dji", "gopr", "wp", "p", "pano", "burst", "photo", "photos", "picture", "pic",
     "foto", "scan", "screenshot", "whatsapp image", "frame", "unnamed", "untitled", "download",
     "file", "bild", "imagen", "capture"}
)  # fmt: skip


def entries(folder: Place) -> list:
    """Returns the entries of a folder, in order, without what systems leave there."""
    try:
        return sorted(path for path in folder.iterdir() if not is_leftover(path.name))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}.") from error


def has_folders(folder: Place) -> bool:
    """Returns whether there is a folder in a folder."""
    return any(inner.is_dir() for inner in entries(folder))


def is_image(path: Place) -> bool:
    """Returns whether a file name has an image's ending."""
    return path.suffix.lower() in ENDINGS


def hold_photographs(folder: Path, besides: Sequence[str]) -> bool:
    """Returns whether class or split folders hold images; the folders `besides` do not count."""
    inside = itertools.chain(folder.glob("*/*"), folder.glob("*/*/*"))
    others = {folder / name for name in besides}
    return any(is_image(path) and others.isdisjoint(path.parents) for path in inside)


def name_in(path: Place, folder: Place) -> str:
    """Returns the path of a file from a folder above it, with "/"."""
    return Path(os.path.relpath(str(path), str(folder))).as_posix()


def innermost(source: Place, split: str = "train") -> Place:
    """Returns the folder below `source` that holds the data, if folders hold one folder alone.

    Many archives have one around all: flowers.zip holds flowers/rose/1.jpg. A folder of another
    split than that of the source is none of these.
    """
    for _ in range(_MOST_AROUND):
        found = entries(source)
        folders = [path for path in found if path.is_dir()]
        if len(folders) != 1 or folders[0].is_symlink() or any(map(is_image, found)):
            break
        if SPLIT_NAMES.get(folders[0].name.lower(), split) != split:
            break
        if not has_folders(folders[0]) and not by_name(folders[0]):
            break  # the only class
        source = folders[0]
    return source


def split_folders(source: Place) -> dict[str, Place]:
    """Returns the folder of each split.

    It is "train" alone if no folder of that name has folders in it, unless all folders are those of
    other splits, to score a finished model on.
    """
    roots: dict[str, Place] = {}
    named = [
        (SPLIT_NAMES[name], path)
        for path in entries(source)
        if (name := path.name.lower()) in SPLIT_NAMES and path.is_dir()
    ]
    train = [path for name, path in named if name == "train"]
    # A train folder of images alone is a class with a split's name: bus, plane, train.
    if not any(map(has_folders, train)):
        folders = [path for path in entries(source) if path.is_dir()]
        held_out = not train and len(folders) == len(named)
        if not (named and held_out and all(has_folders(path) for path in folders)):
            return {"train": source}
    for name, path in named:
        if name in roots:
            raise InputError(f"{roots[name]} and {path} both are the {name} split; keep one.")
        roots[name] = path
    return roots


def named_from(source: Path, split: str) -> Path | None:
    """Returns the folder from which the photographs of a split are named; None for an archive."""
    if source.suffix.lower() == ".csv":
        return source.parent
    try:
        roots = split_folders(innermost(source))
        return innermost(roots.get(split, roots["train"]), split if split in roots else "train")
    except (InputError, KeyError):  # an archive, or a disk that was taken away meanwhile
        return None


def by_name(folder: Place) -> dict[str, list]:
    """Returns the images of each class, if each image's name is a class and a number: cat_001.jpg.

    It is {} if there are folders, if a name is that of a camera (IMG_1.jpg), or if the classes are
    not at least two with at least two images each.
    """
    classes: dict[str, list] = {}
    for path in entries(folder):
        if path.is_dir():
            return {}
        if is_image(path):
            match = _NUMBERED.fullmatch(path.name.removesuffix(path.suffix))
            classes.setdefault(match[1] if match else "", []).append(path)
    named = not any(name.strip(" ._-").lower() in {"", *_CAMERAS} for name in classes)
    several = len(classes) > 1 and min(map(len, classes.values())) > 1
    return classes if named and several else {}


def sentence_by_name(folder: Place, images: dict[str, list]) -> str:
    """Returns what was taken for classes by `by_name`."""
    counts = counted(collections.Counter({name: len(files) for name, files in images.items()}))
    example = next(iter(images.values()))[0].name
    return printable(
        f"{folder} has no class folders: each image is of the class before its number, as in "
        f"{example} ({counts}); if that is wrong, make one folder per class."
    )


def metadata_lists(source: Place) -> dict[str, Place]:
    """Returns the list of each split in a folder of the form that Hugging Face calls imagefolder.

    It is {} where there is no metadata.csv that has the columns file_name and label. A single
    folder around all is passed through.
    """
    for _ in range(_MOST_AROUND):
        folders = [path for path in entries(source) if path.is_dir()]
        roots = {"train": source} | {
            SPLIT_NAMES[path.name.lower()]: path
            for path in folders
            if path.name.lower() in SPLIT_NAMES
        }
        lists = {split: root / _METADATA for split, root in roots.items()}
        found = {split: path for split, path in lists.items() if path.is_file() and _labels(path)}
        if found or len(folders) != 1:
            return found
        source = folders[0]
    return {}


def _labels(path: Place) -> bool:
    first = path.read_bytes()[:4096].decode("utf-8-sig", "replace").partition("\n")[0]
    return {"file_name", "label"} <= {head.strip(' "\r').lower() for head in first.split(",")}


class ListedImages:
    """Finds the files of images by the names in a list.

    Args:
      folder: the list's folder. Names are relative to it, or to its subfolder named `split`.
      split: a value of `SPLIT_NAMES`.
    """

    def __init__(self, folder: Place, split: str):
        names = [name for name, named in SPLIT_NAMES.items() if named == split]
        self._roots = (folder, *(folder / name for name in names))

    def find(self, name: str) -> Place | None:
        """Returns the file of a name, or None."""
        names = [name, name.replace("\\", "/")] if "\\" in name else [name]
        endings = [""] if is_image(Path(name)) else ["", *sorted(ENDINGS)]
        paths = (root / f"{n}{ending}" for n in names for ending in endings for root in self._roots)
        return next((path for path in paths if path.is_file()), None)

    def hold(self, path: Place) -> bool:
        """Returns whether a file is inside the list's folder, links followed."""
        folder = self._roots[0]
        if isinstance(path, Entry) or isinstance(folder, Entry):
            return True  # an archive has no way out
        return path.resolve().is_relative_to(folder.resolve())


def listing_of(
    found: list[tuple[Place, int]], names: list[str], watch: Watch, held: Path | None
) -> Listing:
    """Returns the listing of images and their labels.

    Args:
      found: the images, which are files or entries of one archive, and their labels.
      names: a name for each.
      watch: receives the sizes and times of the files.
      held: the file that holds the bytes of the archive, None for files.
    """
    files, rows = [held] if held else [], []
    for path, label in found:
        if isinstance(path, Entry):
            rows.append((0, *path.part[:2], label, *path.part[2:4]))
        else:
            rows.append((len(files), 0, watch.size(path), label, 0, -1))
            files.append(path)
    return Listing(tuple(files), np.array(rows, ROW), names)
