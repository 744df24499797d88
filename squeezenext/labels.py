"""The classes of a model: their order, synsets and names."""

import collections
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

from squeezenext import files
from squeezenext.errors import InputError


@dataclasses.dataclass(frozen=True)
class Label:
    """A class. `synset` is its key (an ImageNet wnid or a folder's name); names may repeat."""

    synset: str
    text: str

    @property
    def name(self) -> str:
        """The first of ImageNet's names ("tench" of "tench, Tinca tinca"), or the folder's."""
        return self.text if self.text == self.synset else self.text.split(",")[0]


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
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read(path: Path) -> tuple[Label, ...]:
    """Reads labels.json.

    Raises:
      InputError: the file is absent, or not a list such as `write` makes.
    """
    try:
        rows = json.loads(files.read_text(path))
        return tuple(Label(str(row["synset"]), str(row["text"])) for row in rows)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a list of labels: {error}.") from error
