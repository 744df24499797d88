"""Published models by name, each downloaded once and kept as a model directory in the user's cache.

The folder that the environment variable SQUEEZENEXT_WEIGHTS names is searched first, for files of
the right checksums whatever their names, so that no network is needed. Where a file's SHA-256 is
not known in full, that of the first download with its other checksums is written down in the cache,
and from then on the file must have all of them.
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
import struct
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from squeezenext import files, labels
from squeezenext.arguments import is_hub
from squeezenext.cli import FULL
from squeezenext.config.zoo import PUBLISHED, File
from squeezenext.errors import InputError
from squeezenext.model import directory as model_directory

FORMAT = 2  # version of the model directories in the cache; a new one makes them anew
_DIGITS = 64  # of a whole SHA-256
_MOST = 64 << 20  # bytes of a file, of the zip or tar.gz that holds it, and of what is unpacked
_SECONDS = 1800.0  # for a download, however slowly the server sends
_ANOTHER = "its checksum is another"


def local(name: str | Path, kind: str = "model", run: bool = False) -> Path:
    """Returns a path that a user names, which may be an address of the Hub; see `hub.fetched`."""
    if not is_hub(name):
        return files.expanded(name)
    from squeezenext.model import hub

    with _writable(cache().parent):
        return hub.fetched(name, cache().parent / "hub", kind, run)


def resolve(name: str | Path) -> Path:
    """Returns the model directory that a user names: a folder, a published model or one of the Hub.

    Raises:
      InputError: there is neither, or the published files cannot be downloaded.
    """
    if not str(name):
        raise InputError("The name of the model is empty; name a folder or a published model.")
    path = local(name)
    if path.exists() or str(name) not in PUBLISHED:
        if not path.exists():
            raise InputError(
                f"There is no model directory {name}, nor a file of that name; give a folder that "
                "training made, a file such as mine/exported/model.sqz, or a published model, such "
                "as squeezenet_v1_1 (docs/weights.md lists them)."
            )
        if not path.is_dir():
            raise InputError(f"{name} is no model directory, but {_described(path)}.")
        return path
    key = PUBLISHED[str(name)].files[-1].key
    directory = cache() / f"{name}-{key[:12]}-{FORMAT}"
    if not _whole(directory):
        import filelock

        with _writable(directory.parent):
            directory.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(directory.with_name(f"{directory.name}.lock")):
                if not _whole(directory):
                    shutil.rmtree(directory, ignore_errors=True)
                    _install(str(name), directory)
    return directory


def _described(path: Path) -> str:
    from squeezenext.formats import kinds

    return kinds.described(path)


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turns an OSError, but for a full disk, into an InputError that names the cache's variable."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        raise InputError(
            f"The cache {folder} cannot be written ({error.strerror}); name a folder of yours for "
            "it: export XDG_CACHE_HOME=FOLDER."
        ) from error


def _whole(directory: Path) -> bool:
    """Says whether a directory holds the very network that was once made from checked files."""
    saved = directory / model_directory.CHECKPOINTS / "step-00000000"
    sha256 = model_directory.read_json(saved / "META.json").get("litert_sha256")
    file = directory / model_directory.LITERT
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256


def _install(name: str, directory: Path) -> None:
    from squeezenext.model import importing

    published = PUBLISHED[name]
    contents = download(published.files, "SQUEEZENEXT_WEIGHTS", cache() / "files")
    origin = {"url": published.files[-1].url, "licence": published.licence}
    classes = labels.imagenet()
    config = published.config()
    importing.import_weights(published.format, contents, config, directory, classes, origin)


def cache() -> Path:
    """Returns the folder of published models."""
    import platformdirs

    return files.expanded(platformdirs.user_cache_dir("squeezenext")) / "models"


def download(wanted: Sequence[File], variable: str, folder: Path) -> dict[Path, bytes]:
    """Returns the checked contents of files of the internet, by path; each is downloaded once.

    Args:
      wanted: the files.
      variable: environment variable, which may name a folder that holds the files under any names,
        so that no network is needed.
      folder: the cache.

    Raises:
      InputError: files cannot be downloaded, or are others than they were; all are named.
    """
    given, found, faults = _given(variable), dict[Path, bytes](), []
    for file in wanted:
        try:
            path, content = _found(file, given, folder)
        except _NotFound as error:
            faults.append(str(error))
            continue
        found[path] = content
        if path == folder / file.key and len(file.sha256) < _DIGITS:  # it was downloaded
            with _writable(folder):
                _write_down(content, _note(file, folder))
    if faults:
        raise InputError(f"{'; '.join(faults)}. {_advice(variable, len(faults))}")
    return found


class _NotFound(Exception):
    """A file cannot be had: where it was looked for, and why it was not taken."""


def _found(wanted: File, given: Sequence[Path], folder: Path) -> tuple[Path, bytes]:
    """Returns a file and its content: from the folder that was given, the cache or the internet."""
    kept, faults = folder / wanted.key, []
    for path, content in _held(wanted, given, kept):
        if not (fault := _fault(content, wanted, folder)):
            return path, content
        if fault != _ANOTHER:
            faults.append(f"{path} is not the file it was: {fault}")
    for url in (wanted.url, *wanted.mirrors):
        try:
            content = _fetched(url, wanted)
        except _NotFound as error:
            faults.append(str(error))
            continue
        if not (fault := _fault(content, wanted, folder)):
            with _writable(folder):
                folder.mkdir(parents=True, exist_ok=True)
                files.write_bytes(kept, content)
            return kept, content
        faults.append(f"{url} is not the file it was: {fault}")
    raise _NotFound("; ".join(faults))


def _given(variable: str) -> list[Path]:
    """Returns what lies in the folder that an environment variable names."""
    folder = os.path.expanduser(os.environ.get(variable, ""))
    try:
        return sorted(Path(folder).iterdir()) if folder else []
    except OSError:  # the files may be in the cache, and `_advice` says it if they are not
        return []


def _advice(variable: str, missing: int) -> str:
    """Returns what to do about missing files, and what is wrong with the folder that was named."""
    them, lacks = ("it", "it") if missing == 1 else ("them", "these files")
    folder = os.path.expanduser(os.environ.get(variable, ""))
    if not folder:
        return (
            f"Fetch {them} elsewhere, put {them} into a folder and name it: "
            f"export {variable}=FOLDER."
        )
    if not os.path.isdir(folder):
        return f"{variable} names {folder}, which is no folder; correct it, or fetch {them} there."
    return f"{variable} names {folder}, which lacks {lacks}; fetch {them} there."


def _held(wanted: File, given: Sequence[Path], kept: Path) -> Iterator[tuple[Path, bytes]]:
    """Yields what may be the file: files as they are, then what a zip or tar.gz holds."""
    for path in (*given, kept):
        if content := _read(path, wanted.bytes):
            yield path, content
    for path in given if wanted.member else ():
        if path.name.endswith((".zip", ".tar.gz")):
            yield path / wanted.member, _member(_read(path), wanted)


def _read(path: Path, size: int | None = None) -> bytes:
    """Returns a file's content; b"" if it cannot be read, is too large or has another size."""
    with contextlib.suppress(OSError, InputError):  # a folder or a link to nothing, for example
        if size in (None, path.stat().st_size):
            return files.read_bytes(path, _MOST)
    return b""


def _fault(data: bytes, wanted: File, folder: Path) -> str:
    """Says which checksum, known or written down, a file does not have; "" if it has all."""
    known = [entry.split(":") for entry in (f"sha256:{wanted.sha256}", *wanted.sums)]
    if not all(_sum(data, kind).startswith(digits) for kind, digits in known):
        return _ANOTHER
    note, sha256 = _note(wanted, folder), _sum(data, "sha256")
    if _noted(note) in ("", sha256):
        return ""
    return (
        f"its SHA-256 is {sha256}, and that of the first download was {_noted(note)}; if the "
        f"present one is right, remove {note}"
    )


def _sum(data: bytes, kind: str) -> str:
    """Returns a checksum in hexadecimal digits; "git" is that of a blob."""
    if kind == "git":
        kind, data = "sha1", b"blob %d\0" % len(data) + data
    return hashlib.new(kind, data).hexdigest()


def _note(file: File, folder: Path) -> Path:
    return folder / f"{file.key}.sha256"


def _noted(note: Path) -> str:
    """Returns the SHA-256 that was written down, or "" if there is no whole one."""
    try:
        text = files.read_text(note).strip()
    except (InputError, UnicodeDecodeError):
        return ""
    return text if re.fullmatch(f"[0-9a-f]{{{_DIGITS}}}", text) else ""


def _write_down(data: bytes, note: Path) -> None:
    """Writes the SHA-256 of a file down, of which only weaker checksums are known."""
    if not _noted(note):
        files.write_text(note, _sum(data, "sha256") + "\n")


def _member(data: bytes, wanted: File) -> bytes:
    """Returns a file of a zip or tar.gz; b"" if it is damaged or another one."""
    import gzip
    import lzma
    import tarfile
    import zlib

    if wanted.archive_sha256 not in ("", _sum(data, "sha256")):
        return b""
    try:
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(wanted.member) as file:
                return file.read(_MOST)
        with gzip.open(io.BytesIO(data)) as stream:  # tarfile would unpack any number of bytes
            unpacked = io.BytesIO(stream.read(_MOST))
        with tarfile.open(fileobj=unpacked, mode="r:") as archive:
            inside = archive.extractfile(wanted.member)
            return inside.read(_MOST) if inside else b""
    except (OSError, EOFError, KeyError, ValueError, RuntimeError, tarfile.TarError,
            zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error):  # fmt: skip
        return b""


def _fetched(url: str, wanted: File) -> bytes:
    import http.client

    whole = None if wanted.member else wanted.bytes
    try:
        with _opened(url) as response:
            content = _received(response, _MOST if whole is None else whole + 1)
        if whole is not None and len(content) < whole:
            raise OSError(f"{len(content):,} of {whole:,} bytes came")
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise _NotFound(f"{url} cannot be fetched ({error})") from error
    return _member(content, wanted) if wanted.member else content


def _opened(url: str) -> io.BufferedIOBase:
    """Opens an https address; without a handler for http, no redirect leads there either."""
    from urllib import request

    opener = request.OpenerDirector()
    for handler in (request.ProxyHandler, request.HTTPSHandler, request.HTTPRedirectHandler,
                    request.HTTPErrorProcessor, request.HTTPDefaultErrorHandler,
                    request.UnknownHandler):  # fmt: skip
        opener.add_handler(handler())
    return opener.open(url, timeout=60)


def _received(response: io.BufferedIOBase, most: int) -> bytes:
    """Reads up to `most` bytes; the timeout of a socket begins anew with each byte."""
    deadline, content = time.monotonic() + _SECONDS, bytearray()
    while len(content) < most and (data := response.read1(min(1 << 16, most - len(content)))):
        content += data
        if time.monotonic() > deadline:
            raise TimeoutError(f"it took over {_SECONDS:g} s")
    return bytes(content)
