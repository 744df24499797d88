"""Writes files and folders atomically: beside their place, flushed to the disk, then renamed."""

import contextlib
import csv
import dataclasses
import errno
import glob
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

from squeezenext.errors import InputError

MAX_BYTES = 64 << 20  # of a file of ours that is read whole; full ImageNet's manifest has 0.4 MB
MAX_TEXT = 16 << 20  # bytes of a text that this program writes; labels.json of ImageNet has 100 kB
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has neither
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)
# What systems and programs leave in people's folders, beside hidden files, in lower case.
_LEFTOVERS = frozenset(
    {"__macosx", "@eadir", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin",
     "system volume information"}
)  # fmt: skip


def is_leftover(name: str) -> bool:
    """Returns whether a file or folder was left by a system or program, not put there by a person.

    Among the hidden ones are a Mac's .DS_Store and ._photo.jpg, and Jupyter's .ipynb_checkpoints.
    """
    return name.startswith(".") or name.lower() in _LEFTOVERS


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
        descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | _NO_WAITING, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{path} is a symbolic link; put the file itself there.") from error
        if error.errno in (errno.EISDIR, errno.ENXIO):  # to write: a folder, a pipe
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
    write_file(path, lambda file: file.write_text(text, "utf-8"))


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


@dataclasses.dataclass(frozen=True)
class FolderKind:
    """A kind of output folder, which a newer one may replace.

    Attributes:
      files: patterns of the paths of all its files; "*" matches a part of a name.
      is_one: returns whether a folder of such files is of this kind.
    """

    files: tuple[str, ...]
    is_one: Callable[[Path], bool]

    def stranger(self, folder: Path) -> PurePath | None:
        """Returns the path of a file that is not of this kind, None if there is none."""
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if path.is_dir() and not path.is_symlink():
                continue
            if not any(_fits(relative, pattern) for pattern in self.files):
                return relative
        return None


def _fits(path: PurePath, pattern: str) -> bool:
    return len(path.parts) == len(PurePath(pattern).parts) and path.match(pattern)


def check_replaceable(output: Path, kind: FolderKind) -> None:
    """Checks that an output folder is absent, empty, or a complete folder of the same kind.

    Args:
      output: the folder.
      kind: what it may be.

    Raises:
      InputError: it is something else, or holds other files.
    """
    _bring_back(output)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    stranger = kind.stranger(output) if output.is_dir() else None
    if stranger or not output.is_dir() or not kind.is_one(output):
        which = f" ({stranger})" if stranger else ""
        raise InputError(f"--output {output} holds something else{which}; choose another folder.")


def replace_folder(made: Path, output: Path, kind: FolderKind) -> None:
    """Moves a folder to its place, which another of its kind may have.

    Args:
      made: the new folder, on the same file system.
      output: its place.
      kind: what may be replaced.

    Raises:
      InputError: something else is there.
    """
    check_replaceable(output, kind)
    for path in sorted(made.rglob("*")):
        flush(path)
    before = output.with_name(f".{output.name}.before-{secrets.token_hex(8)}")
    if output.exists():
        os.replace(output, before)
    try:
        os.replace(made, output)
    except BaseException:
        if before.exists() and not output.exists():
            os.replace(before, output)
        raise
    flush(output.parent)
    shutil.rmtree(before, ignore_errors=True)


def _bring_back(output: Path) -> None:
    """Repairs what a process that was killed in `replace_folder` left.

    It had moved the old folder aside: that gets its name back, or is removed if the new one is in
    its place.
    """
    left = sorted(output.parent.glob(f".{glob.escape(output.name)}.before-*"))
    if left and not output.exists():
        os.replace(left.pop(), output)
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)


def origin_note(path: Path) -> Path:
    """Returns the path of `adapt`'s note on a file's origin: {"weights_sha256": ...} and more."""
    return path.with_name(f".{path.name}.made_of")
