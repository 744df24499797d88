"""Lists the ILSVRC2012 archives as they are downloaded: a tar of 1000 tars, and a flat one.

Usually the headers are read and the images stay where they are. With --sequential, or from a pipe,
the training archive is read once, from front to back. Records are ordered by a hash of their names,
so images are copied, as they come, into 64 files by the first bits of that hash: each file holds a
run of the final order, and writing the shards reads one file after the other. This needs the
archive's size once more in the output folder; the records are the same.
"""

import contextlib
import dataclasses
import hashlib
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from squeezenext import files, labels, progress
from squeezenext.convert import boxes, commit, imagenet_archives, tar
from squeezenext.convert.imagenet_archives import BOXES, TRAIN, VALIDATION, ArchivedImage
from squeezenext.convert.listing import Collection, Fault, Listing, Watch, add_faults, order_key
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError

_WORTH_WORKERS = 8 << 30  # bytes; 35 microseconds an image, a second to start a worker
_BUCKET_BITS = 6
_IMAGE_BYTES = 115_440  # mean of the official archive: 147,897,477,120 bytes, 1,281,167 images


def collect(source: Path, options: ConvertOptions, pool: Pool, spool: Path) -> Collection:
    """Lists the archives in the folder `source`; `spool` holds the images of one that is read once.

    Raises:
      InputError: an archive is missing, cut, damaged, incomplete, or not the official one.
    """
    train_path = train_archive(source, options)
    piped = is_pipe(train_path)
    if not piped:
        _check_archive(train_path, TRAIN, options.partial)
    _check_archive(source / VALIDATION, VALIDATION, options.partial)
    paths = {TRAIN: train_path, VALIDATION: source / VALIDATION, BOXES: source / BOXES}
    archives = {name: path for name, path in paths.items() if path.is_file()}
    watch = Watch()
    described = [{"file": name, "bytes": watch.size(path)} for name, path in archives.items()]
    if options.checksum:
        described = imagenet_archives.check_digests(
            archives, not options.partial, pool, options.show_progress
        )
    faults: list[Fault] = []
    validation = _validation(paths[VALIDATION], faults)
    if piped or options.sequential:
        train, row = _spooled(train_path, options, faults, spool)
        described = [row, *(row for row in described if row["file"] != TRAIN)]
        _check_size(train_path, TRAIN, row["bytes"], options.partial)
    else:
        train = _train(train_path, pool, faults)
    splits = {"train": train, "validation": validation}
    if not options.partial:
        archive_of = {"train": train_path, "validation": paths[VALIDATION]}
        imagenet_archives.check_counts(splits, archive_of)
    splits["train"] = with_boxes(train, paths[BOXES], pool, faults)
    return Collection(labels.imagenet(), splits, tuple(faults), tuple(described), watch)


def train_archive(source: Path, options: ConvertOptions) -> Path:
    """Returns the path of the training archive; "-" is standard input."""
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
    official = imagenet_archives.OFFICIAL_BYTES[name]
    if not partial and size != official:
        raise InputError(
            f"{path} has {size} bytes, the official archive {official}; download it again, or "
            "give --partial if it is a part of ImageNet on purpose."
        )


def _train(path: Path, pool: Pool, faults: list[Fault]) -> Listing:
    """Lists the tar of tars; workers walk the inner ones if that is worth starting them."""
    if path.stat().st_size < _WORTH_WORKERS:
        pool.warm()
        pool = Pool(1)
    with imagenet_archives.opened(path) as read_at:
        inner = list(imagenet_archives.classes(read_at, path, path.stat().st_size, faults))
    images: list[ArchivedImage] = []
    jobs = ((path, member, label) for member, label in inner)
    for more, rejected in pool.run(_class_images, jobs):
        images += more
        add_faults(faults, rejected)
    return _train_listing([path], *_columns(images), faults, path)


def _columns(images: list[ArchivedImage]) -> tuple[list[tuple[int, int, int, int]], list[str]]:
    """Returns the rows and the names of images in one archive."""
    return [(0, *image[1:]) for image in images], [image[0] for image in images]


def _class_images(
    job: tuple[Path, tar.Member, int],
) -> tuple[list[ArchivedImage], list[Fault]]:
    path, inner, label = job
    faults: list[Fault] = []
    with imagenet_archives.opened(path, inner) as read_at:
        return list(imagenet_archives.class_images(read_at, path, inner, label, faults)), faults


def _validation(path: Path, faults: list[Fault]) -> Listing:
    images = list(imagenet_archives.validation_images(path, faults))
    if not images:
        raise InputError(f"{path} holds no validation image; download it again.")
    return Listing.of_rows([path], *_columns(images))


def _train_listing(
    files: list[Path], rows: list, names: list[str], faults: list[Fault], path: Path
) -> Listing:
    """Returns the listing without images whose name another class has already."""
    if not rows:
        raise InputError(f"{path} holds no image of ImageNet's 1000 classes; download it again.")
    full = Listing.of_rows(files, rows, names)
    if len(set(names)) == len(names):
        return full
    seen: set[str] = set()
    keep = []
    for index, name in enumerate(names):
        if name in seen:
            add_faults(faults, [Fault(name, imagenet_archives.TWICE)])
        else:
            keep.append(index)
            seen.add(name)
    return full.take(keep)


def with_boxes(train: Listing, archive: Path, pool: Pool, faults: list[Fault]) -> Listing:
    """Adds the training images' boxes, if their archive exists, and its faults to `faults`."""
    if not archive.is_file():
        return train
    suffix = ".JPEG"
    stems = {name.removesuffix(suffix) for name in train.names}
    by_stem, rejected = boxes.read(archive, stems, pool)
    add_faults(faults, rejected)
    by_name = {stem + suffix: corners for stem, corners in by_stem.items()}
    return dataclasses.replace(train, boxes=by_name)


def is_pipe(path: Path) -> bool:
    """Returns whether `path` is standard input ("-") or cannot seek."""
    try:
        mode = path.stat().st_mode if str(path) != "-" else stat.S_IFIFO
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    except OSError:
        return False


def _spooled(
    path: Path, options: ConvertOptions, faults: list[Fault], spool: Path
) -> tuple[Listing, dict]:
    """Copies the images into `spool`; returns their listing and the manifest's row."""
    shutil.rmtree(spool, ignore_errors=True)
    commit.make_folder(spool)
    if path.is_file():
        commit.check_room(spool, _needed(path.stat().st_size, options, spool.parent))
    name = "standard input" if str(path) == "-" else str(path)
    if str(path) == "-" and sys.stdin is None:
        raise InputError("--train_tar -: standard input is closed; pipe the archive into it.")
    with contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if str(path) == "-" else stack.enter_context(path.open("rb"))
        stream = tar.Stream(file, name, hashlib.sha256() if options.checksum else None)
        bar = progress.throughput("Reading", 0, 0, options.show_progress)
        listed = _copy_images(stream, Path(name), options, faults, spool, stack.enter_context(bar))
        stream.read_to_end()
        row = {"file": TRAIN, "bytes": stream.position}
        if stream.digest:
            row["sha256"] = stream.digest.hexdigest()
    if options.checksum and not options.partial:
        official = imagenet_archives.OFFICIAL_DIGESTS[TRAIN]
        imagenet_archives.compare_digest(Path(name), "sha256", row["sha256"], official)
    return listed, row


def _needed(size: int, options: ConvertOptions, output: Path) -> int:
    """Returns the bytes of the copied images and of the shards that do not exist yet."""
    shards = commit.reencoded(size, -(-size // _IMAGE_BYTES), options.max_side)
    return size + max(0, shards - commit.shard_bytes(output))


def _copy_images(
    stream: tar.Stream,
    path: Path,
    options: ConvertOptions,
    faults: list[Fault],
    spool: Path,
    advance: Callable,
) -> Listing:
    paths = [spool / f"{number:02d}" for number in range(1 << _BUCKET_BITS)]
    rows, names = [], []
    with contextlib.ExitStack() as stack, commit.explained(spool):
        outputs = [stack.enter_context(commit.Output(path)) for path in paths]
        for inner, label in imagenet_archives.classes(stream.read_at, path, None, faults):
            images = imagenet_archives.class_images(stream.read_at, path, inner, label, faults)
            for name, offset, size, _ in images:
                data = stream.read_at(offset, size)
                if len(data) != size:
                    raise InputError(
                        f"{path}: {inner.name} is cut inside its member {name}; download or copy "
                        "it again."
                    )
                bucket = order_key(name, options.seed)[0] >> (8 - _BUCKET_BITS)
                rows.append((bucket, outputs[bucket].position, size, label))
                names.append(name)
                outputs[bucket].write(data)
                advance(1, size)
        for output in outputs:
            output.finish()
            files.flush(output.path)  # a network file system may report only now that it is full
    return _train_listing(paths, rows, names, faults, path)
