"""The official archives of ILSVRC2012: their facts, checksums and members.

An archive is walked by its headers, from a file or from a stream.
"""

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from squeezenext import labels, progress
from squeezenext.cli import printable
from squeezenext.convert import tar
from squeezenext.convert.listing import Fault, Listing, add_faults
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError
from squeezenext.images import decoding

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
BOXES = "ILSVRC2012_bbox_train_v2.tar.gz"

# Sizes: tensorflow-datasets 4.9.10, imagenet2012/checksums.tsv. Counts: image-net.org.
OFFICIAL_BYTES = {TRAIN: 147_897_477_120, VALIDATION: 6_744_924_160}
OFFICIAL_EXAMPLES = {"train": 1_281_167, "validation": 50_000}
OFFICIAL_CLASS_SIZES = {"train": (732, 1300), "validation": (50, 50)}
OFFICIAL_REPAIRS = {"CMYK": 22, "PNG": 1}  # github.com/cytsai/ilsvrc-cmyk-image-list
# MD5: torchvision's datasets/imagenet.py, and for the boxes five public READMEs that quote
# image-net.org. SHA-256: tensorflow-datasets 4.9.10, imagenet2012/checksums.tsv.
OFFICIAL_DIGESTS = {
    TRAIN: {
        "md5": "1d675b47d978889d74fa0da5fadfb00e",
        "sha256": "b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb",
    },
    VALIDATION: {
        "md5": "29b22e2961454d5413ddabcf34fc5622",
        "sha256": "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
    },
    BOXES: {"md5": "9271167e2176350e65cfe4e546f14b17"},
}
TWICE = "appears twice"

_INNER = re.compile(r"(?:\./)?(n\d{8})\.tar")
_TRAIN_IMAGE = re.compile(r"(?:\./)?(n\d{8}_\d+\.JPEG)")
_VALIDATION_IMAGE = re.compile(r"(?:\./)?(ILSVRC2012_val_(\d{8})\.JPEG)")

ArchivedImage = tuple[str, int, int]  # name, offset, size


def synset_ids() -> dict[str, int]:
    """Returns the label, 1..1000, of each synset."""
    return {label.synset: number for number, label in enumerate(labels.imagenet(), 1)}


@functools.cache
def validation_labels() -> list[int]:
    """Returns the label, 1..1000, of validation images 1..50,000."""
    ids = synset_ids()
    path = Path(__file__).with_name("imagenet_2012_validation_synsets.txt")
    return [ids[line] for line in path.read_text("ascii").split()]


@contextlib.contextmanager
def opened(path: Path, member: tar.Member | None = None) -> Iterator[tar.Descriptor]:
    """Opens an archive, or the part of it that is `member`, for a walk by its headers."""
    start, size = (member.offset, member.size) if member else (0, 0)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if hasattr(os, "posix_fadvise"):  # else each header brings 128 KB of image into memory
            os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_RANDOM)
        yield tar.Descriptor(descriptor)
    finally:
        os.close(descriptor)


def synset(member_name: str) -> str:
    """Returns "n01440764" for "./n01440764.tar"."""
    return _INNER.fullmatch(member_name)[1]


def validation_number(name: str) -> int:
    """Returns 17 for "ILSVRC2012_val_00000017.JPEG"."""
    return int(_VALIDATION_IMAGE.fullmatch(name)[2])


def classes(
    source: tar.Source, path: Path, ids: dict[str, int], faults: list[Fault], end: int | None
) -> Iterator[tar.Member]:
    """Yields the classes' archives in the training archive; other members become faults."""
    seen: set[str] = set()
    for member in _members(source, path, _INNER, "n01440764.tar", end):
        match = _INNER.fullmatch(member.name)
        fault = member.fault or ("" if match else "is no archive of a class")
        if match and not fault:
            fault = "" if match[1] in ids else "is none of the 1000 classes"
            fault = fault or (TWICE if match[1] in seen else "")
        if fault:
            add_faults(faults, [Fault(f"{path.name}: {member.name}", fault)])
            continue
        seen.add(match[1])
        yield member


def class_images(
    source: tar.Source, path: Path, inner: tar.Member, faults: list[Fault]
) -> Iterator[ArchivedImage]:
    """Yields the images of one class's archive inside the archive `path`."""
    seen: set[str] = set()
    end = inner.offset + inner.size
    for member in tar.members(source, f"{path}: {inner.name}", inner.offset, end):
        match = _TRAIN_IMAGE.fullmatch(member.name)
        if fault := _image_fault(member, match, seen):
            add_faults(faults, [Fault(f"{inner.name}: {member.name}", fault)])
            continue
        seen.add(match[1])
        yield match[1], member.offset, member.size


def validation_images(
    source: tar.Source, path: Path, last: int, faults: list[Fault]
) -> Iterator[ArchivedImage]:
    """Yields the images of the validation archive, whose numbers are 1..`last`."""
    seen: set[str] = set()
    example = "ILSVRC2012_val_00000001.JPEG"
    for member in _members(source, path, _VALIDATION_IMAGE, example, path.stat().st_size):
        match = _VALIDATION_IMAGE.fullmatch(member.name)
        fault = _image_fault(member, match, seen)
        if not fault and not 1 <= int(match[2]) <= last:
            fault = f"has a number outside 1..{last}"
        if fault:
            add_faults(faults, [Fault(f"{path.name}: {member.name}", fault)])
            continue
        seen.add(match[1])
        yield match[1], member.offset, member.size


def _image_fault(member: tar.Member, match: re.Match | None, seen: set[str]) -> str:
    if member.fault or not match:
        return member.fault or "is no image of the data set"
    if member.size > decoding.MAX_BYTES:
        return f"is larger than {decoding.MAX_BYTES >> 20} MB"
    return TWICE if match[1] in seen else ""


def _members(
    source: tar.Source, path: Path, pattern: re.Pattern, example: str, end: int | None
) -> Iterator[tar.Member]:
    """Yields the members of an archive; the first one shows whether it is the right archive."""
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


def check_counts(splits: dict[str, Listing], paths: dict[str, Path]) -> None:
    """Checks the number of images, in total and by class, against the official numbers.

    Raises:
      InputError: they differ.
    """
    for name, path in zip(splits, paths.values(), strict=True):
        counts = np.bincount(splits[name].table["label"], minlength=len(labels.imagenet()) + 1)[1:]
        total, classes = int(counts.sum()), int((counts > 0).sum())
        low, high = OFFICIAL_CLASS_SIZES[name]
        odd = np.flatnonzero((counts < low) | (counts > high))
        fault = ""
        if total != OFFICIAL_EXAMPLES[name] or classes != len(labels.imagenet()):
            fault = f"{total} images of {classes} classes, the official archive "
            fault += f"{OFFICIAL_EXAMPLES[name]} of {len(labels.imagenet())}"
        elif len(odd):
            fault = f"{counts[odd[0]]} images of {labels.imagenet()[odd[0]].synset}, the official "
            fault += f"archive {low} to {high}"
        if fault:
            raise InputError(
                f"{path} holds {fault}; download it again, or give --partial if it is a part of "
                "ImageNet on purpose."
            )


def check_digests(
    files: Mapping[str, Path], official: bool, pool: Pool, show_progress: bool
) -> list[dict]:
    """Reads the archives through and returns the manifest's description of each.

    Args:
      files: paths by official name.
      official: compare with the official checksums; otherwise the SHA-256 is only recorded.
      pool: worker processes.
      show_progress: show progress on standard error.

    Raises:
      InputError: an archive is not the official one; it is named.
    """
    wanted = {name: OFFICIAL_DIGESTS.get(name, {}) if official else {} for name in files}
    jobs = [(path, _kinds(wanted[name])) for name, path in files.items()]
    rows = []
    size = sum(path.stat().st_size for path in files.values())
    with progress.throughput("Checksums", len(files), size, show_progress, "files") as advance:
        for (name, path), found in zip(files.items(), pool.run(_digests, jobs), strict=True):
            compare_digests(path, wanted[name], found)
            rows.append({"file": name, "bytes": path.stat().st_size, **found})
            advance(1, path.stat().st_size)
    return rows


def _kinds(known: dict[str, str]) -> list[str]:
    """Returns the digests to compute: SHA-256, the faster one, unless MD5 alone is known."""
    return ["md5"] if set(known) == {"md5"} else ["sha256"]


def compare_digests(path: Path, known: dict[str, str], found: dict[str, str]) -> None:
    """Compares the digests of a file with the official ones.

    Raises:
      InputError: one differs.
    """
    for kind in set(known) & set(found):
        if found[kind] != known[kind]:
            raise InputError(
                f"{path} has the {kind.upper()} {found[kind]}, the official archive "
                f"{known[kind]}; download it again, or give --partial if it is another on purpose."
            )


def _digests(job: tuple[Path, list[str]]) -> dict[str, str]:
    path, kinds = job
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for digest in digests.values():
                digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in digests.items()}
