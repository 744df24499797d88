"""Is there room enough? Asked before any work is done."""

import shutil
from pathlib import Path

from squeezenext.errors import RunAgain

_BYTES_A_PIXEL = 0.3  # of baseline 4:2:0 at quality 90: 0.29 measured over ImageNet at 400 px


def reencoded(size: int, images: int, max_side: int | None) -> int:
    """Returns about how many bytes images of `size` bytes become with --max_side.

    Those that are compressed harder than its quality grow: clothing photographs by a twentieth.
    """
    return min(size, int(images * max_side**2 * _BYTES_A_PIXEL)) if max_side else size


def of_shards(folder: Path) -> int:
    """Returns how much of a folder are shards: done already, or to be overwritten."""
    return sum(path.stat().st_size for path in folder.glob("*-of-*")) if folder.is_dir() else 0


def parent(folder: Path) -> Path:
    """Returns the folder itself or, if it is still to be made, the one it will be made in."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def free_bytes(folder: Path) -> int:
    """Returns how many bytes may still be written there."""
    return shutil.disk_usage(parent(folder)).free


def check_room(folder: Path, size: int) -> None:
    """Compares `size` with what is free.

    Raises:
      RunAgain: there is too little space.
    """
    there = free_bytes(folder)
    if size > there:
        raise RunAgain(
            f"{folder} needs {size / 1e9:.2f} GB, its disk has {there / 1e9:.2f} GB free; free "
            "some space and run the same command again, or choose another --output."
        )
