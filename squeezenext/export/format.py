"""The record by which the export command knows a format; each format's module defines one."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from squeezenext import files
from squeezenext.network.model import Model

Run = Callable[[np.ndarray], np.ndarray]  # [size, size, 3] uint8, RGB, to [classes] probabilities


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What is to be exported.

    Attributes:
      model: the network, as loaded from `source`.
      source: a model directory, a published model's name or a `.sqz` file.
      precision: one of the format's.
      images: [size, size, 3] uint8, RGB, for int8 ranges and for comparing; may be empty.
    """

    model: Model
    source: str | Path
    precision: str
    images: Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Format:
    """One value of --format.

    Attributes:
      name: the value.
      precisions: the values of --precision that the format has.
      write: writes the file or folder at a temporary path and returns (precision, run) of each
        network in it; the command compares all of them and measures the first one's accuracy.
      calibrated: the precisions whose ranges are found on images.
      folder: what the format's folders hold; None if it writes a single file.
      ending: the usual ending of the file's name, ".onnx"; "" for a folder.
      mark: a text at the beginning of each such file, which tells it from a file of another kind.
    """

    name: str
    precisions: tuple[str, ...]
    write: Callable[[Request, Path], list[tuple[str, Run]]]
    calibrated: tuple[str, ...] = ()
    folder: files.FolderKind | None = None
    ending: str = ""
    mark: str = ""
