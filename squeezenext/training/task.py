"""What a training run works on, once the command line and the data have been looked at."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from squeezenext import labels
from squeezenext.config import Config
from squeezenext.records.manifest import Split


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, and on what.

    Attributes:
      config: with the data's number of classes.
      splits: "train" and, where there is one, "validation".
      classes: in label order.
      source: the model directory to fine-tune from, or None.
    """

    config: Config
    splits: Mapping[str, Split]
    classes: Sequence[labels.Label]
    source: Path | None
