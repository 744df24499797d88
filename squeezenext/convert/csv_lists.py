"""Lists images that CSV files name: image,label. Paths are relative to the CSV file.

The source is one CSV file, or a folder that holds train.csv and perhaps val.csv (or
validation.csv) and test.csv. The PyTorch SqueezeNet's own output is one: there the images of
train.csv lie in train/, and categories.csv names the classes.
"""

import csv
from pathlib import Path

from squeezenext import labels
from squeezenext.convert.folder import is_image, with_validation
from squeezenext.convert.listing import (
    Collection,
    Fault,
    Listing,
    Watch,
    check_name,
    sorted_splits,
)
from squeezenext.convert.options import ConvertOptions
from squeezenext.errors import InputError

_SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
_IMAGE_HEADS = ("image", "file", "filename", "file_name", "path", "image_path")
_LABEL_HEADS = ("label", "class", "category", "target", "class_name")
_CATEGORIES = "categories.csv"
_MAX_FIELD = 64 << 10
_MAX_DIGITS = 1000  # int() takes 4,300

Row = tuple[str, str]  # image, label


def collect(source: Path, options: ConvertOptions) -> Collection:
    """Lists the images of a CSV file, or of a folder of such files.

    Raises:
      InputError: no file, no usable row, or a class that training lacks.
    """
    files, watch = _files(source), Watch()
    for path in files.values():
        watch.size(path)
    rows = {split: _rows(path) for split, path in files.items()}
    faults: list[Fault] = []
    keys = _class_keys(rows["train"], files["train"])
    ids = {key: number for number, key in enumerate(keys, 1)}
    splits = {
        split: _listing(path, split, rows[split], ids, faults, watch)
        for split, path in files.items()
    }
    splits = with_validation(splits, options)
    described = [{"file": path.name, "bytes": splits[name].bytes} for name, path in files.items()]
    categories = files["train"].with_name(_CATEGORIES)
    names = _names(categories)
    classes = tuple(labels.Label(key, names.get(key, key)) for key in keys)
    for label in classes:
        check_name(label.synset, files["train"])
        check_name(label.text, categories)
    return Collection(classes, sorted_splits(splits), tuple(faults), tuple(described), watch)


def _files(source: Path) -> dict[str, Path]:
    if source.is_file():
        return {"train": source}
    files = {
        split: source / f"{stem}.csv"
        for split, stems in _SPLITS.items()
        for stem in reversed(stems)
        if (source / f"{stem}.csv").is_file()
    }
    if "train" not in files:
        raise InputError(
            f"--source {source} is no CSV file, nor a folder that holds train.csv; give one."
        )
    return files


def _rows(path: Path) -> list[Row]:
    """Returns the (image, label) pairs of a CSV file without its header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(_MAX_FIELD)
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            table = [row for row in csv.reader(file, delimiter=delimiter) if any(row)]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}.") from error
    image, label, start = _columns(table[0] if table else [])
    for number, row in enumerate(table[start:], start + 1):
        if len(row) <= max(image, label) or not row[image].strip() or not row[label].strip():
            raise InputError(f"{path}, row {number}: an image or a label is missing: {row[:4]}.")
    if len(table) <= start:
        raise InputError(f"{path} lists no image; its rows should read: image,label.")
    return [(row[image].strip(), row[label].strip()) for row in table[start:]]


def _columns(first: list[str]) -> tuple[int, int, int]:
    """Returns (image column, label column, number of header rows), judged by the first row."""
    heads = [cell.strip().lower() for cell in first]
    image = [index for index, head in enumerate(heads) if head in _IMAGE_HEADS]
    label = [index for index, head in enumerate(heads) if head in _LABEL_HEADS]
    if image and label:
        return image[0], label[0], 1
    return 0, 1, int(bool(first) and not is_image(Path(heads[0])))


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
        with path.open(encoding="utf-8-sig", newline="") as file:
            return {row[0]: row[1] for row in csv.reader(file) if len(row) == 2}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); mend or remove it.") from error


def _listing(
    path: Path, split: str, rows: list[Row], ids: dict[str, int], faults: list[Fault], watch: Watch
) -> Listing:
    roots = [path.parent, *(path.parent / stem for stem in _SPLITS[split])]
    files: dict[str, Path] = {}  # by the image's name
    table = []
    for image, label in rows:
        check_name(image, path)
        if label not in ids:
            raise InputError(f"{path} has the class {label!r}, which the training list lacks.")
        file = next((root / image for root in roots if (root / image).is_file()), None)
        if file is None or image in files:
            reason = "is listed twice" if file else f"is listed in {path.name} but is no file"
            faults.append(Fault(image, reason))
            continue
        table.append((len(files), 0, watch.size(file), ids[label]))
        files[image] = file
    if not files:
        raise InputError(
            f"{path}: none of its {len(rows)} images is a file; paths are relative "
            f"to {path.parent}."
        )
    return Listing.of_rows(files.values(), table, list(files))
