"""Lists a source, by the module for its layout."""

import re
from pathlib import Path

from squeezenext.convert import csv_lists, folder, imagenet, imagenet_folders, tfrecords
from squeezenext.convert.listing import Collection
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError

_CALTECH_PATTERN = r"\d{3}\.(.+)"
_CALTECH_FOLDER = "256_ObjectCategories"
_CLASS_FOLDERS = ("folder", "caltech256")
_CLUTTER = re.compile(r"257\.clutter")


def collect(source: Path, options: ConvertOptions, pool: Pool, spool: Path) -> Collection:
    """Lists the examples in `source`, which has the layout `options.layout`.

    Args:
      source: a folder or a CSV file.
      options: the conversion's.
      pool: worker processes.
      spool: a folder for a copy of what cannot be read twice.

    Raises:
      InputError: the source has another layout, or cannot be read.
    """
    try:
        return _collect(source, options, pool, spool)
    except (
        BlockingIOError,
        BrokenPipeError,
    ):  # no process can be started; standard error is closed
        raise
    except OSError as error:  # for example a file that was removed after its folder was read
        raise InputError(
            f"{error.filename or source} cannot be read ({error.strerror}); mend that and run the "
            "command again."
        ) from error


def _collect(source: Path, options: ConvertOptions, pool: Pool, spool: Path) -> Collection:
    if options.checksum and (options.layout != "imagenet" or imagenet_folders.is_extracted(source)):
        raise InputError("--checksum is for ImageNet's archives; nothing else has an official one.")
    if (options.train_tar or options.sequential) and options.layout != "imagenet":
        raise InputError("--train_tar and --sequential are for ImageNet's archives.")
    if options.layout == "csv":
        return csv_lists.collect(source, options.validation_fraction, options.seed)
    if not source.is_dir():
        raise InputError(f"--source {source} is no folder; give the one that holds the data.")
    if options.layout == "imagenet":
        if imagenet_folders.is_extracted(source) and not options.train_tar:
            return imagenet_folders.collect(source, options.partial, pool)
        return imagenet.collect(source, options, pool, spool)
    if options.layout == "tfrecord":
        return tfrecords.collect(source)
    if options.layout == "caltech256":
        return _caltech256(source, options)
    names = folder.ClassNames(re.compile(options.class_pattern or "(.+)"))
    return _folders(source, options, names)


def check_apart(source: Path, output: Path, options: ConvertOptions) -> None:
    """Checks the place of the output.

    Raises:
      InputError: it would be read as a class, or would replace the source's own lists.
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


def _caltech256(source: Path, options: ConvertOptions) -> Collection:
    """Lists 001.ak47/001_0001.jpg and so on; class 257 holds images of no class."""
    source = _caltech_folder(source)
    names = folder.ClassNames(
        re.compile(options.class_pattern or _CALTECH_PATTERN),
        None if options.clutter else _CLUTTER,
        reject_nested=False,
    )
    return _folders(source, options, names)


def _folders(source: Path, options: ConvertOptions, names: folder.ClassNames) -> Collection:
    links = options.follow_links
    return folder.collect(source, options.validation_fraction, options.seed, links, names)
