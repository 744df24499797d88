"""Lists images that CSV files name: image,label. Paths are relative to the CSV file.

A name may lack its ending, and have the backslashes of Windows. A table with a column of 0 and 1
for each class is read, too.

The source is one CSV file, perhaps with a column `split`, or a folder that holds train.csv and
perhaps val.csv and test.csv (or folder.py's other names). The PyTorch SqueezeNet's own output is
one: there the images of train.csv lie in train/, and categories.csv names the classes.
"""

import codecs
import csv
import io
import os
from pathlib import Path
from typing import TextIO

from squeezenext import labels
from squeezenext.arguments import is_url
from squeezenext.cli import plural, printable
from squeezenext.convert.archives import Archive
from squeezenext.convert.folder import file_fault, labels_of_model
from squeezenext.convert.listing import (
    Collection,
    Fault,
    Listing,
    Watch,
    check_name,
    name_fault,
    sorted_splits,
)
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.places import (
    SPLIT_NAMES,
    ListedImages,
    Place,
    entries,
    is_image,
    listing_of,
    metadata_lists,
)
from squeezenext.errors import InputError

IMAGE_HEADS = ("image", "file", "filename", "file_name", "path", "image_path", "url", "image_url")
_LABEL_HEADS = ("label", "class", "category", "target", "class_name")
_OTHER_HEADS = ("id", "image_id", "img", "name")  # enough to know a header by
_SPLIT_HEAD = "split"
_CATEGORIES = "categories.csv"
_MAX_FIELD = 64 << 10
_MAX_DIGITS = 1000  # int() takes 4,300

Row = tuple[str, str]  # image, label


def collect(source: Path | Archive, options: ConvertOptions) -> Collection:
    """Lists the images of a CSV file, of a folder of such files, or of an archive's metadata.csv.

    Raises:
      InputError: no file, no usable row, or a class that training lacks.
    """
    known = labels_of_model(options)
    watch, faults, warnings, held = Watch(), list[Fault](), list[str](), None
    if isinstance(source, Archive):
        watch, faults, held = source.watch, [*source.faults], source.held
    files, rows = dict[str, Place](), dict[str, list[Row]]()
    for split, path in _files(source, "test" if known else "train", warnings):
        if isinstance(path, Path):
            watch.size(path)
        for name, part in _rows(path, split, warnings).items():
            if name in files:
                raise InputError(f"{files[name]} and {path} both list the {name} split; keep one.")
            files[name], rows[name] = path, part
    files = sorted_splits(files)
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
        split: _listing(path, split, rows[split], ids, faults, watch, held, options.follow_links)
        for split, path in files.items()
    }
    if first == "train":
        _check_classes(files[first], rows[first], splits[first], ids, faults)
    lists = tuple({"file": path.name, "bytes": splits[name].bytes} for name, path in files.items())
    categories = files[first].parent / _CATEGORIES
    names = _names(categories)
    classes = known or tuple(labels.Label(key, names.get(key, key)) for key in keys)
    for label in classes:
        check_name(label.synset, str(files[first]))
        check_name(label.text, str(categories))
    splits, warned = sorted_splits(splits), tuple(warnings)
    return Collection(classes, splits, tuple(faults), lists, watch, warned)


def _check_classes(
    path: Place, rows: list[Row], listing: Listing, ids: dict[str, int], faults: list[Fault]
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


def _files(source: Place, single: str, warnings: list[str]) -> list[tuple[str, Place]]:
    """Returns each list and its split; a single file belongs to the split `single`."""
    if source.is_file():
        return [(single, source)]
    if lists := metadata_lists(source):
        return [*lists.items()]
    found = [path for path in entries(source) if path.suffix.lower() == ".csv" and path.is_file()]
    splits = {path: SPLIT_NAMES.get(path.stem.lower()) for path in found}
    others = [path for path in found if not splits[path] and path.name != _CATEGORIES]
    files = [(split, path) for path, split in splits.items() if split]
    if not files:
        raise InputError(
            f"--source {source} is no CSV file, nor a folder that holds train.csv; give one."
        )
    warnings += [f"{path} is no list of a split (train, val, test): skipped." for path in others]
    return files


def _open(path: Place) -> TextIO:
    """Opens a list in UTF-8, or in UTF-16, which Excel calls "Unicode text"."""
    data = path.read_bytes()
    wide = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return io.TextIOWrapper(io.BytesIO(data), "utf-16" if wide else "utf-8-sig", newline="")


def read_table(path: Place) -> dict[int, list[str]]:
    """Returns the cells of each row of a CSV file by its line, without rows that are empty.

    Raises:
      InputError: it cannot be read, or is no CSV file.
    """
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
    return {number: [cell.strip() for cell in row] for number, row in table}


def _rows(path: Place, split: str, warnings: list[str]) -> dict[str, list[Row]]:
    """Returns the (image, label) pairs of each split in a CSV file without its header.

    Without a column of splits, all rows belong to `split`. `warnings` is extended by the columns
    that are skipped.
    """
    body = read_table(path)
    top = next(iter(body), 0)
    width = len(body.get(top, ()))
    heads = _heads(list(body.values()), ListedImages(path.parent, split)) if body else []
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
    pairs = _pairs(path, heads, body, warnings)
    if _SPLIT_HEAD not in heads:
        return {split: pairs}
    parts: dict[str, list[Row]] = {}
    for number, pair in zip(body, pairs, strict=True):
        cell = "".join(body[number][heads.index(_SPLIT_HEAD) :][:1])
        if cell.lower() not in SPLIT_NAMES:
            raise InputError(f"{path}, row {number}: {cell!r} is no split; write train, val, test.")
        parts.setdefault(SPLIT_NAMES[cell.lower()], []).append(pair)
    return sorted_splits(parts)


def _heads(table: list[list[str]], images: ListedImages) -> list[str]:
    """Returns the first row in lower case if it is a header, else [].

    Known words in it decide. Without them it is a row of data, whose image may be missing, if
    another row has its class, or names an image that is there in the same form.
    """
    first, *body = table
    heads = [cell.lower() for cell in first]
    if set(heads) & {*IMAGE_HEADS} and set(heads) & {*_LABEL_HEADS}:
        return heads
    if any(is_image(Path(cell)) for cell in heads) or images.find(first[0]):
        return []
    known = {*IMAGE_HEADS, *_LABEL_HEADS, *_OTHER_HEADS} & set(heads)
    if heads[0] in known or known and len(heads) > 2:
        return heads
    if {*first[1:]} & {cell for row in body for cell in row[1:] if cell}:
        return []
    alike = (row[0] for row in body if _form(row[0]) == _form(first[0]))
    return heads if known or len(heads) > 2 or not any(map(images.find, alike)) else []


def _form(name: str) -> tuple[bool, bool, bool]:
    """Returns whether an image's name has digits, a folder, and an ending."""
    return any(map(str.isdecimal, name)), bool({*name} & {*"/\\"}), is_image(Path(name))


def _pairs(
    path: Place, heads: list[str], body: dict[int, list[str]], warnings: list[str]
) -> list[Row]:
    """Returns the (image, label) pairs of a table with or without a header.

    Args:
      path: the file, for messages.
      heads: the header in lower case, or [].
      body: the other rows by line of the file.
      warnings: is extended by the columns that are skipped.
    """
    for head in heads:
        if heads.count(head) > 1 and head in (*IMAGE_HEADS, *_LABEL_HEADS, _SPLIT_HEAD):
            raise InputError(f"{path} has two columns {head}; rename the one that is not meant.")
    label = next((i for i, head in enumerate(heads) if head in _LABEL_HEADS), None)
    columns = next(iter(body.values()))
    likely = [i for i, head in enumerate(heads) if head in IMAGE_HEADS]
    likely += [i for i, cell in enumerate(columns) if is_image(Path(cell))]
    image = next((i for i in likely if i != label), 1 if label == 0 else 0)
    if label is None and len(columns) > 2:
        return _one_hot(path, heads, body, image)
    label = 1 - image if label is None else label
    others = [head for i, head in enumerate(heads) if i not in (image, label)]
    if skipped := [head for head in others if head not in ("", _SPLIT_HEAD)]:
        warnings.append(f"{path}: columns skipped: {', '.join(skipped[:5])}.")
    for number, row in body.items():
        if len(row) <= max(image, label) or not row[image] or not row[label]:
            lines = sum(cell.count("\n") for cell in row)
            fault = "a quote is not closed" if lines else "an image or a label is missing"
            raise InputError(
                f"{path}, row {number - lines}: {fault}: {str(row[:4])[:80]}; mend or remove it."
            )
    return [(row[image], row[label]) for row in body.values()]


def _one_hot(path: Place, heads: list[str], body: dict[int, list[str]], image: int) -> list[Row]:
    """Returns the pairs of a table that has a column of 0 and 1 for each class."""
    rows = []
    for number, row in body.items():
        marks = {
            name: cell
            for i, (name, cell) in enumerate(zip(heads, row, strict=False))
            if i != image and name != _SPLIT_HEAD
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


def _class_keys(rows: list[Row], path: Place) -> list[str]:
    """Returns the labels in order: numbers by value, names alphabetically."""
    keys = {label for _, label in rows}
    if len(keys) < 2:
        raise InputError(f"{path} has {len(keys)} class; a classifier needs two at least.")
    if all(key.isdecimal() and len(key) < _MAX_DIGITS for key in keys):
        return sorted(keys, key=lambda key: (int(key), key))  # 1 and 01 are two classes
    return sorted(keys)


def _names(path: Place) -> dict[str, str]:
    """Returns id -> name from a categories.csv beside the lists, if there is one."""
    if not path.is_file():
        return {}
    try:
        with _open(path) as file:
            return {row[0]: row[1] for row in csv.reader(file) if len(row) == 2}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); mend or remove it.") from error


def _listing(
    path: Place,
    split: str,
    rows: list[Row],
    ids: dict[str, int],
    faults: list[Fault],
    watch: Watch,
    held: Path | None,
    follow_links: bool,
) -> Listing:
    images = ListedImages(path.parent, split)
    files: dict[str, tuple[Place, int]] = {}  # and labels, by the image's name
    listed: dict[str, str] = {}  # label by file, which may have two names
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
        before = listed.get(os.path.normpath(str(file))) if file else None
        if file is None and is_url(image):
            more = "was not downloaded; squeezenext.adapt downloads, and warns of what fails"
            faults.append(Fault(image, more))
        elif file is None:
            faults.append(Fault(image, f"is listed in {path.name} but is no file"))
        elif before == label:
            faults.append(Fault(image, "is listed twice"))
        elif before:
            more = f"is listed as {label}, too; it counts as {before}, its first label"
            faults.append(Fault(image, more))
        elif fault := file_fault(file, follow_links=True):
            faults.append(Fault(image, fault))
        elif not follow_links and not images.hold(file):
            faults.append(Fault(image, f"lies outside of {path.parent}; give --follow_links"))
        else:
            files[image], listed[os.path.normpath(str(file))] = (file, ids[label]), label
    if not files:
        raise InputError(
            f"{path}: none of its {plural(len(rows), 'image')} can be used; "
            f"{printable(rows[0][0])}, for example, {faults[-len(rows)].reason}."
        )
    return listing_of([*files.values()], [*files], watch, held)
