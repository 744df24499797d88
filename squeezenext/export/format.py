"""The record by which the export command knows a format; each format's module defines one.

`replace_folder` replaces an older exported folder by a new one; a kill meanwhile loses neither.
"""

import dataclasses
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

import numpy as np

from squeezenext import files
from squeezenext.errors import InputError
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
class FolderKind:
    """A kind of output folder; a new folder replaces only one of its kind.

    Attributes:
      files: patterns of the paths of all its files; "*" matches a part of a name.
      is_one: returns whether a folder of such files is of this kind.
    """

    files: tuple[str, ...]
    is_one: Callable[[Path], bool]

    def stranger(self, folder: Path) -> PurePath | None:
        """Returns the path of a file that is not of this kind, or None."""
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if path.is_dir() and not path.is_symlink():
                continue
            if not any(_fits(relative, pattern) for pattern in self.files):
                return relative
        return None


def _fits(path: PurePath, pattern: str) -> bool:
    return len(path.parts) == len(PurePath(pattern).parts) and path.match(pattern)


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
    folder: FolderKind | None = None
    ending: str = ""
    mark: str = ""


def check_replaceable(output: Path, kind: FolderKind) -> None:
    """Checks that an output folder is absent, empty, or a complete folder of the same kind.

    Args:
      output: the folder.
      kind: what it may be.

    Raises:
      InputError: it is something else, or holds other files.
    """
    _bring_back(output)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    stranger = kind.stranger(output) if output.is_dir() else None
    if stranger or not output.is_dir() or not kind.is_one(output):
        which = f" ({stranger})" if stranger else ""
        raise InputError(f"--output {output} holds something else{which}; choose another folder.")


def replace_folder(made: Path, output: Path, kind: FolderKind) -> None:
    """Moves a folder to its place, and replaces an older one of its kind there.

    Args:
      made: the new folder, on the same file system.
      output: its place.
      kind: what may be replaced.

    Raises:
      InputError: something else is there.
    """
    check_replaceable(output, kind)
    for path in sorted(made.rglob("*")):
        files.flush(path)
    before = output.with_name(f".{output.name}.before-{secrets.token_hex(8)}")
    if output.exists():
        os.replace(output, before)
    try:
        os.replace(made, output)
    except BaseException:
        if before.exists() and not output.exists():
            os.replace(before, output)
        raise
    files.flush(output.parent)
    shutil.rmtree(before, ignore_errors=True)


def _bring_back(output: Path) -> None:
    """Repairs what a process that was killed in `replace_folder` left.

    It had moved the old folder aside: that gets its name back, or is removed if the new one is in
    its place.
    """
    left = sorted(output.parent.glob(f".{glob.escape(output.name)}.before-*"))
    if left and not output.exists():
        os.replace(left.pop(), output)
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
