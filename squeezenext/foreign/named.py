"""Model directories by name: a folder, or a published model that is fetched once and kept.

What is fetched is checked against its SHA-256 and kept in the user's cache as a model directory.
The folder SQUEEZENEXT_WEIGHTS is looked in first, for files of those SHA-256 whatever their names,
so that no network is needed.
"""

import os
from pathlib import Path

from squeezenext import config_io, labels  # what is heavier is imported where it is used
from squeezenext.errors import InputError
from squeezenext.foreign.published import PUBLISHED, File, Published


def resolve(name: str | Path) -> Path:
    """Returns the model directory that a user means: a folder, or a published model's name.

    Raises:
      InputError: there is neither, or the published files cannot be had.
    """
    path = Path(name)
    if path.exists() or str(name) not in PUBLISHED:
        if not path.is_dir():
            raise InputError(
                f"There is no model directory {name}; published models are {', '.join(PUBLISHED)}."
            )
        return path
    published = PUBLISHED[str(name)]
    directory = cache() / f"{name}-{published.files[-1].sha256[:12]}"
    if not (directory / "model.tflite").is_file():
        import filelock

        directory.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(directory / ".lock"):
            if not (directory / "model.tflite").is_file():
                _install(published, directory)
    return directory


def _install(published: Published, directory: Path) -> None:
    from squeezenext.foreign import importing

    config = config_io.load(published.configuration)
    paths = [_fetch(file) for file in published.files]
    origin = {"url": published.files[-1].url, "licence": published.licence}
    importing.import_weights(
        published.format, paths, config, directory, labels.imagenet(), origin, quiet=True
    )


def cache() -> Path:
    """Returns the folder of fetched models."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("squeezenext")) / "models"


def _fetch(wanted: File) -> Path:
    """Returns a published file, from SQUEEZENEXT_WEIGHTS, the cache or its home."""
    import hashlib

    from squeezenext import atomic

    folder = os.environ.get("SQUEEZENEXT_WEIGHTS")
    for path in sorted(Path(folder).iterdir()) if folder and Path(folder).is_dir() else []:
        if path.is_file() and path.stat().st_size == wanted.bytes:
            if hashlib.sha256(path.read_bytes()).hexdigest() == wanted.sha256:
                return path
    path = cache() / "files" / wanted.sha256
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        content = _download(wanted)
        atomic.write_file(path, lambda file: file.write_bytes(content))
    return path


def _download(wanted: File) -> bytes:
    import hashlib
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(wanted.url, timeout=60) as response:
            content = response.read(wanted.bytes + 1)
    except (urllib.error.URLError, OSError) as error:
        raise InputError(
            f"{wanted.url} cannot be fetched ({error}); fetch it elsewhere, put it into a "
            "folder and name that folder in SQUEEZENEXT_WEIGHTS."
        ) from error
    if hashlib.sha256(content).hexdigest() != wanted.sha256:
        raise InputError(f"{wanted.url} is not the file it was: its SHA-256 is another.")
    return content
