"""The ILSVRC2012 archives as they are downloaded: a tar of 1000 tars, and a flat one."""

import collections
import os
import re
from collections.abc import Iterator
from pathlib import Path

from datasets import boxes, images, tar
from datasets.listing import Collection, Fault, Listing, listing
from datasets.pool import Pool
from squeezenext import labels
from squeezenext.errors import InputError

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
BOXES = "ILSVRC2012_bbox_train_v2.tar.gz"

# Sizes: tensorflow-datasets 4.9.10, imagenet2012/checksums.tsv. Counts: image-net.org.
OFFICIAL_BYTES = {TRAIN: 147_897_477_120, VALIDATION: 6_744_924_160}
OFFICIAL_EXAMPLES = {"train": 1_281_167, "validation": 50_000}
OFFICIAL_SHARDS = {"train": 1024, "validation": 128}

_INNER = re.compile(r"(?:\./)?(n\d{8})\.tar")
_TRAIN_IMAGE = re.compile(r"(?:\./)?(n\d{8}_\d+\.JPEG)")
_VALIDATION_IMAGE = re.compile(r"(?:\./)?(ILSVRC2012_val_(\d{8})\.JPEG)")
_TWICE = "appears twice"


def collect(source: Path, partial: bool, pool: Pool) -> Collection:
    """Lists the archives in the folder `source`.

    Args:
      partial: accept fewer classes and images than the official ones.

    Raises:
      InputError: an archive is missing, cut, damaged, another one, or not complete.
    """
    paths = {name: source / name for name in (TRAIN, VALIDATION)}
    for name, path in paths.items():
        _check_archive(path, name, partial)
    train, train_faults = _train(paths[TRAIN], pool)
    validation, validation_faults = _validation(paths[VALIDATION])
    splits = {"train": train, "validation": validation}
    if not partial:
        _check_counts(splits, paths)
    found, box_faults = _boxes(source / BOXES, train, pool)
    splits["train"] = Listing(train.files, train.table, train.names, found)
    described = [_described(path) for path in (*paths.values(), source / BOXES) if path.exists()]
    return Collection(
        labels.imagenet(),
        splits,
        (*train_faults, *validation_faults, *box_faults),
        tuple(described),
    )


def _check_archive(path: Path, name: str, partial: bool) -> None:
    if not path.is_file():
        raise InputError(
            f"{path} is missing; download {name} from image-net.org into {path.parent}."
        )
    size = path.stat().st_size
    if not partial and size != OFFICIAL_BYTES[name]:
        raise InputError(
            f"{path} has {size} bytes, the official archive {OFFICIAL_BYTES[name]}; download it "
            "again, or give --partial if it is a part of ImageNet on purpose."
        )
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise InputError(f"{path} is compressed; decompress it with gunzip first.")


def _described(path: Path) -> dict:
    return {"file": path.name, "bytes": path.stat().st_size}


def _train(path: Path, pool: Pool) -> tuple[Listing, list[Fault]]:
    """Lists the tar of tars; each inner one is walked by a worker."""
    ids = {label.synset: number for number, label in enumerate(labels.imagenet(), 1)}
    faults: list[Fault] = []
    inner = [member for member in _inner_archives(path, ids, faults)]
    rows: list[tuple[int, int, int, int]] = []
    names: list[str] = []
    jobs = ((path, member) for member in inner)
    for member, (found, refused) in zip(inner, pool.run(_inner_images, jobs), strict=True):
        label = ids[_INNER.fullmatch(member.name)[1]]
        names += [name for name, _, _ in found]
        rows += [(0, offset, size, label) for _, offset, size in found]
        faults += refused
    if not rows:
        raise InputError(f"{path} holds no image of ImageNet's 1000 classes; download it again.")
    return _without_repeats(listing([path], rows, names), faults)


def _inner_archives(path: Path, ids: dict[str, int], faults: list[Fault]) -> Iterator[tar.Member]:
    seen = set()
    for member in _members(path, _INNER, "n01440764.tar"):
        match = _INNER.fullmatch(member.name)
        fault = member.fault or ("" if match else "is no archive of a class")
        if match and not fault:
            fault = "" if match[1] in ids else "is none of the 1000 classes"
            fault = fault or (_TWICE if match[1] in seen else "")
        if fault:
            faults.append(Fault(f"{path.name}: {member.name}", fault))
            continue
        seen.add(match[1])
        yield member


def _members(path: Path, pattern: re.Pattern, example: str) -> Iterator[tar.Member]:
    """Yields the members of an archive, after a look at the first: is it the right one?"""
    end = path.stat().st_size
    for number, member in enumerate(_walk(path, str(path), 0, end)):
        if number == 0 and not pattern.fullmatch(member.name):
            raise InputError(_wrong(path, member.name, example))
        yield member


def _walk(path: Path, name: str, start: int, end: int) -> Iterator[tar.Member]:
    """Yields the members of the archive `name` that lies from `start` to `end` of a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if hasattr(os, "posix_fadvise"):  # else each header drags 128 KB of image into memory
            os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_RANDOM)
        yield from tar.members(tar.Descriptor(descriptor), name, start, end)
    finally:
        os.close(descriptor)


def _wrong(path: Path, found: str, example: str) -> str:
    kinds = {TRAIN: _INNER, VALIDATION: _VALIDATION_IMAGE}
    for name, pattern in kinds.items():
        if pattern.fullmatch(found):
            return f"{path} is the wrong archive: its content is that of {name}; rename it."
    return (
        f"{path} is the wrong archive: its first member is {found}, not one like {example}; "
        f"download {path.name} from image-net.org."
    )


def _inner_images(job: tuple[Path, tar.Member]) -> tuple[list[tuple[str, int, int]], list[Fault]]:
    """Lists one class: (name, offset in the outer archive, size) of each image."""
    path, inner = job
    found, faults, seen = [], [], set()
    end = inner.offset + inner.size
    for member in _walk(path, f"{path}: {inner.name}", inner.offset, end):
        match = _TRAIN_IMAGE.fullmatch(member.name)
        if fault := _image_fault(member, match, seen):
            faults.append(Fault(f"{inner.name}: {member.name}", fault))
            continue
        seen.add(match[1])
        found.append((match[1], member.offset, member.size))
    return found, faults


def _image_fault(member: tar.Member, match: re.Match | None, seen: set[str]) -> str:
    if member.fault or not match:
        return member.fault or "is no image of the data set"
    if member.size > images.MAX_BYTES:
        return f"is larger than {images.MAX_BYTES >> 20} MB"
    return _TWICE if match[1] in seen else ""


def _without_repeats(full: Listing, faults: list[Fault]) -> tuple[Listing, list[Fault]]:
    """Drops an image whose name another class's archive had before."""
    if len(set(full.names)) == len(full.names):
        return full, faults
    seen: set[str] = set()
    keep = []
    for place, name in enumerate(full.names):
        if name in seen:
            faults.append(Fault(name, _TWICE))
        else:
            keep.append(place)
            seen.add(name)
    return full.take(keep), faults


def _validation(path: Path) -> tuple[Listing, list[Fault]]:
    """Lists the flat archive. An image's number, not its place, says its label.

    The archive is not in the order of names, and the official list is.
    """
    truth = _validation_labels()
    faults, rows, names, seen = [], [], [], set()
    for member in _members(path, _VALIDATION_IMAGE, "ILSVRC2012_val_00000001.JPEG"):
        match = _VALIDATION_IMAGE.fullmatch(member.name)
        fault = _image_fault(member, match, seen)
        if not fault and not 1 <= int(match[2]) <= len(truth):
            fault = f"has a number outside 1..{len(truth)}"
        if fault:
            faults.append(Fault(f"{path.name}: {member.name}", fault))
            continue
        seen.add(match[1])
        names.append(match[1])
        rows.append((0, member.offset, member.size, truth[int(match[2]) - 1]))
    if not rows:
        raise InputError(f"{path} holds no validation image; download it again.")
    return listing([path], rows, names), faults


def _validation_labels() -> list[int]:
    """Returns the label, 1..1000, of validation images 1..50,000."""
    ids = {label.synset: number for number, label in enumerate(labels.imagenet(), 1)}
    path = Path(__file__).with_name("imagenet_2012_validation_synsets.txt")
    return [ids[line] for line in path.read_text("ascii").split()]


def _check_counts(splits: dict[str, Listing], paths: dict[str, Path]) -> None:
    for (name, split), path in zip(splits.items(), paths.values(), strict=True):
        classes = len(collections.Counter(split.table["label"].tolist()))
        if len(split.names) != OFFICIAL_EXAMPLES[name] or classes != len(labels.imagenet()):
            raise InputError(
                f"{path} holds {len(split.names)} images of {classes} classes, the official "
                f"archive {OFFICIAL_EXAMPLES[name]} of {len(labels.imagenet())}; download it "
                "again, or give --partial if it is a part of ImageNet on purpose."
            )


def _boxes(path: Path, train: Listing, pool: Pool) -> tuple[dict[str, bytes], list[Fault]]:
    if not path.is_file():
        return {}, []
    suffix = ".JPEG"
    found, faults = boxes.read(path, {name.removesuffix(suffix) for name in train.names}, pool)
    return {stem + suffix: corners for stem, corners in found.items()}, faults
