"""What a user names to be looked at: files, folders, patterns, URLs, standard input."""

import glob
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from squeezenext.errors import InputError

ENDINGS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"})
MAX_BYTES = 64 << 20  # of an encoded image


def expand(paths: Sequence[str], allow_url: bool = False) -> list[str]:
    """Returns the names of the single images, in the order given; a folder's are sorted.

    A folder stands for all files below it that have an image's ending; one without any, or that
    cannot be listed, stands for itself, to be named when it is read. A pattern such as
    "photos/**/*.jpg" is taken as one where no file has that very name.

    Raises:
      InputError: nothing but empty folders, a pattern without a match, or a URL not allowed.
    """
    found: list[str] = []
    empty = 0
    for path in paths:
        if is_url(path):
            if not allow_url:
                raise InputError(f"{path} is a URL; --allow_url lets this command fetch it.")
            found.append(path)
        elif path != "-" and os.path.isdir(path):
            inside = _inside(path)
            found += inside or [path]
            empty += not inside
        elif path != "-" and glob.has_magic(path) and not os.path.lexists(path):
            found += _matching(path)
        else:
            found.append(path)
    if empty and empty == len(found):
        raise InputError(f"{found[0]} holds no image ({', '.join(sorted(ENDINGS))}).")
    return found


def is_url(path: str) -> bool:
    return path.lower().startswith(("https://", "http://"))


def _matching(pattern: str) -> list[str]:
    matched = sorted(glob.glob(pattern, recursive=True))
    files = [path for path in matched if not os.path.isdir(path)]
    if not files:
        raise InputError(f"No file matches {pattern}.")
    return files


def _inside(folder: str) -> list[str]:
    unreadable: list[str] = []
    found = []
    walk = os.walk(folder, onerror=lambda error: unreadable.append(error.filename))
    for parent, _, names in walk:
        wanted = (name for name in names if os.path.splitext(name)[1].lower() in ENDINGS)
        found += [os.path.join(parent, name) for name in wanted]
    return sorted(found) + [path for path in unreadable if path != folder]


def read(path: str) -> bytes:
    """Returns the bytes of an image: of a file, a URL, or standard input ("-").

    Raises:
      InputError: it cannot be read, is no regular file, or is too large.
    """
    if path == "-":
        return _bounded(sys.stdin.buffer.read(MAX_BYTES + 1), "Standard input")
    if is_url(path):
        from squeezenext.prediction import (
            fetch,  # sockets and TLS take longer to import than a prediction
        )

        return fetch.fetch(path, max_bytes=MAX_BYTES)
    try:
        # A named pipe that nobody writes to would block for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
                raise InputError(f"{path} is {kind}; name an image, or give it to -.")
            if status.st_size > MAX_BYTES:
                raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MB.")
            with open(descriptor, "rb", closefd=False) as file:  # which refuses a folder itself
                return _bounded(file.read(MAX_BYTES + 1), path)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path!r} cannot be a file's name: {error}.") from error


def _bounded(data: bytes, name: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} is larger than {MAX_BYTES >> 20} MB.")
    return data


def stem(path: str) -> str:
    """Returns a short name made of a source's, safe as part of a file's name."""
    kept = "".join(
        c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in Path(path).stem
    )
    return kept[:60] or "image"
