"""Files that are whole or absent: written beside their place, flushed to the disk, renamed."""

import dataclasses
import glob
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePath

from squeezenext.errors import InputError


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Makes a file whole or not at all; `write(temporary)` writes it beside its place."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        put(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Makes a file of these bytes, whole or not at all."""
    write_file(path, lambda file: file.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Makes a file of this text in UTF-8, whole or not at all."""
    write_file(path, lambda file: file.write_text(text, "utf-8"))


def write_json(path: Path, document: object) -> None:
    """Makes a file of a JSON document, an entry a line, whole or not at all."""
    write_text(path, json.dumps(document, indent=1) + "\n")


def put(temporary: Path, path: Path) -> None:
    """Gives a written file its name; what it replaces stays readable until then.

    When this returns, file and name are on the disk, power cuts included.
    """
    flush(temporary)
    os.replace(temporary, path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Returns when a file's content, or a folder's entries, are on the disk.

    A write-back error that nobody has been told of yet is told here, though another
    descriptor wrote the file, while the kernel still holds its inode (errseq_t, Linux 4.17).
    """
    descriptor = _opened(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """SMB ignores, or refuses, to flush a file that nobody has open for writing."""
    try:
        return os.open(path, os.O_RDWR)
    except OSError:  # a folder, or a file that only may be read
        return os.open(path, os.O_RDONLY)


# Puts a folder that was made beside its place into it.


@dataclasses.dataclass(frozen=True)
class Kind:
    """Folders that one writer makes.

    Attributes:
      files: all that it writes, as patterns of paths; "*" stands for part of a name.
      is_one: says whether a folder of such files is one.
    """

    files: tuple[str, ...]
    is_one: Callable[[Path], bool]

    def stranger(self, folder: Path) -> PurePath | None:
        """Returns what lies in a folder and was not written by its writer, None without."""
        for path in sorted(folder.rglob("*")):
            place = path.relative_to(folder)
            if path.is_dir() and not path.is_symlink():
                continue
            if not any(_fits(place, pattern) for pattern in self.files):
                return place
        return None


def _fits(place: PurePath, pattern: str) -> bool:
    return len(place.parts) == len(PurePath(pattern).parts) and place.match(pattern)


def check_replaceable(place: Path, kind: Kind) -> None:
    """Refuses to replace what is no folder of the same kind, or holds more than its writer made.

    Args:
      place: where the folder is to be; it may be absent, or empty.

    Raises:
      InputError: something else is there.
    """
    _bring_back(place)
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    stranger = kind.stranger(place) if place.is_dir() else None
    if stranger or not place.is_dir() or not kind.is_one(place):
        which = f" ({stranger})" if stranger else ""
        raise InputError(f"--output {place} holds something else{which}; choose another folder.")


def replace_folder(made: Path, place: Path, kind: Kind) -> None:
    """Puts a folder where another of its kind may be; arguments as of `check`.

    Raises:
      InputError: something else is there.
    """
    check_replaceable(place, kind)
    for path in sorted(made.rglob("*")):
        flush(path)
    before = place.with_name(f".{place.name}.before-{os.getpid()}")
    if place.exists():
        os.replace(place, before)
    try:
        os.replace(made, place)
    except BaseException:
        if before.exists() and not place.exists():
            os.replace(before, place)
        raise
    flush(place.parent)
    shutil.rmtree(before, ignore_errors=True)


def _bring_back(place: Path) -> None:
    """Gives a folder its name again that a killed process had moved away to replace it.

    If it had been replaced already, what was moved away is removed.
    """
    left = sorted(place.parent.glob(f".{glob.escape(place.name)}.before-*"))
    if left and not place.exists():
        os.replace(left.pop(), place)
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)


def note(path: Path) -> Path:
    """Returns where `adapt` keeps what a file was made of: {"weights_sha256": ...} and more."""
    return path.with_name(f".{path.name}.made_of")
