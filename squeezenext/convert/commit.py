"""Writes the converter's files: whole or absent, hashed on the way, errors explained."""

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
from squeezenext.cli import size_text
from squeezenext.errors import InputError, RunAgain

WORK = ".convert"  # the output's own folder for what is unfinished; removed at the end
SPOOL = ".convert.spool"  # a copy of a source that cannot seek
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Fits a core's second-level cache: read, hashed and written from there. 4 MB cost a tenth.
_GATHER_BYTES = 1 << 20
_GATHER_PARTS = 1000  # IOV_MAX is 1024 on Linux and macOS
# Flushed by a thread meanwhile; else a shard of 140 MB ends in a wait for all of it.
_SYNC_BYTES = 16 << 20
_BYTES_A_PIXEL = 0.3  # baseline 4:2:0 at quality 90: 0.29 measured over ImageNet at 400 px


class Output:
    """A new file, hashed while it is written. Parts are neither joined nor copied."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0  # the position is the number of bytes written so far
        self._digest = hashlib.sha256()
        self._parts: list[bytes | memoryview] = []
        self._waiting = self._unsynced = 0
        self._thread = concurrent.futures.ThreadPoolExecutor(1)  # starts with its first job
        self._syncing: concurrent.futures.Future | None = None
        self._descriptor = files.open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)
        if self._descriptor >= 0:  # not finished: something else has failed
            with contextlib.suppress(OSError):
                os.close(self._descriptor)

    @property
    def sha256(self) -> str:
        """The digest of everything written so far."""
        return self._digest.hexdigest()

    def write(self, *parts: bytes) -> None:
        """Appends the parts."""
        for part in parts:
            self._digest.update(part)
        size = sum(map(len, parts))
        self._waiting += size
        self.position += size
        self._parts += parts
        if self._waiting >= _GATHER_BYTES or len(self._parts) >= _GATHER_PARTS - 16:
            self._write_out()

    def finish(self) -> None:
        """Writes out what is buffered and closes; `files.flush` then waits for the disk.

        Some network file systems report a failed write only at the close.
        """
        self._write_out()
        if self._syncing:
            self._syncing.result()  # a write-back error is reported once, to whoever synced first
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def _write_out(self) -> None:
        parts, self._parts = self._parts, []
        while parts:
            written = files.writev(self._descriptor, parts[:_GATHER_PARTS])
            parts = _rest(parts, written) if written < self._waiting else []
        self._unsynced += self._waiting
        self._waiting = 0
        if self._unsynced >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            if self._syncing:
                self._syncing.result()
            self._syncing = self._thread.submit(files.fdatasync, self._descriptor)
            self._unsynced = 0


def _rest(parts: list[bytes | memoryview], written: int) -> list[bytes | memoryview]:
    """Returns the parts without their first `written` bytes."""
    for index, part in enumerate(parts):
        if written < len(part):
            return [memoryview(part)[written:], *parts[index + 1 :]]
        written -= len(part)
    return []


@contextlib.contextmanager
def written(path: Path, work: Path) -> Iterator[Output]:
    """Opens a file for writing; on success it is flushed to the disk and renamed to `path`.

    The unfinished file lies in the folder `work`, on the same file system.

    Raises:
      RunAgain: the disk is full.
      InputError: the folder cannot be written.
    """
    with drafted(path, work) as file:
        yield file
    publish(file.path, path)


@contextlib.contextmanager
def drafted(path: Path, work: Path) -> Iterator[Output]:
    """Opens a draft of `path` for writing in `work`; raises as `written`."""
    temporary = work / f"{path.name}.{secrets.token_hex(8)}.tmp"  # two hosts may write one file
    with explained(path), _removed_on_error(temporary):
        with Output(temporary) as file:
            yield file
            file.finish()


def publish(temporary: Path, path: Path) -> None:
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
    """Removes the unpublished drafts and the spools of an earlier run and of this one.

    Raises:
      InputError: a stranger has laid links there, which lead to files that are not ours.
    """
    for folder in (directory / WORK, directory / SPOOL):
        if folder.is_symlink():
            raise InputError(f"{folder} is a symbolic link; remove it.")

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


def write_document(path: Path, document: Any, work: Path) -> None:
    """Writes a JSON document; the same content gives the same bytes."""
    with written(path, work) as file:
        text = json.dumps(document, indent=1, ensure_ascii=False)
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")  # \udcff: a name not in UTF-8


def make_folder(path: Path) -> None:
    """Makes a folder and its parents; raises as `written`."""
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the operating system's errors into those of `written`."""
    try:
        yield
    except OSError as error:
        raise explanation(error, path) from error


def explanation(error: OSError, path: Path) -> Exception:
    """Returns the exception for an operating system's error in writing `path`."""
    if error.errno in _NO_SPACE:
        return RunAgain(
            f"{path} could not be written ({error.strerror}); free some space and run the same "
            "command again: it goes on at the next shard."
        )
    return InputError(
        f"{path} cannot be written ({error.strerror}); choose an --output that can be."
    )


def reencoded(size: int, images: int, max_side: int | None) -> int:
    """Returns about how many bytes `images` images of `size` bytes together become with --max_side.

    Images of a lower quality than --quality grow: clothing photographs by a twentieth.
    """
    return min(size, int(images * max_side**2 * _BYTES_A_PIXEL)) if max_side else size


def shard_bytes(folder: Path) -> int:
    """Returns the size of the shards in a folder: finished already, or to be overwritten."""
    return sum(path.stat().st_size for path in folder.glob("*-of-*")) if folder.is_dir() else 0


def nearest_folder(folder: Path) -> Path:
    """Returns the folder itself, or its nearest parent that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def free_bytes(folder: Path) -> int:
    """Returns the free space of the folder's disk."""
    return shutil.disk_usage(nearest_folder(folder)).free


def check_room(folder: Path, size: int) -> None:
    """Raises RunAgain if there is too little space for `size` bytes."""
    free = free_bytes(folder)
    if size > free:
        raise RunAgain(
            f"{folder} needs {size_text(size)}, its disk has {size_text(free)} free; free "
            "some space and run the same command again, or choose another --output."
        )
