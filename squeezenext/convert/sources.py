"""Which module lists which layout, and what else its source may be."""

import re
from pathlib import Path

from squeezenext.convert import csv_lists, folder, imagenet, imagenet_folders, tfrecords
from squeezenext.convert.listing import Collection
from squeezenext.convert.options import Options
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError

_CALTECH_PATTERN = r"\d{3}\.(.+)"
_CALTECH_FOLDER = "256_ObjectCategories"
_CLASS_FOLDERS = ("folder", "caltech256")
_CLUTTER = re.compile(r"257\.clutter")


def collect(source: Path, options: Options, pool: Pool, spool: Path) -> Collection:
    """Lists what `source` holds, as `options.layout` says.

    Args:
      spool: a folder for what cannot be read twice.

    Raises:
      InputError: the source does not hold that layout, or cannot be read.
    """
    try:
        return _collect(source, options, pool, spool)
    except (BlockingIOError, BrokenPipeError):  # no process can be started; standard error is shut
        raise
    except OSError as error:  # a file that is gone since its folder was read, for one
        raise InputError(
            f"{error.filename or source} cannot be read ({error.strerror}); mend that and run the "
            "command again."
        ) from error


def _collect(source: Path, options: Options, pool: Pool, spool: Path) -> Collection:
    if options.checksum and (options.layout != "imagenet" or imagenet_folders.found(source)):
        raise InputError("--checksum is for ImageNet's archives; nothing else has an official one.")
    if (options.train_tar or options.sequential) and options.layout != "imagenet":
        raise InputError("--train_tar and --sequential are for ImageNet's archives.")
    if options.layout == "csv":
        return csv_lists.collect(source, options.validation_fraction, options.seed)
    if not source.is_dir():
        raise InputError(f"--source {source} is no folder; give the one that holds the data.")
    if options.layout == "imagenet":
        if imagenet_folders.found(source) and not options.train_tar:
            return imagenet_folders.collect(source, options.partial, pool)
        return imagenet.collect(source, options, pool, spool)
    if options.layout == "tfrecord":
        return tfrecords.collect(source)
    if options.layout == "caltech256":
        return _caltech256(source, options)
    names = folder.Names(re.compile(options.class_pattern or "(.+)"))
    return _folders(source, options, names)


def check_apart(source: Path, output: Path, options: Options) -> None:
    """Refuses an output that would be read as a class, or would replace the source's own lists.

    Raises:
      InputError: the same.
    """
    roots: list[Path] = []
    if options.layout == "csv":
        roots = [source if source.is_dir() else source.parent]
    elif options.layout in _CLASS_FOLDERS and source.is_dir():
        roots = list(folder.split_folders(_caltech_folder(source)).values())
    place = output.resolve()
    for root in (root.resolve() for root in roots):
        a_class = options.layout in _CLASS_FOLDERS and not place.name.startswith(".")
        if place == root or (a_class and place.parent == root):
            raise InputError(
                f"--output {output} lies among the data in {root}; choose a folder elsewhere."
            )


def _caltech_folder(source: Path) -> Path:
    return source / _CALTECH_FOLDER if (source / _CALTECH_FOLDER).is_dir() else source


def _caltech256(source: Path, options: Options) -> Collection:
    """001.ak47/001_0001.jpg and so on; class 257 is what belongs to no class."""
    source = _caltech_folder(source)
    names = folder.Names(
        re.compile(options.class_pattern or _CALTECH_PATTERN),
        None if options.clutter else _CLUTTER,
        nested_refused=False,
    )
    return _folders(source, options, names)


def _folders(source: Path, options: Options, names: folder.Names) -> Collection:
    links = options.follow_links
    return folder.collect(source, options.validation_fraction, options.seed, links, names)
