"""The published weights that have a name here: where they are, and how to read them."""

import dataclasses
import os
from pathlib import Path

from squeezenext import labels  # what is heavier is imported where it is used
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
    """Weights on the internet, and how to read them."""

    configuration: str
    format: str
    files: tuple[File, ...]
    licence: str


_GITHUB = "https://raw.githubusercontent.com"
_NIHUI = f"{_GITHUB}/nihui/ncnn-assets/master/models"
_ZCHRISSIRHCZ = (
    f"{_GITHUB}/zchrissirhcz/squeezenet-ncnn-pnnx-opencv-cpp/"
    "fc56736098dd40b834912d7409d4ab4931b30802"
)
PUBLISHED = {
    "squeezenet_v1_0": Published(
        "squeezenet_v1_0",
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
        "squeezenet_v1_1",
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
        "squeezenet_v1_1_torchvision",
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


# Model directories by name: a folder, or a published model that is fetched once and kept.
#
# What is fetched is checked against its SHA-256 and kept in the user's cache as a model
# directory. The folder SQUEEZENEXT_WEIGHTS is looked in first, for files of those SHA-256 whatever
# their names, so that no network is needed.


FORMAT = 2  # of the directories in the cache; another makes them anew


def resolve(name: str | Path) -> Path:
    """Returns the model directory that a user means: a folder, or a published model's name.

    Raises:
      InputError: there is neither, or the published files cannot be had.
    """
    path = Path(name)
    if path.exists() or str(name) not in PUBLISHED:
        if path.suffix in (".sqz", ".tflite"):
            told = "is a file; a model directory is needed" if path.exists() else "is absent"
            raise InputError(f"{name} {told}.")
        if not path.is_dir():
            raise InputError(
                f"There is no model directory {name}; published models are {', '.join(PUBLISHED)}."
            )
        return path
    published = PUBLISHED[str(name)]
    directory = cache() / f"{name}-{published.files[-1].sha256[:12]}-{FORMAT}"
    if not _whole(directory):
        import filelock

        directory.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(directory.with_name(f"{directory.name}.lock")):
            if not _whole(directory):
                import shutil

                shutil.rmtree(directory, ignore_errors=True)
                _install(published, directory)
    return directory


def _whole(directory: Path) -> bool:
    """Whether a directory holds the network that was once made of checked files, bit for bit."""
    import hashlib
    import json

    try:
        saved = directory / model_directory.CHECKPOINTS / "step-00000000"
        meta = json.loads((saved / "META.json").read_text("utf-8"))
        content = (directory / model_directory.LITERT).read_bytes()
    except (OSError, ValueError):
        return False
    return hashlib.sha256(content).hexdigest() == meta.get("litert_sha256")


def _install(published: Published, directory: Path) -> None:
    from squeezenext.model import importing

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

    from squeezenext import files

    folder = os.environ.get("SQUEEZENEXT_WEIGHTS")
    for path in sorted(Path(folder).iterdir()) if folder and Path(folder).is_dir() else []:
        if path.is_file() and path.stat().st_size == wanted.bytes:
            if hashlib.sha256(path.read_bytes()).hexdigest() == wanted.sha256:
                return path
    path = cache() / "files" / wanted.sha256
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != wanted.sha256:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = _download(wanted)
        files.write_bytes(path, content)
    return path


def _download(wanted: File) -> bytes:
    import hashlib
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(wanted.url, timeout=60) as response:
            content = response.read(wanted.bytes + 1)
            if len(content) < wanted.bytes:
                raise OSError(f"{len(content):,} of {wanted.bytes:,} bytes came")
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise InputError(
            f"{wanted.url} cannot be fetched ({error}); fetch it elsewhere, put it into a "
            "folder and name that folder in SQUEEZENEXT_WEIGHTS."
        ) from error
    if hashlib.sha256(content).hexdigest() != wanted.sha256:
        raise InputError(f"{wanted.url} is not the file it was: its SHA-256 is another.")
    return content
