"""Published models by name, each downloaded once and kept as a model directory in the user's cache.

The folder that the environment variable SQUEEZENEXT_WEIGHTS names is searched first, for files of
the right SHA-256 whatever their names, so that no network is needed.
"""

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from squeezenext import files, labels
from squeezenext.cli import FULL
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.model import directory as model_directory


@dataclasses.dataclass(frozen=True)
class File:
    """A file on the internet that is always the same."""

    url: str
    sha256: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights on the internet of the configuration that has the model's name."""

    format: str
    files: tuple[File, ...]
    licence: str


_GITHUB = "https://raw.githubusercontent.com"
_NIHUI = f"{_GITHUB}/nihui/ncnn-assets/master/models"
_ZCHRISSIRHCZ = (
    f"{_GITHUB}/zchrissirhcz/squeezenet-ncnn-pnnx-opencv-cpp/"
    "fc56736098dd40b834912d7409d4ab4931b30802"
)
# By name of the model and of its configuration.
PUBLISHED = {
    "squeezenet_v1_0": Published(
        "deep_compression",
        (
            File(
                f"{_GITHUB}/songhan/SqueezeNet-Deep-Compression/master/compressed_SqueezeNet.net",
                "e4ab6960ae8cd81505e1c2136921201507e930966c53deaf15862a395b3a3261",
                675_763,
            ),
        ),
        "BSD (songhan/SqueezeNet-Deep-Compression)",
    ),
    "squeezenet_v1_1": Published(
        "ncnn",
        (
            File(
                f"{_NIHUI}/squeezenet_v1.1.param",
                "6a38784ab51f056e5ecdf208120f8a9174b74831255e66b74c4dd6bf755a4324",
                7_145,
            ),
            File(
                f"{_NIHUI}/squeezenet_v1.1.bin",
                "928c82c485a16064df88794d83c333025055e60c08f73217222244ab0ed2dbc6",
                2_478_984,
            ),
        ),
        "BSD (forresti/SqueezeNet, converted in nihui/ncnn-assets)",
    ),
    "squeezenet_v1_1_torchvision": Published(
        "ncnn",
        (
            File(
                f"{_ZCHRISSIRHCZ}/squeezenet_v1.1.ncnn.param",
                "7dfb3045edf49f199ccc03dfc262956c6b9f38089b14d32a273aa8463c49c46b",
                4_629,
            ),
            File(
                f"{_ZCHRISSIRHCZ}/squeezenet_v1.1.ncnn.bin",
                "3de9f2f9dbbbc4468fe452d9033300633b60748073a9509a7ea882caec57e544",
                2_478_984,
            ),
        ),
        "BSD (pytorch/vision, converted in zchrissirhcz/squeezenet-ncnn-pnnx-opencv-cpp)",
    ),
}

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
                f"There is no model directory {name}; give a folder that training made, such as "
                f"runs/mine, or a published model: {', '.join(PUBLISHED)}."
            )
        if not path.is_dir():
            raise InputError(f"{name} is no model directory, but {_described(path)}.")
        return path
    sha256 = PUBLISHED[str(name)].files[-1].sha256
    directory = cache() / f"{name}-{sha256[:12]}-{FORMAT}"
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

    published, config = PUBLISHED[name], config_io.load(name)
    paths = download(published.files, "SQUEEZENEXT_WEIGHTS", cache() / "files")
    origin = {"url": published.files[-1].url, "licence": published.licence}
    classes = labels.imagenet()
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
    held = [*_given(variable), *(folder / file.sha256 for file in wanted)]
    faults = []
    for file in wanted:
        if not any(_is(path, file) for path in held):
            try:
                content = _content(file)
            except _NotFetched as error:
                faults.append(str(error))
                continue
            with _writable(folder):
                folder.mkdir(parents=True, exist_ok=True)
                files.write_bytes(folder / file.sha256, content)
    if faults:
        raise InputError(f"{'; '.join(faults)}. {_advice(variable, len(faults))}")
    return [next(path for path in held if _is(path, file)) for file in wanted]


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


def _is(path: Path, wanted: File) -> bool:
    if not path.is_file() or path.stat().st_size != wanted.bytes:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == wanted.sha256


class _NotFetched(Exception):
    """A file cannot be downloaded: its address and why."""


def _content(wanted: File) -> bytes:
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(wanted.url, timeout=60) as response:
            content = response.read(wanted.bytes + 1)
            if len(content) < wanted.bytes:
                raise OSError(f"{len(content):,} of {wanted.bytes:,} bytes came")
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise _NotFetched(f"{wanted.url} cannot be fetched ({error})") from error
    if hashlib.sha256(content).hexdigest() != wanted.sha256:
        raise _NotFetched(f"{wanted.url} is not the file it was: its SHA-256 is another")
    return content
