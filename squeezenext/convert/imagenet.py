"""The ILSVRC2012 archives as they are downloaded: a tar of 1000 tars, and a flat one."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from squeezenext import labels
from squeezenext.convert import boxes, checksums, imagenet_archives, tar
from squeezenext.convert.imagenet_archives import TRAIN, VALIDATION
from squeezenext.convert.listing import Collection, Fault, Listing, Watch, add_all, listing
from squeezenext.convert.options import Options
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError

BOXES = "ILSVRC2012_bbox_train_v2.tar.gz"

# Sizes: tensorflow-datasets 4.9.10, imagenet2012/checksums.tsv. Counts: image-net.org.
OFFICIAL_BYTES = {TRAIN: 147_897_477_120, VALIDATION: 6_744_924_160}
OFFICIAL_EXAMPLES = {"train": 1_281_167, "validation": 50_000}
OFFICIAL_SHARDS = {"train": 1024, "validation": 128}
OFFICIAL_OF_A_CLASS = {"train": (732, 1300), "validation": (50, 50)}
OFFICIAL_REPAIRS = {"CMYK": 22, "PNG": 1}  # github.com/cytsai/ilsvrc-cmyk-image-list
_WORTH_WORKERS = 8 << 30  # bytes; 35 microseconds an image, a second to start a worker


def collect(source: Path, options: Options, pool: Pool, spool: Path) -> Collection:
    """Lists the archives in the folder `source`.

    Args:
      spool: a folder for what a sequential pass lays by.

    Raises:
      InputError: an archive is missing, cut, damaged, another one, or not complete.
    """
    train_path = train_archive(source, options)
    paths = {TRAIN: train_path, VALIDATION: source / VALIDATION}
    piped = imagenet_archives.is_pipe(train_path)
    for name, path in paths.items():
        if name != TRAIN or not piped:
            _check_archive(path, name, options.partial)
    paths[BOXES] = source / BOXES
    files = {name: path for name, path in paths.items() if path.is_file()}
    watch = Watch()
    described = [{"file": name, "bytes": watch.size(path)} for name, path in files.items()]
    if options.checksum:
        described = checksums.check(files, not options.partial, pool, options.show_progress)
    faults: list[Fault] = []
    validation = _validation(paths[VALIDATION], faults)
    if piped or options.sequential:
        train, row = imagenet_archives.collect(train_path, options, faults, spool)
        described = [row, *(row for row in described if row["file"] != TRAIN)]
        _check_size(train_path, TRAIN, row["bytes"], options.partial)
    else:
        train = _train(train_path, pool, faults)
    splits = {"train": train, "validation": validation}
    if not options.partial:
        check_counts(splits, {"train": train_path, "validation": paths[VALIDATION]})
    found, refused = read_boxes(paths[BOXES], train, pool)
    add_all(faults, refused)
    splits["train"] = dataclasses.replace(train, boxes=found)
    return Collection(labels.imagenet(), splits, tuple(faults), tuple(described), watch)


def train_archive(source: Path, options: Options) -> Path:
    """Returns where the training archive is; "-" is standard input."""
    return source / TRAIN if options.train_tar is None else Path(options.train_tar)


def _check_archive(path: Path, name: str, partial: bool) -> None:
    if not path.is_file():
        raise InputError(
            f"{path} is missing; download {name} from image-net.org into {path.parent}, or give "
            "the folder of extracted train/nXXXXXXXX/ and val/."
        )
    _check_size(path, name, path.stat().st_size, partial)
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise InputError(f"{path} is compressed; decompress it with gunzip first.")


def _check_size(path: Path, name: str, size: int, partial: bool) -> None:
    if not partial and size != OFFICIAL_BYTES[name]:
        raise InputError(
            f"{path} has {size} bytes, the official archive {OFFICIAL_BYTES[name]}; download it "
            "again, or give --partial if it is a part of ImageNet on purpose."
        )


def _train(path: Path, pool: Pool, faults: list[Fault]) -> Listing:
    """Lists the tar of tars; each inner one is walked by a worker, if that is worth its start."""
    if path.stat().st_size < _WORTH_WORKERS:
        pool.warm()
        pool = Pool(1)
    ids = imagenet_archives.synset_ids()
    with imagenet_archives.opened(path) as source:
        inner = list(imagenet_archives.classes(source, path, ids, faults, path.stat().st_size))
    rows: list[tuple[int, int, int, int]] = []
    names: list[str] = []
    jobs = ((path, member) for member in inner)
    for member, (found, refused) in zip(inner, pool.run(_class_images, jobs), strict=True):
        label = ids[imagenet_archives.synset(member.name)]
        names += [name for name, _, _ in found]
        rows += [(0, offset, size, label) for _, offset, size in found]
        add_all(faults, refused)
    return imagenet_archives.train_listing([path], rows, names, faults, path)


def _class_images(
    job: tuple[Path, tar.Member],
) -> tuple[list[imagenet_archives.Image], list[Fault]]:
    path, inner = job
    faults: list[Fault] = []
    with imagenet_archives.opened(path, inner) as source:
        return list(imagenet_archives.class_images(source, path, inner, faults)), faults


def _validation(path: Path, faults: list[Fault]) -> Listing:
    """Lists the flat archive. An image's number, not its place, says its label.

    The archive is not in the order of names, and the official list is.
    """
    truth = validation_labels()
    rows, names = [], []
    with imagenet_archives.opened(path) as source:
        found = imagenet_archives.validation_images(source, path, len(truth), faults)
        for name, offset, size in found:
            names.append(name)
            rows.append((0, offset, size, truth[imagenet_archives.validation_number(name) - 1]))
    if not rows:
        raise InputError(f"{path} holds no validation image; download it again.")
    return listing([path], rows, names)


@functools.cache
def validation_labels() -> list[int]:
    """Returns the label, 1..1000, of validation images 1..50,000."""
    ids = imagenet_archives.synset_ids()
    path = Path(__file__).with_name("imagenet_2012_validation_synsets.txt")
    return [ids[line] for line in path.read_text("ascii").split()]


def check_counts(splits: dict[str, Listing], paths: dict[str, Path]) -> None:
    """Refuses other numbers of images than the official ones, in all and of each class."""
    for name, path in zip(splits, paths.values(), strict=True):
        counts = np.bincount(splits[name].table["label"], minlength=len(labels.imagenet()) + 1)[1:]
        total, classes = int(counts.sum()), int((counts > 0).sum())
        low, high = OFFICIAL_OF_A_CLASS[name]
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


def read_boxes(path: Path, train: Listing, pool: Pool) -> tuple[dict[str, bytes], list[Fault]]:
    """Returns the boxes of the training images, by name, if their archive is there."""
    if not path.is_file():
        return {}, []
    suffix = ".JPEG"
    found, faults = boxes.read(path, {name.removesuffix(suffix) for name in train.names}, pool)
    return {stem + suffix: corners for stem, corners in found.items()}, faults
