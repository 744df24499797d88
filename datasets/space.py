"""Is there room enough? Asked before any work is done."""

import shutil
from pathlib import Path

from squeezenext.errors import RunAgain


def parent(folder: Path) -> Path:
    """Returns the folder itself or, if it is still to be made, the one it will be made in."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def free(folder: Path) -> int:
    """Returns how many bytes may still be written there."""
    return shutil.disk_usage(parent(folder)).free


def check(folder: Path, size: int) -> None:
    """Compares `size` with what is free.

    Raises:
      RunAgain: there is too little space.
    """
    there = free(folder)
    if size > there:
        raise RunAgain(
            f"{folder} needs {size / 1e9:.2f} GB, its disk has {there / 1e9:.2f} GB free; free "
            "some space and run the same command again, or choose another --output."
        )
