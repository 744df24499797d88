"""Files that are whole or absent, and one converter a directory."""

import contextlib
import errno
import json
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from squeezenext.errors import InputError, RunAgain

from .writer import Output

WORK = ".convert"  # the output's own folder for what is unfinished; removed at the end
SPOOL = ".convert.spool"  # where a source that cannot seek is laid by
LOCK = ".convert.lock"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def written(path: Path, work: Path) -> Iterator[Output]:
    """Gives a file to write; on success it is flushed to the disk and renamed to `path`.

    Args:
      work: an existing folder on the same file system, for the unfinished file.

    Raises:
      RunAgain: the disk is full.
      InputError: the folder cannot be written.
    """
    temporary = work / f"{path.name}.{secrets.token_hex(8)}.tmp"  # two hosts may write one file
    with explained(path):
        try:
            with Output(temporary) as file:
                yield file
                file.commit()
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flushes the folder's entries: without it a rename may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, document: Any, work: Path) -> None:
    """Writes the document with stable bytes: the same content gives the same file."""
    with written(path, work) as file:
        file.write(json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")


def make_folder(path: Path) -> None:
    """Makes a folder and its parents; InputError if that cannot be."""
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the operating system's errors into sentences about `path`."""
    try:
        yield
    except OSError as error:
        raise _explained(error, path) from error


def _explained(error: OSError, path: Path) -> Exception:
    if error.errno in _NO_SPACE:
        return RunAgain(
            f"{path} could not be written ({error.strerror}); free some space and run the same "
            "command again: it goes on at the next shard."
        )
    return InputError(
        f"{path} cannot be written ({error.strerror}); choose an --output that can be."
    )


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
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
        raise _explained(error, directory) from error
    try:
        with contextlib.suppress(OSError):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        lock.release()
