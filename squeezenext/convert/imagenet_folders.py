"""Lists ImageNet as extracted files: train/nXXXXXXXX/*.JPEG, and val/ flat or with classes."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from squeezenext import labels
from squeezenext.convert import imagenet, imagenet_archives
from squeezenext.convert.imagenet_archives import BOXES, TRAIN, VALIDATION
from squeezenext.convert.listing import Collection, Fault, Listing, Watch
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError
from squeezenext.files import is_leftover

_NAMES = {"train": ("train", TRAIN.removesuffix(".tar"))}
_NAMES["validation"] = ("val", "validation", VALIDATION.removesuffix(".tar"))
_SYNSET = re.compile(r"n\d{8}")
_TRAIN_IMAGE = re.compile(r"n\d{8}_\d+\.jpeg", re.IGNORECASE)
_VALIDATION_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.jpeg", re.IGNORECASE)

_Image = tuple[str, int, int, str, int]  # path, size, st_mtime_ns, name, label


def is_extracted(source: Path) -> bool:
    """Returns whether `source` holds folders, not archives."""
    return _folder(source, "train") is not None and not (source / TRAIN).exists()


def _folder(source: Path, split: str) -> Path | None:
    return next((source / name for name in _NAMES[split] if (source / name).is_dir()), None)


def collect(source: Path, partial: bool, pool: Pool) -> Collection:
    """Lists the folders in `source`; they give the same records as the archives.

    Raises:
      InputError: a folder is missing, has no image, or is incomplete.
    """
    roots = {name: _folder(source, name) for name in _NAMES}
    if roots["validation"] is None:
        raise InputError(f"{source} has no folder val beside {roots['train'].name}; add it.")
    faults: list[Fault] = []
    watch = Watch()
    if (source / BOXES).is_file():
        watch.size(source / BOXES)
    splits = {name: _listing(root, name, faults, watch, pool) for name, root in roots.items()}
    if not partial:
        imagenet_archives.check_counts(splits, roots)
    splits["train"] = imagenet.with_boxes(splits["train"], source / BOXES, pool, faults)
    described = tuple({"file": roots[name].name, "bytes": splits[name].bytes} for name in splits)
    return Collection(labels.imagenet(), splits, tuple(faults), described, watch)


def _listing(root: Path, split: str, faults: list[Fault], watch: Watch, pool: Pool) -> Listing:
    before = len(faults)
    ids = imagenet_archives.synset_ids()
    paths = sorted(path for path in root.iterdir() if not is_leftover(path.name))
    folders = [path for path in paths if _SYNSET.fullmatch(path.name)]
    for path in paths if folders else ():
        if path not in folders:
            faults.append(Fault(f"{root.name}/{path.name}", "is no class folder, nXXXXXXXX"))
    for folder in folders:
        if folder.name not in ids:
            faults.append(Fault(f"{root.name}/{folder.name}", "is none of the 1000 classes"))
    jobs = [(folder, split, ids[folder.name]) for folder in folders if folder.name in ids]
    if split == "validation" and not folders:
        jobs = [(root, split, 0)]
    images: list[_Image] = []
    for more, rejected in pool.run(_images, jobs):
        images += more
        faults += rejected
    if not images:
        example = "nXXXXXXXX_N.JPEG" if split == "train" else "ILSVRC2012_val_NNNNNNNN.JPEG"
        own = faults[before:]
        first = f"; {own[0].file} {own[0].reason}" if own else ""
        raise InputError(f"{root} holds no image named as ImageNet's are, {example}{first}.")
    files = [Path(image[0]) for image in images]
    for file, (_, size, time, _, _) in zip(files, images, strict=True):
        watch.add(file, size, time)
    rows = [(index, 0, size, label) for index, (_, size, _, _, label) in enumerate(images)]
    return Listing.of_rows(files, rows, [image[3] for image in images])


def _images(job: tuple[Path, str, int]) -> tuple[list[_Image], list[Fault]]:
    """Lists one folder; label 0 means that the class follows from the image's number."""
    folder, split, label = job
    pattern = _TRAIN_IMAGE if split == "train" else _VALIDATION_IMAGE
    truth = imagenet_archives.validation_labels() if split == "validation" else []
    images, faults = [], []
    for entry in _entries(folder):
        match = pattern.fullmatch(entry.name)
        number = int(match[1]) if match and truth else 0
        fault = "" if match and entry.is_file() else "is no image of the data set"
        if truth and match and not 1 <= number <= len(truth):
            fault = f"has a number outside 1..{len(truth)}"
        elif truth and match and label and truth[number - 1] != label:
            fault = f"lies in {folder.name}, the official list says another class"
        if fault:
            faults.append(Fault(f"{folder.name}/{entry.name}", fault))
            continue
        name = entry.name.rpartition(".")[0] + ".JPEG"  # as in the archive
        status = entry.stat()
        own = label or truth[number - 1]
        images.append((entry.path, status.st_size, status.st_mtime_ns, name, own))
    return images, faults


def _entries(folder: Path) -> Iterator[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            yield from sorted((e for e in entries if not is_leftover(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}.") from error
