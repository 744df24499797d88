"""The converter's files: whole or absent, and what cannot be written told in a sentence."""

import contextlib
import errno
import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from squeezenext import files
from squeezenext.errors import InputError, RunAgain

from .writer import Output

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
