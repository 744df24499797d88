"""What lies in ImageNet's archives, member by member, from a file or a stream."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from squeezenext import labels
from squeezenext.errors import InputError

from . import images, tar
from .listing import Fault, Listing, add_all, listing, printable

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
TWICE = "appears twice"

_INNER = re.compile(r"(?:\./)?(n\d{8})\.tar")
_TRAIN_IMAGE = re.compile(r"(?:\./)?(n\d{8}_\d+\.JPEG)")
_VALIDATION_IMAGE = re.compile(r"(?:\./)?(ILSVRC2012_val_(\d{8})\.JPEG)")

Image = tuple[str, int, int]  # name, offset, size


@contextlib.contextmanager
def opened(path: Path, member: tar.Member | None = None) -> Iterator[tar.Descriptor]:
    """Gives a file, or the part of it that is `member`, to walk by its headers."""
    start, size = (member.offset, member.size) if member else (0, 0)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if hasattr(os, "posix_fadvise"):  # else each header drags 128 KB of image into memory
            os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_RANDOM)
        yield tar.Descriptor(descriptor)
    finally:
        os.close(descriptor)


def synset(member_name: str) -> str:
    """Returns "n01440764" of "./n01440764.tar"."""
    return _INNER.fullmatch(member_name)[1]


def validation_number(name: str) -> int:
    """Returns 17 of "ILSVRC2012_val_00000017.JPEG"."""
    return int(_VALIDATION_IMAGE.fullmatch(name)[2])


def classes(
    source: tar.Source, path: Path, ids: dict[str, int], faults: list[Fault], end: int | None
) -> Iterator[tar.Member]:
    """Yields the archives of the classes in the archive `path`; others are refused by name."""
    seen: set[str] = set()
    for member in _members(source, path, _INNER, "n01440764.tar", end):
        match = _INNER.fullmatch(member.name)
        fault = member.fault or ("" if match else "is no archive of a class")
        if match and not fault:
            fault = "" if match[1] in ids else "is none of the 1000 classes"
            fault = fault or (TWICE if match[1] in seen else "")
        if fault:
            add_all(faults, [Fault(f"{path.name}: {member.name}", fault)])
            continue
        seen.add(match[1])
        yield member


def class_images(
    source: tar.Source, path: Path, inner: tar.Member, faults: list[Fault]
) -> Iterator[Image]:
    """Yields the images of one class's archive, which lies in the archive `path`."""
    seen: set[str] = set()
    end = inner.offset + inner.size
    for member in tar.members(source, f"{path}: {inner.name}", inner.offset, end):
        match = _TRAIN_IMAGE.fullmatch(member.name)
        if fault := _image_fault(member, match, seen):
            add_all(faults, [Fault(f"{inner.name}: {member.name}", fault)])
            continue
        seen.add(match[1])
        yield match[1], member.offset, member.size


def validation_images(
    source: tar.Source, path: Path, last: int, faults: list[Fault]
) -> Iterator[Image]:
    """Yields the images of the flat archive; their numbers are 1..`last`."""
    seen: set[str] = set()
    example = "ILSVRC2012_val_00000001.JPEG"
    for member in _members(source, path, _VALIDATION_IMAGE, example, path.stat().st_size):
        match = _VALIDATION_IMAGE.fullmatch(member.name)
        fault = _image_fault(member, match, seen)
        if not fault and not 1 <= int(match[2]) <= last:
            fault = f"has a number outside 1..{last}"
        if fault:
            add_all(faults, [Fault(f"{path.name}: {member.name}", fault)])
            continue
        seen.add(match[1])
        yield match[1], member.offset, member.size


def _image_fault(member: tar.Member, match: re.Match | None, seen: set[str]) -> str:
    if member.fault or not match:
        return member.fault or "is no image of the data set"
    if member.size > images.MAX_BYTES:
        return f"is larger than {images.MAX_BYTES >> 20} MB"
    return TWICE if match[1] in seen else ""


def _members(
    source: tar.Source, path: Path, pattern: re.Pattern, example: str, end: int | None
) -> Iterator[tar.Member]:
    """Yields the members of an archive, after a look at the first: is it the right one?"""
    for number, member in enumerate(tar.members(source, str(path), 0, end)):
        if number == 0 and not pattern.fullmatch(member.name):
            raise InputError(_wrong(path, member.name, example))
        yield member


def _wrong(path: Path, found: str, example: str) -> str:
    kinds = {TRAIN: _INNER, VALIDATION: _VALIDATION_IMAGE}
    for name, pattern in kinds.items():
        if pattern.fullmatch(found):
            return f"{path} is the wrong archive: its content is that of {name}; rename it."
    return (
        f"{path} is the wrong archive: its first member is {printable(found)}, not one like "
        f"{example}; download {path.name} from image-net.org."
    )


def synset_ids() -> dict[str, int]:
    """Returns the label, 1..1000, of each synset."""
    return {label.synset: number for number, label in enumerate(labels.imagenet(), 1)}


def train_listing(
    files: list[Path], rows: list, names: list[str], faults: list[Fault], path: Path
) -> Listing:
    """Returns the listing without images whose names another class had before."""
    if not rows:
        raise InputError(f"{path} holds no image of ImageNet's 1000 classes; download it again.")
    full = listing(files, rows, names)
    if len(set(names)) == len(names):
        return full
    seen: set[str] = set()
    keep = []
    for place, name in enumerate(names):
        if name in seen:
            add_all(faults, [Fault(name, TWICE)])
        else:
            keep.append(place)
            seen.add(name)
    return full.take(keep)
