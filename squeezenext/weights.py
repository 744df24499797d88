"""Weights made elsewhere: published models by name, and files of other programs.

    python -m squeezenext.weights import --format deep_compression --input FILE \\
        --configuration squeezenet_v1_0 --model_dir DIR

A published model is fetched once from its public home, checked against its SHA-256 and kept in
the user's cache as a model directory. The folder SQUEEZENEXT_WEIGHTS is looked in first, for a
file of that SHA-256 whatever its name, so that no network is needed.
"""

import dataclasses
import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import filelock
import numpy as np
import platformdirs
from absl import flags

from squeezenext import atomic, checkpoint, config_io, deep_compression, labels
from squeezenext.config import Config, SqueezeNet
from squeezenext.errors import InputError
from squeezenext.flags import run

FORMATS = ("deep_compression",)


@dataclasses.dataclass(frozen=True)
class Published:
    """A file of weights on the internet, and how to read it."""

    configuration: str
    format: str
    url: str
    sha256: str
    bytes: int
    licence: str


PUBLISHED = {
    "squeezenet_v1_0": Published(
        "squeezenet_v1_0",
        "deep_compression",
        "https://raw.githubusercontent.com/songhan/SqueezeNet-Deep-Compression/master/"
        "compressed_SqueezeNet.net",
        "e4ab6960ae8cd81505e1c2136921201507e930966c53deaf15862a395b3a3261",
        675_763,
        "BSD (songhan/SqueezeNet-Deep-Compression)",
    ),
}


def resolve(name: str | Path) -> Path:
    """Returns the model directory that a user means: a folder, or a published model's name.

    Raises:
      InputError: there is neither, or the published file cannot be had.
    """
    path = Path(name)
    if path.exists() or str(name) not in PUBLISHED:
        if not path.is_dir():
            raise InputError(
                f"There is no model directory {name}; published models are {', '.join(PUBLISHED)}."
            )
        return path
    published = PUBLISHED[str(name)]
    directory = cache() / f"{name}-{published.sha256[:12]}"
    if not (directory / "model.tflite").is_file():
        directory.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(directory / ".lock"):
            if not (directory / "model.tflite").is_file():
                config = config_io.load(published.configuration)
                import_weights(published.format, _fetch(published), config, directory)
    return directory


def cache() -> Path:
    """Returns the folder of fetched models."""
    return Path(platformdirs.user_cache_dir("squeezenext")) / "models"


def _fetch(published: Published) -> Path:
    """Returns the published file, from SQUEEZENEXT_WEIGHTS, the cache or its home."""
    folder = os.environ.get("SQUEEZENEXT_WEIGHTS")
    for path in sorted(Path(folder).iterdir()) if folder and Path(folder).is_dir() else []:
        if path.is_file() and path.stat().st_size == published.bytes:
            if hashlib.sha256(path.read_bytes()).hexdigest() == published.sha256:
                return path
    path = cache() / "files" / published.sha256
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        content = _download(published)
        atomic.write_file(path, lambda file: file.write_bytes(content))
    return path


def _download(published: Published) -> bytes:
    try:
        with urllib.request.urlopen(published.url, timeout=60) as response:
            content = response.read(published.bytes + 1)
    except (urllib.error.URLError, OSError) as error:
        raise InputError(
            f"{published.url} cannot be fetched ({error}); fetch it elsewhere, put it into a "
            "folder and name that folder in SQUEEZENEXT_WEIGHTS."
        ) from error
    if hashlib.sha256(content).hexdigest() != published.sha256:
        raise InputError(f"{published.url} is not the file it was: its SHA-256 is another.")
    return content


def import_weights(kind: str, path: Path, config: Config, directory: Path) -> None:
    """Makes a model directory of a file of weights.

    Args:
      kind: one of `FORMATS`.
      path: the file.
      config: the network, with the images it was trained on.
      directory: the model directory to make.

    Raises:
      InputError: the file is not of that format and network, or the directory holds another.
    """
    # Here, so that a prediction with a model that is there already never imports TensorFlow.
    from squeezenext import model_directory, models

    if kind not in FORMATS:
        raise InputError(f"--format {kind}: must be one of {', '.join(FORMATS)}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    arrays = _from_deep_compression(data, config, str(path))
    model = models.build(config)
    model_directory.assign(model, arrays, str(path))
    model_directory.create(directory, config, labels.imagenet())
    source = {"file": path.name, "format": kind, "sha256": hashlib.sha256(data).hexdigest()}
    checkpoint.save(directory / "checkpoints", 0, arrays, {"imported": source})
    model_directory.write_litert(directory, model)


def _from_deep_compression(data: bytes, config: Config, source: str) -> dict[str, np.ndarray]:
    """Returns SqueezeNet's variables by "model/layer/variable"."""
    shapes = _caffe_shapes(config)
    layers = deep_compression.decode(data, list(shapes.values()), source)
    arrays = {"model/dropout/calls": np.zeros((), np.int64)}
    for name, (weights, biases) in zip(shapes, layers, strict=True):
        arrays[f"model/{name}/kernel"] = weights.transpose(2, 3, 1, 0)
        arrays[f"model/{name}/bias"] = biases
    return arrays


def _caffe_shapes(config: Config) -> dict[str, tuple[int, int, int, int]]:
    """Returns out x in x height x width of SqueezeNet's layers, in network order."""
    model = config.model
    if not isinstance(model, SqueezeNet) or model.bypass == "complex":
        raise InputError("Deep Compression's files are of SqueezeNet without complex bypass.")
    shapes = {"conv1": (model.stem_filters, 3, model.stem_kernel, model.stem_kernel)}
    channels = model.stem_filters
    for number, fire in enumerate(model.fires, start=2):
        shapes[f"fire{number}_squeeze"] = (fire.squeeze, channels, 1, 1)
        shapes[f"fire{number}_expand1x1"] = (fire.expand_1x1, fire.squeeze, 1, 1)
        shapes[f"fire{number}_expand3x3"] = (fire.expand_3x3, fire.squeeze, 3, 3)
        channels = fire.expand_1x1 + fire.expand_3x3
    return shapes | {"conv10": (model.classes, channels, 1, 1)}


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("format", None, f"One of {', '.join(FORMATS)}.", **at)
    flags.DEFINE_string("input", None, "The file of weights.", **at)
    flags.DEFINE_string("configuration", None, "The network that the weights are of.", **at)
    flags.DEFINE_string("model_dir", None, "The model directory to make.", **at)

    def command(values, positional):
        if positional != ["import"]:
            raise InputError("Say what to do: python -m squeezenext.weights import ...")
        missing = [
            n for n in ("format", "input", "configuration", "model_dir") if not values[n].value
        ]
        if missing:
            raise InputError(f"--{missing[0]} is missing.")
        config = config_io.load(values["configuration"].value)
        directory = Path(values["model_dir"].value)
        import_weights(values["format"].value, Path(values["input"].value), config, directory)
        print(f"{directory} holds the model.", file=sys.stderr)

    return run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
