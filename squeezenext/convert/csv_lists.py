"""Lists images that CSV files name: image,label. Paths are relative to the CSV file.

A name may lack its ending, and have the backslashes of Windows. A table with a column of 0 and 1
for each class is read, too.

The source is one CSV file, or a folder that holds train.csv and perhaps val.csv (or
validation.csv) and test.csv. The PyTorch SqueezeNet's own output is one: there the images of
train.csv lie in train/, and categories.csv names the classes.
"""

import codecs
import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from squeezenext import labels
from squeezenext.cli import plural, printable
from squeezenext.convert.folder import UNREADABLE, is_image, labels_of_model
from squeezenext.convert.listing import (
    Collection,
    Fault,
    Listing,
    Watch,
    check_name,
    name_fault,
    sorted_splits,
    with_validation,
)
from squeezenext.convert.options import ConvertOptions
from squeezenext.errors import InputError
from squeezenext.images.decoding import ENDINGS

_SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
_IMAGE_HEADS = ("image", "file", "filename", "file_name", "path", "image_path")
_LABEL_HEADS = ("label", "class", "category", "target", "class_name")
_OTHER_HEADS = ("id", "image_id", "img", "name")  # enough to know a header by
_CATEGORIES = "categories.csv"
_MAX_FIELD = 64 << 10
_MAX_DIGITS = 1000  # int() takes 4,300

Row = tuple[str, str]  # image, label


def collect(source: Path, options: ConvertOptions) -> Collection:
    """Lists the images of a CSV file, or of a folder of such files.

    Raises:
      InputError: no file, no usable row, or a class that training lacks.
    """
    known = labels_of_model(options)
    files, watch = _files(source, "test" if known else "train"), Watch()
    for path in files.values():
        watch.size(path)
    images = {
        split: _Images((path.parent, *(path.parent / stem for stem in _SPLITS[split])))
        for split, path in files.items()
    }
    rows = {split: _rows(path, images[split]) for split, path in files.items()}
    faults: list[Fault] = []
    if known and "train" in files:
        raise InputError(f"--labels_of is for data without training images, not {files['train']}.")
    first = next(iter(files))  # training, or what a finished model is scored on
    listed = rows[first] if first == "train" else [row for each in rows.values() for row in each]
    keys = [label.synset for label in known] or _class_keys(listed, files[first])
    for split, path in files.items() if known else ():
        if others := sorted({label for _, label in rows[split]} - set(keys)):
            raise InputError(
                f"{path} has the class {others[0]!r}, which is none of --labels_of; rename it."
            )
    ids = {key: number for number, key in enumerate(keys, 1)}
    splits = {
        split: _listing(path, images[split], rows[split], ids, faults, watch, options.follow_links)
        for split, path in files.items()
    }
    if first == "train":
        _check_classes(files[first], rows[first], splits[first], ids, faults)
        splits = with_validation(splits, options)
    described = [{"file": path.name, "bytes": splits[name].bytes} for name, path in files.items()]
    categories = files[first].with_name(_CATEGORIES)
    names = _names(categories)
    classes = known or tuple(labels.Label(key, names.get(key, key)) for key in keys)
    for label in classes:
        check_name(label.synset, files[first])
        check_name(label.text, categories)
    return Collection(classes, sorted_splits(splits), tuple(faults), tuple(described), watch)


def _check_classes(
    path: Path, rows: list[Row], listing: Listing, ids: dict[str, int], faults: list[Fault]
) -> None:
    """Raises InputError if training has no image of a class."""
    there = set(listing.table["label"].tolist())
    reasons = {fault.file: fault.reason for fault in faults}
    for image, label in rows:
        if ids[label] not in there:
            raise InputError(
                f"No image of the class {printable(label)!r} in {path} can be used; "
                f"{printable(image)}, for example, {reasons[printable(image)]}. Mend or remove its "
                "rows; a header should name the columns image and label."
            )


def _files(source: Path, single: str) -> dict[str, Path]:
    """Returns the list of each split; one file is that of the split `single`."""
    if source.is_file():
        return {single: source}
    files = {
        split: source / f"{stem}.csv"
        for split, stems in _SPLITS.items()
        for stem in reversed(stems)
        if (source / f"{stem}.csv").is_file()
    }
    if not files:
        raise InputError(
            f"--source {source} is no CSV file, nor a folder that holds train.csv; give one."
        )
    return files


class _Images:
    """Finds the files of images by the names in a list.

    Args:
      roots: folders to which the names may be relative: that of the list, and folders in it.
    """

    def __init__(self, roots: Iterable[Path]):
        self._roots = tuple(roots)

    def find(self, name: str) -> Path | None:
        """Returns the file of a name, or None."""
        names = [name, name.replace("\\", "/")] if "\\" in name else [name]
        endings = [""] if is_image(Path(name)) else ["", *sorted(ENDINGS)]
        paths = (root / f"{n}{ending}" for n in names for ending in endings for root in self._roots)
        return next((path for path in paths if path.is_file()), None)

    def hold(self, path: Path) -> bool:
        """Returns whether a file is inside the list's folder, links followed."""
        return path.resolve().is_relative_to(self._roots[0].resolve())


def _open(path: Path) -> TextIO:
    """Opens a list in UTF-8, or in UTF-16, which Excel calls "Unicode text"."""
    with path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return path.open(encoding="utf-16" if wide else "utf-8-sig", newline="")


def _rows(path: Path, images: _Images) -> list[Row]:
    """Returns the (image, label) pairs of a CSV file without its header."""
    try:
        with _open(path) as file:
            first = file.readline(_MAX_FIELD)
            if "\0" in first:
                raise csv.Error("it has zero bytes")
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=delimiter)
            table = [(reader.line_num, row) for row in reader if any(row)]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f'{path} is no CSV file in UTF-8 ({error}); save it as "CSV UTF-8".'
        ) from error
    body = {number: [cell.strip() for cell in row] for number, row in table}
    top = next(iter(body), 0)
    width = len(body.get(top, ()))
    heads = _heads(list(body.values()), images) if body else []
    if heads:  # files that were joined have one each
        body = {n: row for n, row in body.items() if [cell.lower() for cell in row] != heads}
    if not body:
        raise InputError(f"{path} lists no image; its rows should read: image,label.")
    for number, row in body.items():
        if any(row[width:]):
            raise InputError(
                f"{path}, row {number} has more cells than the first row: {row[:4]}; put a name "
                "with a comma into quotes."
            )
    return _pairs(path, heads, body)


def _heads(table: list[list[str]], images: _Images) -> list[str]:
    """Returns the first row in lower case if it is a header, else [].

    A row of data, whose image may be missing, has a class of other rows, or an image named in the
    form of one that is there: digits or none, in a folder or not, with an ending or not.
    """
    first, *body = table
    heads = [cell.lower() for cell in first]
    if set(heads) & {*_IMAGE_HEADS} and set(heads) & {*_LABEL_HEADS}:
        return heads
    if any(is_image(Path(cell)) for cell in heads) or images.find(first[0]):
        return []
    known = {*_IMAGE_HEADS, *_LABEL_HEADS, *_OTHER_HEADS} & set(heads)
    if heads[0] in known or known and len(heads) > 2:
        return heads
    if any(cell and cell in row[i : i + 1] for row in body for i, cell in enumerate(first) if i):
        return []
    alike = (row[0] for row in body if _form(row[0]) == _form(first[0]))
    return heads if known or len(heads) > 2 or not any(map(images.find, alike)) else []


def _form(name: str) -> tuple[bool, bool, bool]:
    return any(map(str.isdecimal, name)), bool({*name} & {*"/\\"}), is_image(Path(name))


def _pairs(path: Path, heads: list[str], body: dict[int, list[str]]) -> list[Row]:
    """Returns the (image, label) pairs of a table with or without a header.

    Args:
      path: the file, for messages.
      heads: the header in lower case, or [].
      body: the other rows by line of the file.
    """
    for head in heads:
        if heads.count(head) > 1 and head in (*_IMAGE_HEADS, *_LABEL_HEADS):
            raise InputError(f"{path} has two columns {head}; rename the one that is not meant.")
    label = next((i for i, head in enumerate(heads) if head in _LABEL_HEADS), None)
    columns = next(iter(body.values()))
    likely = [i for i, head in enumerate(heads) if head in _IMAGE_HEADS]
    likely += [i for i, cell in enumerate(columns) if is_image(Path(cell))]
    image = next((i for i in likely if i != label), 1 if label == 0 else 0)
    if label is None and len(columns) > 2:
        return _one_hot(path, heads, body, image)
    label = 1 - image if label is None else label
    for number, row in body.items():
        if len(row) <= max(image, label) or not row[image] or not row[label]:
            raise InputError(
                f"{path}, row {number}: an image or a label is missing: {row[:4]}; fill it in, or "
                "remove the row."
            )
    return [(row[image], row[label]) for row in body.values()]


def _one_hot(path: Path, heads: list[str], body: dict[int, list[str]], image: int) -> list[Row]:
    """Returns the pairs of a table that has a column of 0 and 1 for each class."""
    rows = []
    for number, row in body.items():
        marks = {
            name: cell for i, (name, cell) in enumerate(zip(heads, row, strict=False)) if i != image
        }
        if not heads or not set(marks.values()) <= {"0", "1"}:
            raise InputError(
                f"{path}: which of its {len(row)} columns is the class? Give the file a header "
                "with the names image and label."
            )
        chosen = [name for name, mark in marks.items() if mark == "1"]
        if len(chosen) != 1:
            raise InputError(
                f"{path}, row {number} has {len(chosen)} classes ({', '.join(chosen[:4])}); "
                "an image must have one."
            )
        rows.append((row[image], chosen[0]))
    return rows


def _class_keys(rows: list[Row], path: Path) -> list[str]:
    """Returns the labels in order: numbers by value, names alphabetically."""
    keys = {label for _, label in rows}
    if len(keys) < 2:
        raise InputError(f"{path} has {len(keys)} class; a classifier needs two at least.")
    if all(key.isdecimal() and len(key) < _MAX_DIGITS for key in keys):
        return sorted(keys, key=lambda key: (int(key), key))  # 1 and 01 are two classes
    return sorted(keys)


def _names(path: Path) -> dict[str, str]:
    """Returns id -> name from a categories.csv beside the lists, if there is one."""
    if not path.is_file():
        return {}
    try:
        with _open(path) as file:
            return {row[0]: row[1] for row in csv.reader(file) if len(row) == 2}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); mend or remove it.") from error


def _listing(
    path: Path,
    images: _Images,
    rows: list[Row],
    ids: dict[str, int],
    faults: list[Fault],
    watch: Watch,
    follow_links: bool,
) -> Listing:
    files: dict[str, Path] = {}  # by the image's name
    listed: dict[str, str] = {}  # label by file, which may have two names
    table = []
    for image, label in rows:
        if label not in ids:
            raise InputError(
                f"{path} has the class {label!r}, which the training list lacks; correct "
                "it, or list images of it for training."
            )
        if fault := name_fault(image):
            faults.append(Fault(image, fault))
            continue
        file = images.find(image)
        before = listed.get(os.path.normpath(file)) if file else None
        if file is None:
            faults.append(Fault(image, f"is listed in {path.name} but is no file"))
        elif before == label:
            faults.append(Fault(image, "is listed twice"))
        elif before:
            more = f"is listed as {label}, too; it counts as {before}, its first label"
            faults.append(Fault(image, more))
        elif not os.access(file, os.R_OK):
            faults.append(Fault(image, UNREADABLE))
        elif not follow_links and not images.hold(file):
            faults.append(Fault(image, f"lies outside of {path.parent}; give --follow_links"))
        else:
            table.append((len(files), 0, watch.size(file), ids[label]))
            files[image], listed[os.path.normpath(file)] = file, label
    if not files:
        raise InputError(
            f"{path}: none of its {plural(len(rows), 'image')} can be used; "
            f"{printable(rows[0][0])}, for example, {faults[-len(rows)].reason}."
        )
    return Listing.of_rows(files.values(), table, list(files))
