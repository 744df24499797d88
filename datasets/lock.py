"""One converter a directory."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from squeezenext.errors import RunAgain

from . import commit
from .listing import printable

LOCK = ".convert.lock"


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds the directory for this process.

    The operating system drops the lock with the process, however that ends.

    Raises:
      RunAgain: another process holds it; it is named.
    """
    lock = filelock.FileLock(directory / LOCK)
    owner = directory / f"{LOCK}.owner"
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise RunAgain(f"{directory} is being written by {_told(owner)}; wait for it.") from error
    except OSError as error:
        raise commit.explanation(error, directory) from error
    try:
        _tell(owner)
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        lock.release()


def _tell(owner: Path) -> None:
    """Whole or not at all, for whoever looks just now. Not flushed: it dies with the process."""
    draft = owner.with_name(f"{owner.name}.tmp")  # one name: a killed process's is written over
    with contextlib.suppress(OSError):
        draft.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
        os.replace(draft, owner)
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)


def _told(owner: Path) -> str:
    try:
        with owner.open(encoding="utf-8", errors="replace") as file:
            return printable(file.read(200).strip()) or "another process"
    except OSError:
        return "another process"
