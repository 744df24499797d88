"""Files that are whole or absent: written beside their place, flushed to the disk, renamed."""

import os
from collections.abc import Callable
from pathlib import Path


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Makes a file whole or not at all; `write(temporary)` writes it beside its place."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        put(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
