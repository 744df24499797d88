"""Writes files and folders atomically: beside their place, flushed to the disk, then renamed."""

import contextlib
import csv
import errno
import io
import json
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from squeezenext.errors import InputError

MAX_BYTES = 64 << 20  # of a file of ours that is read whole; full ImageNet's manifest has 0.4 MB
MAX_TEXT = 16 << 20  # bytes of a text that this program writes; labels.json of ImageNet has 100 kB
# What systems and programs leave in people's folders, beside hidden files, in lower case.
_LEFTOVERS = frozenset(
    {"__macosx", "@eadir", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin",
     "system volume information"}
)  # fmt: skip


# What Windows and macOS lack, and what takes its place there. Other such calls have one user each,
# which first asks whether the system has them; tests/test_windows.py lists these.


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    with _MOVING:  # the position is one for all threads
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)


def _writev(descriptor: int, parts: Sequence[bytes | memoryview]) -> int:
    return os.write(descriptor, b"".join(parts))


_MOVING = threading.Lock()
pread = getattr(os, "pread", _pread)
writev = getattr(os, "writev", _writev)
fdatasync = getattr(os, "fdatasync", os.fsync)
NO_LINK = getattr(os, "O_NOFOLLOW", 1 << 30)  # a bit that Windows does not use
_UNKNOWN = 0 if hasattr(os, "O_NOFOLLOW") else NO_LINK  # what `os.open` must not get
_FOLDERS_CAN_BE_OPENED = hasattr(os, "O_DIRECTORY")
# A pipe does not wait for its writer; Windows does not write "\n" as "\r\n".
_ALWAYS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def is_leftover(name: str) -> bool:
    """Returns whether a file or folder was left by a system or program, not put there by a person.

    Among the hidden ones are a Mac's .DS_Store and ._photo.jpg, and Jupyter's .ipynb_checkpoints.
    """
    return name.startswith(".") or name.lower() in _LEFTOVERS


def leads_out(path: str) -> bool:
    """Returns whether a path of another machine may lead out of a folder, on Windows by "C:/"."""
    return re.search(r"\\|(^|/)([A-Za-z]:|\.{0,2}(/|$))", path) is not None


def expanded(path: str | Path) -> Path:
    """Returns a path with "~" as the home folder; `Path.expanduser` fails for unknown users."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def open_file(path: str | Path) -> Iterator[io.FileIO]:
    """Opens a regular file for reading, without a buffer.

    Raises:
      InputError: the file, or what the block reads, cannot be read.
    """
    try:
        with open(open_regular(path, os.O_RDONLY), "rb", buffering=0) as file:
            yield file
    except OSError as error:
        raise unreadable(path, error) from error


def open_own(path: str | Path, flags: int = 0, empty: bool = False) -> int:
    """Opens a file that this program writes in place, as a log, and returns the descriptor.

    The folder may be a stranger's, who can have put a link there to any file of the user's.

    Args:
      path: the file, which is made if it is absent.
      flags: those of `os.open` beside `O_WRONLY`.
      empty: if True, the file is emptied.

    Raises:
      InputError: it is a link, no regular file, or has a second name.
    """
    descriptor = open_regular(path, os.O_WRONLY | os.O_CREAT | NO_LINK | flags)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise InputError(f"{path} is a file with several names; remove this one.")
    if empty:  # not before the checks, as O_TRUNC would
        os.ftruncate(descriptor, 0)
    return descriptor


def open_regular(path: str | Path, flags: int) -> int:
    """Opens a file and returns the descriptor; a pipe or a device could never end.

    Args:
      path: the file.
      flags: those of `os.open`; `NO_LINK` among them refuses a symbolic link.

    Raises:
      InputError: it is no regular file, or a link that is refused.
      OSError: it cannot be opened.
    """
    try:
        if flags & _UNKNOWN and os.path.islink(path):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        descriptor = os.open(path, flags & ~_UNKNOWN | _ALWAYS, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and flags & NO_LINK:
            raise InputError(f"{path} is a symbolic link; put the file itself there.") from error
        # To write: a folder, a pipe. Windows opens a folder not even to read it.
        if error.errno in (errno.EISDIR, errno.ENXIO) or os.path.isdir(path):
            raise InputError(f"{path} is no regular file.") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path} is no regular file.")
    return descriptor


def make_own_folder(path: Path) -> None:
    """Makes a folder inside one that may be a stranger's, unless it is there.

    Raises:
      InputError: a link or a file is there.
    """
    path.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link; put the folder itself there.")


def make_missing(folder: Path) -> list[Path]:
    """Makes a folder with its parents; returns those that were absent, the innermost first."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return absent


def remove_unused(folder: Path, lock: str, made: list[Path]) -> None:
    """Removes a held lock and the folders that were made for it, if nothing else is in there."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [lock]:
            (folder / lock).unlink()
            for path in made:
                path.rmdir()


def unreadable(path: str | Path, error: OSError) -> InputError:
    """Returns the exception for an operating system's error in reading `path`."""
    return InputError(
        f"{path} cannot be read ({error.strerror}); mend that and run the command again."
    )


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file atomically; `write(temporary)` writes its content beside its place."""
    # Nobody can foresee the name, and so lay a link there; two processes never share it.
    temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(8)}{path.suffix}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        write(temporary)
        put(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes bytes to a file, atomically."""
    write_file(path, lambda file: file.write_bytes(content))


def read_bytes(path: Path, most: int, flags: int = 0) -> bytes:
    """Returns the content of a regular file.

    Raises:
      InputError: it cannot be read, is no regular file, or has more than `most` bytes.
    """
    try:
        with open(open_regular(path, os.O_RDONLY | flags), "rb") as file:
            large = os.fstat(file.fileno()).st_size > most
            content = b"" if large else file.read(most + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if large or len(content) > most:  # it may have grown
        raise InputError(f"{path} is larger than {most >> 20} MB.")
    return content


def read_text(path: Path) -> str:
    """Returns a text that this program wrote into a folder, which may be a stranger's by now.

    Raises:
      InputError: it cannot be read, is a link or no regular file, or has more than `MAX_TEXT`.
      UnicodeDecodeError: it is not UTF-8.
    """
    return read_bytes(path, MAX_TEXT, NO_LINK).decode("utf-8")


def read_document(path: Path) -> Any:
    """Returns a JSON document, as `read_text`; also raises ValueError: it is none."""
    try:
        return json.loads(read_text(path))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file, as `read_text`, each by the names of its columns.

    Raises:
      InputError: it is no table, or as `read_text`.
    """
    try:
        text = read_bytes(path, MAX_TEXT, NO_LINK).decode("utf-8", "replace")
        return list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise InputError(f"{path} is no table ({error}); move it elsewhere.") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text to a file in UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, document: object) -> None:
    """Writes a JSON document to a file, one entry a line, atomically."""
    write_text(path, json.dumps(document, indent=1) + "\n")


def put(temporary: Path, path: Path) -> None:
    """Renames a written file to `path`; a file that it replaces stays readable until then.

    Afterwards, content and name survive a power cut.
    """
    flush(temporary)
    os.replace(temporary, path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are on the disk.

    This raises a write-back error that has not been reported yet, even if another descriptor wrote
    the file, as long as the kernel holds its inode (errseq_t, Linux 4.17).
    """
    if path.is_dir() and not _FOLDERS_CAN_BE_OPENED:
        return
    descriptor = _opened(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """Opens for writing if possible: SMB does not flush a file that is open for reading alone."""
    try:
        return os.open(path, os.O_RDWR)
    except OSError:  # a folder, or a read-only file
        return os.open(path, os.O_RDONLY)


def check_ours(path: Path, mark: str) -> None:
    """Checks that a file is absent, empty, or one that this program wrote, as index.html.

    Args:
      path: the file.
      mark: a text in the first 4 kB of each such file that this program writes.

    Raises:
      InputError: another program's file is there.
    """
    if not os.path.lexists(path):
        return
    with open_file(path) as file:
        beginning = file.read(4096)
    if beginning and mark.encode() not in beginning:
        raise InputError(f"{path} is another program's; move it away, or choose another place.")


def origin_note(path: Path) -> Path:
    """Returns the path of `adapt`'s note on a file's origin: {"weights_sha256": ...} and more."""
    return path.with_name(f".{path.name}.made_of")
