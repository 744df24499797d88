"""The review of photographs, doctor.csv: what is to be done with each, and which belong together.

`python -m squeezenext.doctor` writes it, people edit it, and `--apply` obeys it. Where
training goes on from a model, each photograph that the model knows stays in its split.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from squeezenext import files
from squeezenext.cli import csv_cell, plural, printable
from squeezenext.convert.listing import Collection, Listing, numbers_of_none, with_validation
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.plan import LISTS
from squeezenext.errors import InputError
from squeezenext.records import dataset

KEEP, REMOVE, MOVE = "keep", "remove", "move to "
_TORN = (
    "No split keeps all photographs together that are alike, so groups were torn for validation, "
    "whose score will be too good; add other photographs."
)
_ACTIONS = "write keep, remove or move to CLASS"
_VERBS = re.compile(f"^({KEEP}$|{REMOVE}$|{MOVE})", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Row:
    """A photograph of the review; its fields are the columns of doctor.csv.

    Attributes:
      file: its name, with the split in front if the source has several: train/cat/1.jpg.
      label: its class; the column `class`.
      finding: what was found, in words.
      group: the number of the group that must stay in one split, "" for none.
      suggested: the class that it seems to show, "" if its own.
      action: "keep", "remove" or "move to CLASS".
      bytes: the photograph's size, by which it is known again; "" in a file of an earlier release.
    """

    file: str
    label: str
    finding: str
    group: str
    suggested: str
    action: str
    bytes: str = ""


COLUMNS = ("file", "class", "finding", "group", "suggested", "action", "bytes")


def write(path: Path, rows: Iterable[Row]) -> None:
    """Writes doctor.csv."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(csv_cell, dataclasses.astuple(row)) for row in rows)
    files.write_text(path, text.getvalue())


def read(path: Path) -> list[Row]:
    """Reads doctor.csv, also one that a spreadsheet has saved with semicolons.

    Names are as `cli.csv_cell` wrote them.

    Raises:
      InputError: it cannot be read, or is no such file.
    """
    try:
        text = files.read_bytes(path, files.MAX_BYTES).decode("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f'{path} is no CSV file in UTF-8 ({error}); save it as "CSV UTF-8".'
        ) from error
    width = len(table[0]) if table else 0
    if width < len(COLUMNS) - 1 or tuple(table[0]) != COLUMNS[:width]:
        raise InputError(
            f"{path} is not the doctor's: its first row must read {','.join(COLUMNS)}."
        )
    rows = []
    for number, cells in enumerate(table[1:], 2):
        if any(cells) and len(cells) != width:
            raise InputError(f"{path}, row {number} has {len(cells)} cells, not {width}.")
        if any(cells):
            row = Row(*cells[:2], *(cell.strip() for cell in cells[2:]))
            action = _VERBS.sub(lambda verb: verb[0].lower(), row.action)  # Remove, MOVE TO cat
            rows.append(dataclasses.replace(row, action=action))
    return rows


def is_about(row: Row, size: int) -> bool:
    """Returns whether a row can be about a photograph of its name that has `size` bytes."""
    return row.bytes in ("", str(size))


def joined(splits: dict[str, Listing]) -> Listing:
    """Returns one listing of all splits, whose names are those of `Row.file`."""
    paths: list[Path] = []
    tables, names = [], []
    for split, listing in splits.items():
        table = listing.table.copy()
        table["file"] += len(paths)
        tables.append(table)
        paths += listing.files
        names += _file_names(split, splits)
    return Listing(tuple(paths), np.concatenate(tables), names)


def _file_names(split: str, splits: dict[str, Listing]) -> list[str]:
    names = splits[split].names
    return [f"{split}/{name}" for name in names] if len(splits) > 1 else names


def split(collection: Collection, options: ConvertOptions) -> Collection:
    """Returns the examples as `options.apply` says, with a validation split if there is training.

    Raises:
      InputError: doctor.csv cannot be read or obeyed, or no image is left for validation.
    """
    groups, sides = None, None
    if options.apply:
        collection, groups = _obeyed(collection, files.expanded(options.apply))
    if "train" not in collection.splits:
        return collection
    if options.before and "validation" not in collection.splits:
        sides, sentence = _since(collection, _read_before(Path(options.before)), options)
        collection = dataclasses.replace(collection, notes=(*collection.notes, sentence))
    warnings = collection.warnings
    try:
        splits = _divided(collection, options, groups, sides)
    except InputError:
        if groups is None:
            raise
        splits = _divided(collection, options, None, sides)
        warnings = (*warnings, _TORN)
    return dataclasses.replace(collection, splits=splits, warnings=warnings)


def _obeyed(collection: Collection, path: Path) -> tuple[Collection, np.ndarray | None]:
    """Returns the collection as doctor.csv says, and the group of each training example."""
    rows = {row.file: row for row in read(path)}
    names = {*map(csv_cell, joined(collection.splits).names)}  # a spreadsheet holds them as cells
    rows = {name if name in names else name.strip(): row for name, row in rows.items()}
    collection.watch.size(path)
    ids = {label.synset: number for number, label in enumerate(collection.classes, 1)}
    ids = {name.strip(): number for name, number in ids.items()} | ids  # `read` strips actions, too
    for row in rows.values():
        _check_action(row, ids, path)
    splits, groups, obeyed, others = {}, None, list[Row](), list[Row]()
    for name, listing in collection.splits.items():
        known = [rows.get(csv_cell(file)) for file in _file_names(name, collection.splits)]
        pairs = [*zip(known, listing.table["size"].tolist(), strict=True)]
        others += [row for row, size in pairs if row and not is_about(row, size)]
        known = [row if row and is_about(row, size) else None for row, size in pairs]
        obeyed += [row for row in known if row]
        kept = np.array([row is None or row.action != REMOVE for row in known], bool)
        table = listing.table.copy()
        for number, row in enumerate(known):
            if row and row.action.startswith(MOVE):
                table["label"][number] = ids[row.action.removeprefix(MOVE)]
        order = np.flatnonzero(kept)
        splits[name] = dataclasses.replace(listing, table=table).take(order)
        if name == "train":
            groups = _groups([known[number] for number in order])
    if len(others) > len(obeyed):
        raise InputError(
            f"{path} is the review of other photographs: {plural(len(others), 'photograph')} of "
            f"its names, such as {printable(others[0].file)}, had another size in bytes; call the "
            "doctor on these."
        )
    if rows and not obeyed:
        raise InputError(
            f"{path} names none of these photographs, but {printable(next(iter(rows)))}, for one; "
            "is it the review of another folder?"
        )
    _check_classes(collection, splits, path)
    warnings = (*collection.warnings, *_changes(path, obeyed, len(rows) - len(obeyed)))
    return dataclasses.replace(collection, splits=splits, warnings=warnings), groups


def _check_action(row: Row, ids: dict[str, int], path: Path) -> None:
    target = row.action.removeprefix(MOVE)
    if row.action.startswith(MOVE) and target not in ids:
        raise InputError(
            f"{path}: {printable(row.file)} is to move to {printable(target)!r}, which is no class "
            f"here; there are {printable(', '.join(list(ids)[:10]))}."
        )
    if row.action not in (KEEP, REMOVE) and not row.action.startswith(MOVE):
        raise InputError(
            f"{path}: {printable(row.file)} has the action {printable(row.action)!r}; {_ACTIONS}."
        )


def _groups(known: Sequence[Row | None]) -> np.ndarray:
    """Returns a number for each example; members of a group have the same: int64 [examples]."""
    first: dict[str, int] = {}
    return np.array(
        [
            first.setdefault(row.group, number) if row and row.group else number
            for number, row in enumerate(known)
        ],
        np.int64,
    )


def _check_classes(collection: Collection, splits: dict[str, Listing], path: Path) -> None:
    """Raises InputError if training is left without photographs of a class."""
    if "train" not in splits:
        return
    there = set(splits["train"].table["label"].tolist())
    for number, label in enumerate(collection.classes, 1):
        if number not in there:
            raise InputError(
                f"{path} leaves no training photograph of the class {printable(label.synset)!r}; "
                "keep some, or remove the whole class from the source."
            )


def _changes(path: Path, rows: Sequence[Row], gone: int) -> list[str]:
    """Returns a sentence if anything but the groups was applied.

    Args:
      path: doctor.csv.
      rows: its rows that were obeyed.
      gone: the number of the others.
    """
    removed = sum(row.action == REMOVE for row in rows)
    moved = sum(row.action.startswith(MOVE) for row in rows)
    groups = len({row.group for row in rows if row.group})
    absent = f"; {plural(gone, 'photograph')} that it names are gone or changed" if gone else ""
    if not (removed or moved or gone):
        return []
    return [
        f"{path.name} was applied: {plural(removed, 'photograph')} removed, {moved} moved to "
        f"another class, {plural(groups, 'group')} kept together{absent}."
    ]


def remember(path: Path, records: Path, earlier: Path) -> None:
    """Writes which photographs a model knows: {split: {name: class}}.

    Args:
      path: the file to write, for `ConvertOptions.before`.
      records: the records that the model was trained on.
      earlier: the file of this kind for the model that it went on from; it may be absent.

    Raises:
      InputError: the records' lists, or `earlier`, cannot be read.
    """
    known = _read_before(earlier) if earlier.exists() else {}
    manifest = dataset.load_manifest(records)
    for split in (name for name in LISTS if name in manifest.splits):
        file = records / LISTS[split]
        try:
            text = files.read_bytes(file, files.MAX_BYTES).decode()
            for name, number in list(csv.reader(io.StringIO(text, newline="")))[1:]:
                known[name] = (split, manifest.classes[int(number)].synset)
        except (ValueError, IndexError, csv.Error) as error:
            raise InputError(f"{file} is damaged ({error}); bring it back from a copy.") from error
    document: dict[str, dict[str, str]] = {split: {} for split in LISTS}
    for name, (split, label) in known.items():
        document[split][name] = label
    files.write_json(path, document)


def _read_before(path: Path) -> dict[str, tuple[str, str]]:
    """Returns the split and the class of each photograph that a model knows, by its name."""
    try:
        return {
            name: (split, label)
            for split, labels in files.read_document(path).items()
            for name, label in labels.items()
        }
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); bring it back from a copy.") from error


def _since(
    collection: Collection, before: dict[str, tuple[str, str]], options: ConvertOptions
) -> tuple[np.ndarray, str]:
    """Returns the sides for `with_validation`, and a sentence about what has changed.

    A photograph whose name is new is taken for one that is gone, if it has the same file name: it
    was moved to another class.
    """
    listing = collection.splits["train"]
    gone = before.keys() - set(listing.names)
    held = {name for name, (split, _) in before.items() if split != "train"}
    moved = {_file(name): name for name in [*sorted(gone - held), *sorted(gone & held)]}
    known = [name if name in before else moved.get(_file(name)) for name in listing.names]
    sides = np.array([0 if not name else 1 if name in held else -1 for name in known], np.int64)
    classes = [label.synset for label in collection.classes]
    now = [classes[number - 1] for number in listing.table["label"].tolist()]
    mended = sum(
        name is not None and before[name][1] != label
        for name, label in zip(known, now, strict=True)
    )
    none = numbers_of_none(collection.classes) if options.none != "a class" else []
    others = {classes[number - 1] for number in none}
    more = sorted(set(classes) - {label for _, label in before.values()} - others)
    added, removed = int((sides == 0).sum()), len(before.keys() - set(known))
    changes = [
        f"{plural(added, 'photograph')} added" * bool(added),
        f"{removed:,} removed" * bool(removed),
        f"{mended:,} moved to another class" * bool(mended),
        f"{plural(len(more), 'new class')}: {', '.join(more[:10])}" * bool(more),
    ]
    return sides, printable(
        f"Since the model was made: {', '.join(filter(None, changes)) or 'nothing has changed'}. "
        f"{plural(int((sides == 1).sum()), 'photograph stays', 'photographs stay')} held out."
    )


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _divided(
    collection: Collection,
    options: ConvertOptions,
    groups: np.ndarray | None,
    sides: np.ndarray | None,
) -> dict[str, Listing]:
    """Returns `with_validation`; also raises InputError if all photographs of a class stay out."""
    splits = with_validation(collection.splits, options, groups, sides)
    there = set(splits["train"].table["label"].tolist())
    for number, label in enumerate(collection.classes, 1):
        if sides is not None and number not in there:
            raise InputError(
                f"All photographs of the class {printable(label.synset)!r} were held out when the "
                "model was made that training goes on from; add others to train on."
            )
    return splits
