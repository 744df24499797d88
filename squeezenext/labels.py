"""The classes of a model: their order, synsets and names."""

import collections
import dataclasses
import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from squeezenext import files
from squeezenext.errors import InputError

# Control characters, line ends and lone surrogates. Spaces other than " " are text: macOS writes
# U+202F into the names of screenshots.
NO_TEXT = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")

_CONTROL = "a line end or another control character in it"


def is_text(name: str) -> bool:
    """Returns whether a name is free of control characters, line ends and lone surrogates."""
    return not NO_TEXT.search(name)


@dataclasses.dataclass(frozen=True)
class Label:
    """A class. `synset` is its key (an ImageNet wnid or a folder's name); names may repeat."""

    synset: str
    text: str

    @property
    def name(self) -> str:
        """The first of ImageNet's names ("tench" of "tench, Tinca tinca"), or the folder's."""
        return self.text if self.text == self.synset else self.text.split(",")[0]


def as_texts(labels: Sequence[Label]) -> tuple[Label, ...]:
    """Returns the classes; raises ValueError if a name could forge a line of output."""
    for name in (name for label in labels for name in (label.synset, label.text)):
        if not is_text(name):
            raise ValueError(f"the name {_short(name)} has {_CONTROL}")
    return tuple(labels)


def class_names(labels: Sequence[Label]) -> list[str]:
    """Returns each class's `name`, with the synset if two classes share it, as the two cranes."""
    count = collections.Counter(label.name for label in labels)
    return [x.name if count[x.name] == 1 else f"{x.name} ({x.synset})" for x in labels]


@functools.cache
def imagenet() -> tuple[Label, ...]:
    """Returns the 1000 classes of ILSVRC2012 in synset order; index 0 is n01440764, tench."""
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines()
    return tuple(Label(*line.split("\t", 1)) for line in lines)


def write(path: Path, labels: Sequence[Label]) -> None:
    """Writes labels.json: a list of {"index", "synset", "text"}, index 0 first."""
    rows = [{"index": i, "synset": x.synset, "text": x.text} for i, x in enumerate(labels)]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8", newline="\n")


def read(path: Path) -> tuple[Label, ...]:
    """Reads labels.json of a model directory.

    Raises:
      InputError: the file is absent, or not a list such as `write` makes.
    """
    try:
        rows = files.read_document(path)
        found = {row.get("index", place): row for place, row in enumerate(rows)}
        if len(found) != len(rows):
            raise ValueError("two of its classes have one index")
        ordered = [found[index] for index in range(len(rows))]
        return as_texts([Label(str(row["synset"]), str(row["text"])) for row in ordered])
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{path} is not a list of labels: it has no {error}.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a list of labels: {error}.") from error


# The lists of classes that people have, in the order of the logits. docs/weights.md shows them.
_FORMS = (
    'Usual forms: ["cat", "dog"], {"cat": 0, "dog": 1}, {"0": "cat", "1": "dog"}, or a text file '
    "with a name a line."
)
_INSIDE = ("id2label", "names", "classes", "labels")  # keys under which other programs keep a list
_WNID = re.compile(r"(n\d{8})[\s,]+(\S.*)")
_NUMBERED = re.compile(r"(\d{1,9})[\s,:;]+(\S.*)")
_NUMBER_LAST = re.compile(r"(\S.*?)\s*[\t,:;]\s*(\d{1,9})")


class _Entry(NamedTuple):
    number: object
    synset: object
    text: object
    place: str  # "line 3"


def read_list(path: Path) -> tuple[Label, ...]:
    """Reads a list of classes that a user names, in any of the usual forms.

    Raises:
      InputError: it has another form, two equal classes, a gap, or a name of several lines.
    """
    try:
        text = files.read_bytes(path, files.MAX_TEXT).decode("utf-8-sig")
        is_json = path.suffix == ".json" or text.lstrip()[:1] in ("[", "{")
        entries = _of_json(json.loads(text, object_pairs_hook=_Pairs)) if is_json else _lines(text)
        return _in_order(entries)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8; save it in that encoding.") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is no list of classes: {error}. {_FORMS}") from error


class _Pairs(list):
    """A JSON object as its pairs, of which two may have one key."""


def _of_json(document: object) -> list[_Entry]:
    if not isinstance(document, list):
        raise ValueError("it is neither a list nor an object")
    if isinstance(document, _Pairs):
        for key, value in document:
            if key in _INSIDE and isinstance(value, list):
                return _of_json(value)
        return [_of_pair(place, *pair) for place, pair in enumerate(document, start=1)]
    return [_of_item(place, item) for place, item in enumerate(document)]


def _of_pair(place: int, key: str, value: object) -> _Entry:
    if isinstance(value, int):
        return _Entry(value, key, key, f"entry {place}")
    if not key.strip().isdecimal():
        raise ValueError(f"entry {place} is {_short(key)} without a number")
    return _of_item(int(key), value)._replace(place=f"entry {place}")


def _of_item(index: int, item: object) -> _Entry:
    place = f"entry {index + 1}"
    if isinstance(item, _Pairs):
        row = dict(item)
        text = next((row[key] for key in ("text", "name", "label") if key in row), None)
        return _Entry(row.get("index", row.get("id", index)), row.get("synset", text), text, place)
    if isinstance(item, list) and len(item) == 2:
        return _Entry(index, item[0], item[1], place)
    return _Entry(index, item, item, place)


def _lines(text: str) -> list[_Entry]:
    rows = [row.strip() for row in text.rstrip().split("\n")]
    for i, row in enumerate(rows, start=1):
        if row.startswith(("#", "- ")):
            raise ValueError(f"line {i} is {_short(row)}, as in YAML; write names alone")
    for form in (_WNID, _NUMBERED):
        found = [match.groups() for row in rows if (match := form.fullmatch(row))]
        if len(found) < len(rows):
            continue
        if form is _WNID:
            return [_Entry(i, k, x, f"line {i + 1}") for i, (k, x) in enumerate(found)]
        numbers = [int(number) for number, _ in found]
        if sorted(numbers) in (list(range(len(rows))), list(range(1, len(rows) + 1))):
            return [_Entry(int(k), x, x, f"line {i}") for i, (k, x) in enumerate(found, start=1)]
    pairs = [match.groups() for row in rows if (match := _NUMBER_LAST.fullmatch(row))]
    if len(pairs) == len(rows):
        return [_Entry(int(k), x, x, f"line {i}") for i, (x, k) in enumerate(pairs, start=1)]
    return [_Entry(i, row, row, f"line {i + 1}") for i, row in enumerate(rows)]


def _in_order(entries: list[_Entry]) -> tuple[Label, ...]:
    found: dict[int, _Entry] = {}
    keys: dict[str, str] = {}
    for entry in entries:
        index, place = entry.number, entry.place
        if not isinstance(index, int) or isinstance(index, bool):
            raise ValueError(f"{place} has the number {_short(index)}")
        if index in found:
            raise ValueError(f"{found[index].place} and {place} are both class {index}")
        for name in (entry.synset, entry.text):
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"{place} has no name")
            if not is_text(name):
                raise ValueError(f"the name in {place} has {_CONTROL}: {_short(name)}")
        if (key := str(entry.synset)) in keys:
            raise ValueError(f"{keys[key]} and {place} are both {_short(key)}")
        keys[key], found[index] = place, entry
    missing = next((i for i in range(len(entries)) if i not in found), None)
    if missing is not None:
        raise ValueError(f"it has no class {missing}; classes are numbered from 0")
    return tuple(Label(str(found[i].synset), str(found[i].text)) for i in range(len(entries)))


def _short(value: object) -> str:
    return ascii(value)[:60]
