"""Published models by name, each downloaded once and kept as a model directory in the user's cache.

The folder that the environment variable SQUEEZENEXT_WEIGHTS names is searched first, for files of
the right checksums whatever their names, so that no network is needed. Where a file's SHA-256 is
not known in full, that of the first file with its other checksums is written down in the cache, and
from then on the file must have all of them.
"""

import contextlib
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from squeezenext import files, labels
from squeezenext.cli import FULL
from squeezenext.config.zoo import PUBLISHED, File
from squeezenext.errors import InputError
from squeezenext.model import directory as model_directory

FORMAT = 2  # version of the model directories in the cache; a new one makes them anew


def resolve(name: str | Path) -> Path:
    """Returns the model directory that a user names: a folder, or a published model.

    Raises:
      InputError: there is neither, or the published files cannot be downloaded.
    """
    if not str(name):
        raise InputError("The name of the model is empty; name a folder or a published model.")
    path = files.expanded(name)
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
    paths = download(published.files, "SQUEEZENEXT_WEIGHTS", cache() / "files")
    origin = {"url": published.files[-1].url, "licence": published.licence}
    classes = labels.imagenet()
    config = published.config()
    importing.import_weights(published.format, paths, config, directory, classes, origin)


def cache() -> Path:
    """Returns the folder of published models."""
    import platformdirs

    return files.expanded(platformdirs.user_cache_dir("squeezenext")) / "models"


def download(wanted: Sequence[File], variable: str, folder: Path) -> list[Path]:
    """Returns files of the internet, each downloaded once and checked whenever it is read.

    Args:
      wanted: the files.
      variable: environment variable, which may name a folder that holds the files under any names,
        so that no network is needed.
      folder: the cache.

    Raises:
      InputError: files cannot be downloaded, or are others than they were; all are named.
    """
    given, found, faults = _given(variable), [], []
    for file in wanted:
        kept = folder / file.key
        path = next((path for path in [*given, kept] if _is(path, file, folder)), None)
        if path is None:
            try:
                content = _unpacked(given, file, folder) or _content(file, folder)
            except _NotFetched as error:
                faults.append(str(error))
                continue
            with _writable(folder):
                folder.mkdir(parents=True, exist_ok=True)
                files.write_bytes(path := kept, content)
        if len(file.sha256) < _DIGITS:
            with _writable(folder):
                _write_down(path, file, folder)
        found.append(path)
    if faults:
        raise InputError(f"{'; '.join(faults)}. {_advice(variable, len(faults))}")
    return found


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


_DIGITS = 64  # of a whole SHA-256
_MOST = 64 << 20  # bytes of a file, and of the zip or tar.gz that holds it


def _is(path: Path, wanted: File, folder: Path) -> bool:
    if not path.is_file() or path.stat().st_size > _MOST:
        return False
    return wanted.bytes in (None, path.stat().st_size) and _fits(path.read_bytes(), wanted, folder)


def _fits(data: bytes, wanted: File, folder: Path) -> bool:
    """Says whether a file has every checksum that is known of it or was written down."""
    sums = [f"sha256:{wanted.sha256}", *wanted.sums]
    if (note := _note(wanted, folder)).is_file():
        sums.append(f"sha256:{files.read_text(note).strip()}")
    return all(_sum(data, kind).startswith(known) for kind, known in (x.split(":") for x in sums))


def _sum(data: bytes, kind: str) -> str:
    """Returns a checksum in hexadecimal digits; "git" is that of a blob."""
    if kind == "git":
        kind, data = "sha1", b"blob %d\0" % len(data) + data
    return hashlib.new(kind, data).hexdigest()


def _note(file: File, folder: Path) -> Path:
    return folder / f"{file.key}.sha256"


def _write_down(path: Path, file: File, folder: Path) -> None:
    """Writes the SHA-256 of a file down, of which only weaker checksums are known."""
    if not (note := _note(file, folder)).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(note, hashlib.sha256(path.read_bytes()).hexdigest() + "\n")


def _unpacked(given: Sequence[Path], wanted: File, folder: Path) -> bytes | None:
    """Returns the file from a zip or tar.gz in the folder that was given."""
    if not wanted.member:
        return None
    for path in given:
        if path.name.endswith((".zip", ".tar.gz")) and path.stat().st_size <= _MOST:
            content = _member(path.read_bytes(), wanted)
            if _fits(content, wanted, folder):
                return content
    return None


def _member(data: bytes, wanted: File) -> bytes:
    """Returns a file of a zip or tar.gz; b"" if it is damaged or another one."""
    import tarfile
    import zlib

    if wanted.archive_sha256 not in ("", _sum(data, "sha256")):
        return b""
    try:
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(wanted.member) as file:
                return file.read(_MOST)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            inside = archive.extractfile(wanted.member)
            return inside.read(_MOST) if inside else b""
    except (OSError, EOFError, KeyError, ValueError, RuntimeError, tarfile.TarError,
            zipfile.BadZipFile, zlib.error):  # fmt: skip
        return b""


class _NotFetched(Exception):
    """A file cannot be downloaded: its addresses and why."""


def _content(wanted: File, folder: Path) -> bytes:
    faults = []
    for url in (wanted.url, *wanted.mirrors):
        try:
            return _fetched(url, wanted, folder)
        except _NotFetched as error:
            faults.append(str(error))
    raise _NotFetched("; ".join(faults))


def _fetched(url: str, wanted: File, folder: Path) -> bytes:
    import http.client
    import urllib.request

    whole = None if wanted.member else wanted.bytes
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            content = response.read(_MOST if whole is None else whole + 1)
            if whole is not None and len(content) < whole:
                raise OSError(f"{len(content):,} of {whole:,} bytes came")
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise _NotFetched(f"{url} cannot be fetched ({error})") from error
    if wanted.member:
        content = _member(content, wanted)
    if not _fits(content, wanted, folder):
        raise _NotFetched(f"{url} is not the file it was: its checksum is another")
    return content
