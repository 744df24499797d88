"""Lists a source, by the module for its layout."""

import contextlib
import csv
import functools
import hashlib
import http.client
import io
import os
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from squeezenext import files, progress
from squeezenext.arguments import is_url
from squeezenext.cli import log, plural, size_text
from squeezenext.convert import (
    archives,
    commit,
    csv_lists,
    folder,
    imagenet,
    imagenet_folders,
    places,
    plan,
    review,
    tfrecords,
)
from squeezenext.convert.listing import Collection, parted
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError, RunAgain
from squeezenext.images import decoding
from squeezenext.images.jpeg import ImageError
from squeezenext.predict import sources as fetching
from squeezenext.predict.predictor import map_in_threads
from squeezenext.records import stores

_CHUNK = 1 << 20
_MOST_DOWNLOADED, _DOWNLOAD_SECONDS = 64 << 30, 6 * 3600.0
_THREADS = 8  # images that are asked for at a time
_MOST_FAILED, _MOST_SAID = 50, 20  # images of a list: in a row; said one by one
_CALTECH_PATTERN = r"\d{3}\.(.+)"
_CALTECH_FOLDER = "256_ObjectCategories"
_CLASS_FOLDERS = ("folder", "caltech256")
_CLUTTER = re.compile(r"257\.clutter")  # images of no class


def collect(source: Path, options: ConvertOptions, pool: Pool, spool: Path) -> Collection:
    """Lists the examples to convert: those of `found_in`, reviewed, with a validation split.

    What becomes of the class none is said by `options.none`.

    Raises:
      InputError: as `found_in`; or `options.apply` cannot be obeyed.
    """
    reviewed = options.layout in (*_CLASS_FOLDERS, "csv")
    if options.apply and not reviewed:
        raise InputError("--apply is for --layout folder and csv: what the doctor has looked at.")
    collection = found_in(source, options, pool, spool)
    return parted(review.split(collection, options), options) if reviewed else collection


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
        tree = archives.tree(source, spool)
        if options.layout == "folder" and places.metadata_lists(tree):
            return csv_lists.collect(tree, options)
        return folder.collect(tree, options, _class_names(options))
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
    """Returns a path on this machine; what is at addresses is downloaded into `folder` once.

    The place may be the address of an archive, or a CSV file that lists the addresses of images: in
    the column that its header names, else the first of each row. What lies in a store (s3://,
    gs://) is compared with it at each call (`stores.copied`).

    Raises:
      InputError: an address is not allowed, cannot be fetched, or is that of no archive; no image
        of a list can be fetched.
      RunAgain: the disk is full, many addresses in a row do not answer, or another command
        downloads into the folder.
    """
    if is_url(place):
        path = folder / f"photographs-{_key(place)}"
        if not path.exists():
            with _room(folder):
                if not path.exists():  # another command may have had the folder until now
                    _download(place, part := path.with_suffix(".part"))
                    files.put(part, path)
        return path
    if place.startswith(stores.SCHEMES):
        with _room(folder):
            return stores.copied(place, folder / f"photographs-{_key(place)}")
    path = files.expanded(place)
    if path.suffix.lower() == ".csv" and path.is_file():
        rows = csv_lists.read_table(path)
        if any(is_url(cell) for row in rows.values() for cell in row):
            return _with_images(path, rows, folder)
    return Path(place)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Locks a folder for downloads; after an error it is removed again if nothing is in it."""
    with plan.lock_directory(folder):
        try:
            yield
        except BaseException:
            for part in folder.glob("*.part"):  # this command's, as the folder is locked
                part.unlink()
            raise


def _with_images(path: Path, rows: dict[int, list[str]], folder: Path) -> Path:
    """Returns a copy of a list in `folder` that names downloaded images in place of addresses.

    It is written when each image has been asked for, and stays: a later call has the same images.
    An address whose image cannot be had stays in the copy, and a warning says why.
    """
    copy = folder / f"{_key(repr(rows))}.csv"
    if copy.exists():
        return copy
    first = next(iter(rows.values()))
    heads = [] if any(map(is_url, first)) else [head.lower() for head in first]
    named = [i for i, head in enumerate(heads) if head in csv_lists.IMAGE_HEADS]
    columns = {number: _address(row, named) for number, row in rows.items()}
    if lacking := [number for number in [*columns][1:] if columns[number] < 0]:
        raise InputError(
            f"{path}, row {lacking[0]} has no https address, as other rows have; make a list of "
            "addresses alone, or download the images and list the files."
        )
    chosen = {n: rows[n][column] for n, column in columns.items() if column >= 0}
    with _room(folder):
        found = _asked(path, [*dict.fromkeys(chosen.values())], folder)
        for number, address in chosen.items():
            row, made = rows[number], found[address]
            image = next((i for i in named if i < len(row)), columns[number])
            row[image] = made.name if isinstance(made, Path) else address
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows.values())
        files.write_text(copy, text.getvalue())
    failed = [made for made in found.values() if isinstance(made, InputError)]
    for error in failed[:_MOST_SAID]:
        log(f"warning: {error}")
    if len(failed) > _MOST_SAID:
        log(f"warning: {plural(len(failed) - _MOST_SAID, 'other image')} could not be had.")
    return copy


def _address(row: list[str], named: list[int]) -> int:
    """Returns the column of a row's address, -1 for none; the first of `named` that has one."""
    return next((i for i in [*named, *range(len(row))] if is_url("".join(row[i : i + 1]))), -1)


def _asked(path: Path, addresses: list[str], folder: Path) -> dict[str, Path | InputError]:
    """Downloads the images of a list; returns for each address its file, or why there is none.

    Raises:
      InputError: none of the first images can be had, or they are too large together.
      RunAgain: many addresses in a row do not answer, as while the network is down.
    """
    found, size, silent = dict[str, Path | InputError](), 0, 0
    take = functools.partial(_image, folder)
    with progress.throughput("Downloading", len(addresses), 0) as advance:
        for address, made in zip(addresses, map_in_threads(take, addresses, _THREADS), strict=True):
            found[address] = made
            more = made.stat().st_size if isinstance(made, Path) else 0
            advance(1, more)
            size += more
            silent = silent + 1 if _is_silent(made) else 0
            if size > _MOST_DOWNLOADED:
                raise InputError(f"{path}: its images have over {size_text(_MOST_DOWNLOADED)}.")
            if len(found) == min(len(addresses), _MOST_FAILED) and not size:
                raise InputError(f"{path}: none of {len(found)} images could be had. {made}")
            if silent == _MOST_FAILED:
                raise RunAgain(
                    f"{path}: {silent} addresses in a row do not answer. {made} Run the same "
                    "command again when the network works, or remove the addresses that are gone."
                )
    return found


def _is_silent(made: Path | InputError) -> bool:
    """Returns whether a later call may have the image: the server did not answer."""
    no_answer = (OSError, http.client.HTTPException)
    return isinstance(made, InputError) and isinstance(made.__cause__, no_answer)


def _image(folder: Path, address: str) -> Path | InputError:
    """Downloads an image into a folder, unless it is there; returns its path, or why it is not."""
    inside = address.partition("?")[0]
    suffix = Path(inside).suffix.lower()
    name = fetching.stem(urllib.parse.unquote(inside))
    path = folder / f"{_key(address)}-{name}{suffix if suffix in decoding.ENDINGS else '.jpg'}"
    if path.exists():
        return path
    try:
        data = fetching.fetch(address, max_bytes=decoding.MAX_BYTES)
        decoding.sniff(data)
    except InputError as error:
        return error
    except ImageError as error:
        return InputError(f"{address} {error}.")
    with commit.explained(path):
        files.write_bytes(path, data)
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
