"""The official archives of ILSVRC2012: their facts, checksums and members.

An archive is walked by its headers, from a file or from a stream.
"""

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from squeezenext import files, labels, progress
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
_NO_IMAGE = "is no image of the data set"

_INNER = re.compile(r"(?:\./)?(n\d{8})\.tar")
_TRAIN_IMAGE = re.compile(r"(?:\./)?(n\d{8}_\d+\.JPEG)")
_VALIDATION_IMAGE = re.compile(r"(?:\./)?(ILSVRC2012_val_(\d{8})\.JPEG)")

ArchivedImage = tuple[str, int, int, int]  # name, offset, size, label


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
def opened(path: Path, member: tar.Member | None = None) -> Iterator[tar.ReadAt]:
    """Opens an archive, or the part of it that is `member`, for a walk by its headers."""
    start, size = (member.offset, member.size) if member else (0, 0)
    with files.open_file(path) as file:
        if hasattr(os, "posix_fadvise"):  # else each header brings 128 KB of image into memory
            os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_RANDOM)
        yield lambda position, size: files.pread(file.fileno(), size, position)


def classes(
    read_at: tar.ReadAt, path: Path, end: int | None, faults: list[Fault]
) -> Iterator[tuple[tar.Member, int]]:
    """Yields (archive, label) of the classes in the training archive; other members are faults."""
    ids = synset_ids()

    def fault_of(_: tar.Member, match: re.Match) -> str:
        return "" if match[1] in ids else "is none of the 1000 classes"

    members = _members(read_at, path, _INNER, "n01440764.tar", end)
    usable = _usable(members, _INNER, "is no archive of a class", fault_of, path.name, faults)
    return ((member, ids[match[1]]) for member, match in usable)


def class_images(
    read_at: tar.ReadAt, path: Path, inner: tar.Member, label: int, faults: list[Fault]
) -> Iterator[ArchivedImage]:
    """Yields the images of one class's archive inside the archive `path`."""
    end = inner.offset + inner.size
    members = tar.members(read_at, f"{path}: {inner.name}", inner.offset, end)
    usable = _usable(members, _TRAIN_IMAGE, _NO_IMAGE, _size_fault, inner.name, faults)
    return ((match[1], member.offset, member.size, label) for member, match in usable)


def validation_images(path: Path, faults: list[Fault]) -> Iterator[ArchivedImage]:
    """Yields the images of the validation archive.

    An image's label follows from its number, not from its position: the official list of labels is
    in the order of names, the archive is not.
    """
    truth = validation_labels()

    def fault_of(member: tar.Member, match: re.Match) -> str:
        if fault := _size_fault(member, match):
            return fault
        inside = 1 <= int(match[2]) <= len(truth)
        return "" if inside else f"has a number outside 1..{len(truth)}"

    example = "ILSVRC2012_val_00000001.JPEG"
    with opened(path) as read_at:
        members = _members(read_at, path, _VALIDATION_IMAGE, example, path.stat().st_size)
        usable = _usable(members, _VALIDATION_IMAGE, _NO_IMAGE, fault_of, path.name, faults)
        for member, match in usable:
            yield match[1], member.offset, member.size, truth[int(match[2]) - 1]


def _size_fault(member: tar.Member, _: re.Match) -> str:
    too_large = member.size > decoding.MAX_BYTES
    return f"is larger than {decoding.MAX_BYTES >> 20} MB" if too_large else ""


def _usable(
    members: Iterable[tar.Member],
    pattern: re.Pattern,
    misnamed: str,
    fault_of: Callable[[tar.Member, re.Match], str],
    archive: str,
    faults: list[Fault],
) -> Iterator[tuple[tar.Member, re.Match]]:
    """Yields members whose names match, each name once, with the match; all others are faults."""
    seen: set[str] = set()
    for member in members:
        match = pattern.fullmatch(member.name)
        fault = member.fault or (fault_of(member, match) if match else misnamed)
        if match and not fault and match[1] in seen:
            fault = TWICE
        if fault:
            add_faults(faults, [Fault(f"{archive}: {member.name}", fault)])
        else:
            seen.add(match[1])
            yield member, match


def _members(
    read_at: tar.ReadAt, path: Path, pattern: re.Pattern, example: str, end: int | None
) -> Iterator[tar.Member]:
    """Yields the members of an archive; the first one shows whether it is the right archive."""
    for number, member in enumerate(tar.members(read_at, str(path), 0, end)):
        if number == 0 and not pattern.fullmatch(member.name):
            raise _wrong_archive(path, member.name, example)
        yield member


def _wrong_archive(path: Path, first: str, example: str) -> InputError:
    for name, pattern in ((TRAIN, _INNER), (VALIDATION, _VALIDATION_IMAGE)):
        if pattern.fullmatch(first):
            return InputError(
                f"{path} is the wrong archive: its content is that of {name}; rename it."
            )
    return InputError(
        f"{path} is the wrong archive: its first member is {printable(first)}, not one like "
        f"{example}; download {path.name} from image-net.org."
    )


def check_counts(splits: dict[str, Listing], paths: dict[str, Path]) -> None:
    """Raises InputError if the numbers of images, in all or by class, are not official."""
    synsets = [label.synset for label in labels.imagenet()]
    for name, path in paths.items():
        counts = np.bincount(splits[name].table["label"], minlength=len(synsets) + 1)[1:]
        total, classes = int(counts.sum()), int((counts > 0).sum())
        low, high = OFFICIAL_CLASS_SIZES[name]
        odd = np.flatnonzero((counts < low) | (counts > high))
        if total != OFFICIAL_EXAMPLES[name] or classes != len(synsets):
            fault = f"{total} images of {classes} classes, the official archive "
            fault += f"{OFFICIAL_EXAMPLES[name]} of {len(synsets)}"
        elif len(odd):
            fault = f"{counts[odd[0]]} images of {synsets[odd[0]]}, the official archive "
            fault += f"{low} to {high}"
        else:
            continue
        raise InputError(
            f"{path} holds {fault}; download it again, or give --partial if it is a part of "
            "ImageNet on purpose."
        )


def check_digests(
    archives: Mapping[str, Path], official: bool, pool: Pool, show_progress: bool
) -> list[dict]:
    """Reads the archives, by official name, and returns the manifest's description of each.

    Where they need not be the `official` ones, the SHA-256 is only recorded.

    Raises:
      InputError: an archive is not the official one; it is named.
    """
    digests = {name: OFFICIAL_DIGESTS[name] if official else {} for name in archives}
    # SHA-256, the faster one, unless MD5 alone is known.
    kinds = ["md5" if set(digests[name]) == {"md5"} else "sha256" for name in archives]
    jobs = zip(archives.values(), kinds, strict=True)
    rows = []
    size = sum(path.stat().st_size for path in archives.values())
    with progress.throughput("Checksums", len(archives), size, show_progress, "files") as advance:
        for name, kind, digest in zip(archives, kinds, pool.run(_digest, jobs), strict=True):
            compare_digest(archives[name], kind, digest, digests[name])
            row = {"file": name, "bytes": archives[name].stat().st_size, kind: digest}
            rows.append(row)
            advance(1, row["bytes"])
    return rows


def compare_digest(path: Path, kind: str, digest: str, official: Mapping[str, str]) -> None:
    """Raises InputError if a file's digest is not the official one of its kind, if there is one."""
    if digest != official.get(kind, digest):
        raise InputError(
            f"{path} has the {kind.upper()} {digest}, the official archive {official[kind]}; "
            "download it again, or give --partial if it is another on purpose."
        )


def _digest(job: tuple[Path, str]) -> str:
    path, kind = job
    with path.open("rb") as file:
        new = functools.partial(hashlib.new, kind, usedforsecurity=False)
        return hashlib.file_digest(file, new).hexdigest()
