"""One converter a directory."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from squeezenext.errors import RunAgain

from . import commit

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
        with contextlib.suppress(OSError):
            holder = owner.read_text("utf-8")[:200].strip()
            raise RunAgain(f"{directory} is being written by {holder}; wait for it.") from error
        raise RunAgain(f"{directory} is being written by another process.") from error
    except OSError as error:
        raise commit.explanation(error, directory) from error
    try:
        with contextlib.suppress(OSError):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        lock.release()
