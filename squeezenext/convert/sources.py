"""Lists a source, by the module for its layout."""

import contextlib
import hashlib
import http.client
import os
import re
from pathlib import Path

from squeezenext import files, progress
from squeezenext.arguments import is_url
from squeezenext.cli import size_text
from squeezenext.convert import (
    archives,
    commit,
    csv_lists,
    folder,
    imagenet,
    imagenet_folders,
    places,
    review,
    tfrecords,
)
from squeezenext.convert.listing import Collection
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError
from squeezenext.predict import sources as fetching

_CHUNK = 1 << 20
_MOST_DOWNLOADED, _DOWNLOAD_SECONDS = 64 << 30, 6 * 3600.0
_CALTECH_PATTERN = r"\d{3}\.(.+)"
_CALTECH_FOLDER = "256_ObjectCategories"
_CLASS_FOLDERS = ("folder", "caltech256")
_CLUTTER = re.compile(r"257\.clutter")  # images of no class


def collect(source: Path, options: ConvertOptions, pool: Pool, spool: Path) -> Collection:
    """Lists the examples to convert: those of `found_in`, reviewed, with a validation split.

    Raises:
      InputError: as `found_in`; or `options.apply` cannot be obeyed.
    """
    reviewed = options.layout in (*_CLASS_FOLDERS, "csv")
    if options.apply and not reviewed:
        raise InputError("--apply is for --layout folder and csv: what the doctor has looked at.")
    collection = found_in(source, options, pool, spool)
    return review.split(collection, options) if reviewed else collection


def found_in(source: Path, options: ConvertOptions, pool: Pool, spool: Path) -> Collection:
    """Lists all examples in `source`, a folder, an archive or a CSV file, by `options.layout`.

    The folder `spool` is for a copy of what cannot be read twice.

    Raises:
      InputError: the source has another layout, or cannot be read.
    """
    try:
        return _collect(source, options, pool, spool)
    # Neither is the source's fault: the system cannot start another process (EAGAIN), or progress
    # goes to a standard error that is closed. The command reports both itself.
    except (BlockingIOError, BrokenPipeError):
        raise
    except OSError as error:  # for example a file that was removed after its folder was read
        raise InputError(
            f"{error.filename or source} cannot be read ({error.strerror}); mend that and run the "
            "command again."
        ) from error


def _collect(source: Path, options: ConvertOptions, pool: Pool, spool: Path) -> Collection:
    extracted = imagenet_folders.is_extracted(source)
    if options.checksum and (options.layout != "imagenet" or extracted):
        raise InputError("--checksum is for ImageNet's archives; nothing else has an official one.")
    if (options.train_tar or options.sequential) and options.layout != "imagenet":
        raise InputError("--train_tar and --sequential are for ImageNet's archives.")
    if options.labels_of and options.layout not in (*_CLASS_FOLDERS, "csv"):
        raise InputError("--labels_of is for --layout folder and csv: images to score a model on.")
    if options.layout == "csv":
        return csv_lists.collect(source, options)
    if options.layout in _CLASS_FOLDERS and source.is_file():
        return folder.collect(archives.tree(source, spool), options, _class_names(options))
    if not source.is_dir():
        raise InputError(no_folder(source))
    if options.layout == "folder" and places.metadata_lists(source):
        return csv_lists.collect(source, options)
    if options.layout == "tfrecord":
        return tfrecords.collect(source)
    if options.layout in _CLASS_FOLDERS:
        return folder.collect(_root(source, options), options, _class_names(options))
    if extracted and not options.train_tar:
        return imagenet_folders.collect(source, options.partial, pool)
    return imagenet.collect(source, options, pool, spool)


def downloaded(place: str, folder: Path) -> Path:
    """Returns a place on this machine; an https address is downloaded into `folder`, once.

    Raises:
      InputError: the address is not allowed, cannot be fetched, or is that of no archive.
      RunAgain: the disk is full.
    """
    if not is_url(place):
        return Path(place)
    path = folder / f"photographs-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
    part = path.with_suffix(".part")
    if not path.exists():
        with commit.explained(folder):
            made = files.make_missing(folder)
        try:
            _download(place, part)
            files.put(part, path)
        finally:
            part.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # they hold the archive
                for each in made:
                    each.rmdir()
    return path


def _download(address: str, path: Path) -> None:
    def take(response: http.client.HTTPResponse) -> None:
        size = response.length or 0
        commit.check_room(path.parent, size)
        with commit.explained(path), open(files.open_own(path, empty=True), "wb") as file:
            with progress.throughput("Downloading", 1, size) as advance:
                while data := response.read(_CHUNK):
                    file.write(data)
                    advance(0, len(data))
                    if file.tell() > _MOST_DOWNLOADED:
                        raise fetching.Refused(f"it is larger than {size_text(_MOST_DOWNLOADED)}")
        if response.length:
            raise fetching.Refused("the server stopped before its end")

    fetching.visit(address, take, "*/*", _DOWNLOAD_SECONDS)
    try:
        archives.kind(path)
    except InputError as error:
        raise InputError(
            f"{address} is the address of no zip or tar; give that of the file itself, not that of "
            "a page about it."
        ) from error


def no_folder(source: Path) -> str:
    """Returns a sentence about a source that is no folder."""
    if source.exists():
        sentence = (
            "is a file; give the folder that holds the images, with --layout folder a zip or tar "
            "of it, or with --layout csv a list of images"
        )
    else:
        sentence = "is no folder; give the one that holds the data, such as --source photos"
    return f"--source {source} {sentence}."


def photographs_layout(photos: Path) -> str:
    """Returns "csv" for a CSV file and "folder" for a folder or an archive.

    Raises:
      InputError: it is none of these, or has no images to train on.
    """
    if photos.is_file() and photos.suffix.lower() == ".csv":
        return "csv"
    if photos.is_file():
        archives.kind(photos)
    elif not photos.is_dir():
        raise InputError(
            f"{photos} is neither a folder nor a file; give a folder with a folder per class, or a "
            "zip or tar of it."
        )
    elif "train" not in (roots := places.split_folders(places.innermost(photos))):
        raise InputError(
            f"{photos} has no train folder, but {', '.join(root.name for root in roots.values())};"
            f" put the images to train on into {photos / 'train'}, a folder per class."
        )
    return "folder"


def _root(source: Path, options: ConvertOptions) -> Path:
    """Returns the folder that holds the class folders, or the splits' folders."""
    inner = source / _CALTECH_FOLDER
    return inner if options.layout == "caltech256" and inner.is_dir() else source


def _class_names(options: ConvertOptions) -> folder.ClassNames:
    """Returns the rules for class folders; Caltech256's are named 001.ak47."""
    if options.layout == "folder":
        return folder.ClassNames(re.compile(options.class_pattern or "(.+)"))
    pattern = re.compile(options.class_pattern or _CALTECH_PATTERN)
    return folder.ClassNames(pattern, None if options.clutter else _CLUTTER, reject_nested=False)


def check_apart(source: Path, output: Path, options: ConvertOptions) -> None:
    """Raises InputError for an output in a class folder, with images, or over a source's lists."""
    roots: list[Path] = []
    if options.layout == "csv":
        roots = [source if source.is_dir() else source.parent]
    elif options.layout in _CLASS_FOLDERS and source.is_dir():
        place = places.innermost(_root(source, options))
        roots = [Path(str(root)) for root in places.split_folders(place).values()]
    resolved = Path(os.path.realpath(output))  # Path.resolve fails for a link to itself
    for root in (root.resolve() for root in roots):
        inside = resolved.is_relative_to(root) and options.layout in _CLASS_FOLDERS
        # A walk through the classes passes hidden folders.
        if resolved == root or inside and resolved.relative_to(root).parts[0][0] != ".":
            raise InputError(
                f"--output {output} lies among the data in {root}; choose a folder elsewhere."
            )
    if any(places.is_image(path) for path in output.glob("*")):
        raise InputError(f"--output {output} holds images; choose another, such as records.")
