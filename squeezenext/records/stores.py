"""Data at addresses of a store (s3://, gs://, https://) through fsspec, read by ranges.

What cannot be read just now is asked for again, with growing waits; then the command ends with exit
code 75. Credentials come from the environment, as fsspec's packages take them; nothing keeps them.
"""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import io
import json
import os
import shutil
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from squeezenext import files, progress
from squeezenext.arguments import refuse_remote
from squeezenext.cli import size_text
from squeezenext.errors import InputError, RunAgain, needs

Answer = TypeVar("Answer")

SCHEMES = ("s3://", "gs://", "https://")

# Of records of 110 kB a block holds nine: the first pass over ImageNet asks 140,000 times, not
# 1.3 million times.
BLOCK = 1 << 20
_TOGETHER = 64  # requests under way at once
_READ_BYTES = 8 << 20  # of a file that is read from its beginning to its end
_WAITS = (1, 2, 4, 8, 16)  # seconds before each further attempt
# botocore's default is 10 connections.
# A checksum of what is written: botocore sends one, which S3 checks; gcsfs must be told to.
_OPTIONS: dict[str, dict] = {
    "s3": {"config_kwargs": {"max_pool_connections": _TOGETHER}},
    "gs": {"consistency": "md5"},
}
_NO_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError",
    "DefaultCredentialsError",
)  # fmt: skip
# Faults of a connection that are no OSError: aiohttp's, botocore's, gcsfs's.
_CONNECTION = {
    "ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError",
    "IncompleteReadError", "ChecksumError",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Address:
    """The address of a file or folder in a store, with the methods of `Path` that are used.

    Those that ask the store raise as `ranges`.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> "Address":
        return Address(f"{self.text}/{name}")

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.text.rpartition("/")[2]

    @property
    def parent(self) -> "Address":
        """The folder of a file."""
        return Address(self.text.rpartition("/")[0])

    def stat(self) -> os.stat_result:
        """Returns the size of a file and the time of its last change, and 0 in all other fields."""
        info = _asked(self, lambda system: system.info(self.text))
        changed = info.get("LastModified") or info.get("mtime") or info.get("created")
        times = {"st_mtime_ns": int(changed.timestamp() * 1e9) if changed else 0}
        return os.stat_result([0] * 6 + [_size(self, info)] + [0] * 3, times)

    def exists(self) -> bool:
        """Returns whether the store has such a file."""
        return isinstance(sizes_of([self])[0], int)

    def iterdir(self) -> Iterator["Address"]:
        """Yields the files of a folder."""
        for name in _asked(self, lambda system: system.find(self.text, maxdepth=1)):
            yield self / name.rpartition("/")[2]

    def unlink(self) -> None:
        """Removes a file, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            _asked(self, lambda system: system.rm_file(self.text))

    def read_bytes(self) -> bytes:
        """Returns the content; InputError if it has more than `files.MAX_BYTES`."""
        if (size := self.stat().st_size) > files.MAX_BYTES:
            raise InputError(f"{self} is larger than {files.MAX_BYTES >> 20} MB.")
        return _range((self, 0, size))

    def open(self, mode: str = "rb", buffering: int = _READ_BYTES) -> io.BufferedReader:
        """Opens a file that is to be read in order."""
        return io.BufferedReader(_Stream(self), max(buffering, _READ_BYTES))


AnyPath = Path | Address


def place(path: str | AnyPath) -> AnyPath:
    """Returns an `Address` for an address of a store, else a `Path` with "~" expanded.

    Raises:
      InputError: it is another address; or as `address`.
    """
    if isinstance(path, Address):
        return path
    if str(path).startswith(SCHEMES):
        return address(str(path))
    refuse_remote("The place", path)
    return files.expanded(path)


def address(text: str) -> Address:
    """Returns the address of a store; InputError if it has a password, or a package is missing."""
    parts = urllib.parse.urlsplit(text)
    if parts.query or "@" in parts.netloc:
        raise InputError(
            f"An address at {parts.scheme}://{parts.hostname} contains a password or a query, "
            "which would appear in logs; leave it out: credentials are taken from the environment."
        )
    _system(parts.scheme)
    return Address(text.rstrip("/"))


@functools.cache  # fsspec itself keeps one for each thread, with a pool of connections for each
def _system(scheme: str) -> Any:
    """Returns fsspec's file system of a scheme."""
    with needs("gs" if scheme == "gs" else "s3"):
        try:
            import fsspec

            options = {"use_listings_cache": False} | _OPTIONS.get(scheme, {})
            return fsspec.filesystem(scheme, **options)
        except ImportError as error:  # fsspec's own does not name the package
            cause = error.__cause__ or error.__context__ or error
            raise ModuleNotFoundError(str(error), name=getattr(cause, "name", "fsspec")) from error


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_TOGETHER, "stores")


def _status(error: Exception) -> int:
    """Returns the HTTP status of an error, 0 if it states none."""
    if str(error).startswith("Forbidden: "):  # gcsfs's OSError
        return 403
    text = str(getattr(error, "status", None) or getattr(error, "code", ""))
    return int(text) if text.isdecimal() else 0


def _is_transient(error: Exception) -> bool:
    """Returns whether the same request may succeed later."""
    if status := _status(error):
        return status in (408, 425, 429) or status >= 500
    if isinstance(error, OSError):  # s3fs gives these numbers to the statuses 400, 412, 416 and 30x
        return errno.errorcode.get(error.errno or 0) not in ("EINVAL", "EREMCHG")
    return not _CONNECTION.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def _size(file: Address, info: dict[str, Any]) -> int:
    if info["size"] is None:
        raise InputError(f"{file}: the server states no Content-Length; choose another server.")
    return int(info["size"])


def _asked(file: Address, ask: Callable[[Any], Answer]) -> Answer:
    """Returns `ask(file system)`; repeats it after a transient fault, and raises as `ranges`."""
    for wait in (*_WAITS, None):
        try:
            return ask(_system(file.text.partition("://")[0]))
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(file)) from error
        except Exception as error:  # each of fsspec's packages has its own
            name = type(error).__name__
            denied = isinstance(error, PermissionError) or _status(error) in (401, 403)
            if denied or name in _NO_CREDENTIALS:
                raise InputError(
                    f"{file}: access is denied ({name}); give credentials with access in the "
                    "environment, for example AWS_PROFILE=NAME."
                ) from error
            if not _is_transient(error):
                reason = " ".join(str(error).split())  # botocore's has lines
                raise InputError(
                    f"{file} cannot be used ({name}: {reason}); correct the address or the store."
                ) from error
            if wait is None:
                raise RunAgain(
                    f"{file} cannot be reached just now ({name}: {error}); run the same "
                    "command again."
                ) from error
            time.sleep(wait)
    raise AssertionError  # not reached


def _range(span: tuple[Address, int, int]) -> bytes:
    file, start, end = span

    def ask(system: Any) -> bytes:
        data = system.cat_file(file.text, start=start, end=end)
        if len(data) > end - start:
            raise ValueError("the server does not answer ranges")
        if len(data) < end - start:
            raise OSError(f"{len(data)} bytes came in place of {end - start}")
        return data

    return _asked(file, ask)


def ranges(spans: Sequence[tuple[Address, int, int]]) -> list[bytes]:
    """Returns the bytes of ranges (file, first byte, end), which are requested concurrently.

    Raises:
      FileNotFoundError: there is no such file.
      InputError: access is denied, or the store refuses the request.
      RunAgain: the store did not answer at six attempts.
    """
    return [*_threads().map(_range, spans)]


class _Stream(io.RawIOBase):
    """A file of a store; each read requests one range, as long as the buffer."""

    def __init__(self, address: Address):
        self._address, self._size, self._position = address, address.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        start, end = self._position, min(self._position + len(buffer), self._size)
        self._position = end
        buffer[: end - start] = _range((self._address, start, end)) if end > start else b""
        return end - start


def sizes_of(paths: Sequence[AnyPath]) -> list[int | OSError]:
    """Returns the size of each file, or the error; a store is asked for all concurrently."""

    def size(path: AnyPath) -> int | OSError:
        try:
            return path.stat().st_size
        except OSError as error:
            return error

    stored = any(isinstance(path, Address) for path in paths)
    return [*(_threads().map(size, paths) if stored else map(size, paths))]


def _check_room(place: Address, size: int, folder: Path) -> None:
    if size > (free := shutil.disk_usage(folder).free):
        raise RunAgain(
            f"{place} needs {size_text(size)} for copies in {folder}, whose disk has "
            f"{size_text(free)} free; make room, or name another folder: export "
            "XDG_CACHE_HOME=FOLDER, or for photographs of adapt --model_dir=FOLDER."
        )


def _version(entry: dict[str, Any]) -> str:
    """Returns what changes with a file's content: a checksum, else the time of its change."""
    fields = ("ETag", "md5Hash", "etag", "LastModified", "mtime", "created")
    return str(next((entry[field] for field in fields if entry.get(field)), ""))


def upload(path: Path, file: Address) -> None:
    """Copies a local file to a store; raises as `ranges`, and InputError without the bucket."""

    def send(system: Any) -> None:
        system.put_file(str(path), file.text)
        if (size := int(system.info(file.text)["size"])) != path.stat().st_size:
            raise OSError(f"{size} bytes arrived of {path.stat().st_size}")

    try:
        _asked(file, send)
    except FileNotFoundError as error:
        raise InputError(f"{file} cannot be written; there is no such bucket.") from error


def copied(text: str, folder: Path) -> Path:
    """Copies a file or folder from a store into `folder`; returns the path of the copy.

    A file stays as long as the store states the same size and checksum (or time of change) as in
    `folder`.json, the note of the last call. The folder of a CSV file comes with it.

    Raises:
      InputError: there is no file, a name leads out of the folder, or a CSV file lies at the root
        of a bucket; or as `ranges`.
      RunAgain: the disk has too little room; or as `ranges`.
    """
    named = address(text)
    whole = named.parent if named.name.lower().endswith(".csv") else named
    base = whole.parent
    if whole != named and base.text.endswith(":/"):
        raise InputError(
            f"{named} lies at the root of a bucket, all of which would be copied; move the list "
            "and its images into a folder."
        )
    root = f"{base.text.partition('://')[2]}/"
    found = _asked(whole, lambda system: system.find(whole.text, detail=True))
    entries = {  # by names that fsspec states without the scheme; "p/" marks an empty folder
        name.lstrip("/").removeprefix(root): entry
        for name, entry in found.items()
        if not name.endswith("/")
    }
    sizes = {name: int(entry["size"]) for name, entry in entries.items()}
    versions = {name: _version(entry) for name, entry in entries.items()}
    if not sizes:
        raise InputError(f"{named} holds no file; give the address of a folder or an archive.")
    if bad := [name for name in sizes if files.leads_out(name)]:
        raise InputError(f"{whole} holds {bad[0]!r}, which is no name of a file; rename it.")
    folders = {parent for name in sizes for parent in map(str, PurePosixPath(name).parents)}
    if clash := sorted(folders & sizes.keys()):
        raise InputError(f"{whole} holds {clash[0]!r} as a file and as a folder; rename one.")
    known, note = dict[str, str](), folder.with_name(f"{folder.name}.json")
    with contextlib.suppress(OSError, ValueError):  # absent or damaged: all is copied
        known = json.loads(note.read_text("utf-8"))
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        name = path.relative_to(folder).as_posix()
        if path.stat().st_size != sizes.get(name) or versions[name] != known.get(name):
            path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(note, versions)  # before the copies: a copy that is cut has another size

    def copy(name: str) -> int:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:
            for start in range(0, sizes[name], _READ_BYTES):
                end = min(start + _READ_BYTES, sizes[name])
                file.write(_range((base / name, start, end)))
        return sizes[name]

    missing = [name for name in sizes if not (folder / name).exists()]
    total = sum(sizes[name] for name in missing)
    _check_room(named, total, folder)
    with progress.throughput("Downloading", len(missing), total) as advance:
        for size in _threads().map(copy, missing):
            advance(1, size)
    return folder / named.text.removeprefix(f"{base}/")


def copies_folder() -> Path:
    """Returns the folder for copies of what lies in stores."""
    import platformdirs

    return files.expanded(platformdirs.user_cache_dir("squeezenext")) / "stores"


class Copies:
    """Copies of shards on this machine, filled block by block as their records are needed.

    A block is fetched once, also over several runs. What reads local files reads the copies.

    Args:
      shards: addresses of the shards.
      sizes: their sizes in bytes.
      content: a digest of what they hold.

    Raises:
      RunAgain: the disk has too little room for all shards.
    """

    def __init__(self, shards: Sequence[Address], sizes: Sequence[int], content: str):
        self._shards, self._sizes, self._lock = shards, sizes, threading.Lock()
        # The address, too: a stranger's manifest may state the digests of other data.
        key = hashlib.sha256(f"{shards[0].parent} {content}".encode()).hexdigest()[:16]
        folder = copies_folder() / key
        folder.mkdir(parents=True, exist_ok=True)
        self.paths = [folder / shard.name for shard in shards]
        # Number of each shard's first block, and behind the last one the number of all blocks.
        self._first = np.cumsum([0, *(-(-size // BLOCK) for size in sizes)])
        marks, count = folder / ".blocks", max(1, int(self._first[-1]))
        for path, size in zip([*self.paths, marks], [*sizes, count], strict=True):
            with path.open("ab") as file:
                file.truncate(size)  # takes no room until it is written
        self._here = np.memmap(marks, np.uint8, "r+")  # of each block: 1 if it is here
        _check_room(shards[0].parent, int((self._here == 0).sum()) * BLOCK, folder.parent)

    def bring(self, rows: np.ndarray, anew: bool = False) -> None:
        """Fetches the blocks of records, [n] of `reader.INDEX_DTYPE`, that are not copied yet.

        With `anew` those that are here are fetched, too. Raises as `ranges`.
        """
        first = self._first[rows["shard"]]
        begin = first + rows["offset"] // BLOCK
        end = first + (rows["offset"] + rows["length"] - 1) // BLOCK + 1
        blocks = np.unique([n for pair in zip(begin, end, strict=True) for n in range(*pair)])
        if anew or not self._here[blocks].all():
            with self._lock:  # another thread may be fetching some of them
                missing = blocks if anew else blocks[self._here[blocks] == 0]
                for start in range(0, len(missing), _TOGETHER):
                    self._fetch(missing[start : start + _TOGETHER])

    def _fetch(self, blocks: np.ndarray) -> None:
        shards = np.searchsorted(self._first, blocks, "right") - 1
        starts = (blocks - self._first[shards]) * BLOCK
        parts = list(zip(shards.tolist(), starts.tolist(), strict=True))
        spans = [(self._shards[n], at, min(at + BLOCK, self._sizes[n])) for n, at in parts]
        for (number, at), data in zip(parts, ranges(spans), strict=True):
            with self.paths[number].open("r+b") as file:
                file.seek(at)
                file.write(data)
        self._here[blocks] = 1  # only now: what is marked has been written
