"""What a user names to be looked at: files, folders, patterns, URLs, standard input."""

import fnmatch
import glob
import os
import stat
import sys
from collections.abc import Iterator, Sequence
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
    parts = pattern.split(os.sep)
    if "**" in parts:
        first = parts.index("**")
        head = "".join(f"{part}{os.sep}" for part in parts[:first])
        matched = sorted(_below(head, parts[first:]))
    else:
        matched = sorted(glob.glob(pattern))
    files = [path for path in matched if not os.path.isdir(path)]
    if not files:
        raise InputError(f"No file matches {pattern}.")
    return files


def _below(head: str, tail: Sequence[str]) -> Iterator[str]:
    """Yields the files that match `head` and `tail`, which begins with "**": no link is followed.

    `glob` does: a link to the folder it lies in makes 40 names of each file, two make 2 ** 40.
    """
    for folder in glob.glob(head) if head else [""]:
        for parent, _, names in os.walk(folder or os.curdir):
            inside = os.path.relpath(parent, folder or os.curdir)
            inner = [] if inside == os.curdir else inside.split(os.sep)
            for name in names:
                if _fits([*inner, name], tail):
                    yield os.path.join(folder, *inner, name)


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a path fits a pattern, part by part; as in `glob`, no star matches a hidden name."""
    if not parts or not names:
        return not parts and not names or list(parts) == ["**"]
    if parts[0] == "**":
        hidden = names[0].startswith(".")
        return _fits(names, parts[1:]) or not hidden and _fits(names[1:], parts)
    shown = parts[0].startswith(".") or not names[0].startswith(".")
    return shown and fnmatch.fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])


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
        # Sockets and TLS take longer to import than a prediction.
        from squeezenext.prediction import fetch

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
