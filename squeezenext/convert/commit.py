"""The converter's files: whole or absent, and what cannot be written told in a sentence."""

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from squeezenext import files
from squeezenext.errors import InputError, RunAgain

# A file being written: large gathered writes, its SHA-256, and the disk kept busy meanwhile.


# A core's second-level cache holds it: read, checked and written from there. 4 MB cost a tenth.
_GATHER_BYTES = 1 << 20
_GATHER_PARTS = 1000  # IOV_MAX is 1024 on Linux and macOS
# Flushed behind the writer's back: else a shard of 140 MB ends in a wait for all of it.
_SYNC_BYTES = 16 << 20
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class Output:
    """A new file. Parts given to `write` are neither joined nor copied."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()
        self._parts: list[bytes] = []
        self._waiting = self._unsynced = 0
        self.position = 0
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._syncing: concurrent.futures.Future | None = None
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0)
        self._descriptor = os.open(path, flags, 0o666)

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread:
            self._thread.shutdown(wait=True)
        if self._descriptor >= 0:  # not finished: something else has failed
            with contextlib.suppress(OSError):
                os.close(self._descriptor)

    @property
    def sha256(self) -> str:
        """The digest of all that was given to `write`."""
        return self._digest.hexdigest()

    def write(self, *parts: bytes) -> None:
        update, size = self._digest.update, 0
        for part in parts:
            update(part)
            size += len(part)
        self._waiting += size
        self.position += size
        self._parts += parts
        if self._waiting >= _GATHER_BYTES or len(self._parts) >= _GATHER_PARTS - 16:
            self._write_out()

    def finish(self) -> None:
        """Writes out all that waits, and closes. `atomic.flush` knows when it is on the disk.

        Some network file systems tell only at the close that a write has failed.
        """
        self._write_out()
        if self._syncing:
            self._syncing.result()  # a write-back error is told once: to whoever synced first
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def _write_out(self) -> None:
        parts, self._parts = self._parts, []
        while parts:
            written = os.writev(self._descriptor, parts[:_GATHER_PARTS])
            parts = _rest(parts, written) if written < self._waiting else []
        self._unsynced += self._waiting
        self._waiting = 0
        if self._unsynced >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._sync_behind()

    def _sync_behind(self) -> None:
        if self._syncing:
            self._syncing.result()
        self._thread = self._thread or concurrent.futures.ThreadPoolExecutor(1)
        self._syncing = self._thread.submit(_sync, self._descriptor)
        self._unsynced = 0


def _rest(parts: list[bytes], written: int) -> list[bytes]:
    """Returns what is left of the parts after their first `written` bytes."""
    for place, part in enumerate(parts):
        if written < len(part):
            return [memoryview(part)[written:], *parts[place + 1 :]]
        written -= len(part)
    return []


WORK = ".convert"  # the output's own folder for what is unfinished; removed at the end
SPOOL = ".convert.spool"  # where a source that cannot seek is laid by
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
    with drafted(path, work) as file:
        yield file
    put(file.path, path)


@contextlib.contextmanager
def drafted(path: Path, work: Path) -> Iterator[Output]:
    """Gives a file to write in `work`, for `put` to make `path` of it; raises as `written`."""
    temporary = work / f"{path.name}.{secrets.token_hex(8)}.tmp"  # two hosts may write one file
    with explained(path), _removed_on_error(temporary):
        with Output(temporary) as file:
            yield file
            file.finish()


def put(temporary: Path, path: Path) -> None:
    """Flushes a draft to the disk and renames it to `path`; raises as `written`."""
    with explained(path), _removed_on_error(temporary):
        files.put(temporary, path)


@contextlib.contextmanager
def _removed_on_error(temporary: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def swept(directory: Path) -> Iterator[None]:
    """Removes the drafts that nobody will put in place, of an earlier run and of this one.

    What a source that cannot seek was laid by in goes, too: its next pass lays it by anew.
    """

    def sweep() -> None:
        shutil.rmtree(directory / SPOOL, ignore_errors=True)
        for left_over in (directory / WORK).glob("*.tmp"):
            with contextlib.suppress(OSError):
                left_over.unlink(missing_ok=True)

    sweep()
    try:
        yield
    finally:
        sweep()


def write_json(path: Path, document: Any, work: Path) -> None:
    """Writes the document with stable bytes: the same content gives the same file."""
    with written(path, work) as file:
        text = json.dumps(document, indent=1, ensure_ascii=False)
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")  # \udcff: a name not in UTF-8


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
        raise explanation(error, path) from error


def explanation(error: OSError, path: Path) -> Exception:
    """Returns what to raise."""
    if error.errno in _NO_SPACE:
        return RunAgain(
            f"{path} could not be written ({error.strerror}); free some space and run the same "
            "command again: it goes on at the next shard."
        )
    return InputError(
        f"{path} cannot be written ({error.strerror}); choose an --output that can be."
    )
