"""Puts a folder that was made beside its place into it."""

import os
import shutil
from pathlib import Path

from squeezenext import atomic
from squeezenext.errors import InputError


def check(place: Path, mark: str) -> None:
    """Refuses to replace what is no folder of the same kind.

    Args:
      place: where the folder is to be; it may be absent, or empty.
      mark: a file that every folder of the kind holds.

    Raises:
      InputError: something else is there.
    """
    if not place.exists() or (place.is_dir() and (place / mark).is_file()):
        return
    if not place.is_dir() or any(place.iterdir()):
        raise InputError(f"--output {place} holds something else; choose another folder.")


def replace_folder(made: Path, place: Path, mark: str) -> None:
    """Puts a folder where another of its kind may be; arguments as of `check`.

    Raises:
      InputError: something else is there.
    """
    check(place, mark)
    for path in sorted(made.rglob("*")):
        atomic.flush(path)
    before = place.with_name(f".{place.name}.before-{os.getpid()}")
    if place.exists():
        os.replace(place, before)
    os.replace(made, place)
    atomic.flush(place.parent)
    shutil.rmtree(before, ignore_errors=True)
