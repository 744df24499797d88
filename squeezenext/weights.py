"""Weights made elsewhere: published models by name, and files of other programs.

    python -m squeezenext.weights import --format FORMAT --input FILE \\
        --configuration NAME --model_dir DIR
    python -m squeezenext.weights export --format FORMAT --model_dir DIR|NAME --output FILE

Formats, see docs/weights.md: deep_compression, ncnn, caffemodel, torchvision, pytorchcv, npz.

A published model is fetched once from its public home, checked against its SHA-256 and kept in
the user's cache as a model directory. The folder SQUEEZENEXT_WEIGHTS is looked in first, for files
of those SHA-256 whatever their names, so that no network is needed.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from squeezenext import config_io, labels  # what is heavier is imported where it is used
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.flags import run
from squeezenext.published import PUBLISHED, File, Published


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
    from squeezenext import importing

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


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("format", None, "Of the file.", **at)
    flags.DEFINE_string("model_dir", None, "The directory to make; what to export, or NAME.", **at)
    flags.DEFINE_string("input", None, "import: the file of weights.", **at)
    flags.DEFINE_string("configuration", None, "import: the network the weights are of.", **at)
    flags.DEFINE_multi_string("set", [], "import: change a field, model.classes=10.", **at)
    flags.DEFINE_string("labels", None, "import: labels.json, if not ImageNet's.", **at)
    flags.DEFINE_string("output", None, "export: the file to write.", **at)

    def command(values, positional):
        work = {("import",): _import, ("export",): _export}.get(tuple(positional))
        if work is None:
            raise InputError("Say what to do: python -m squeezenext.weights import|export ...")
        work(values)

    return run(command, values, __doc__, argv)


def _import(values: flags.FlagValues) -> None:
    from squeezenext import importing

    _need(values, "format", "input", "configuration", "model_dir")
    config = config_io.load(values["configuration"].value)
    for change in values["set"].value:
        config = config_io.override(config, change)
    directory, kind = Path(values["model_dir"].value), values["format"].value
    paths = importing.files(kind, Path(values["input"].value))
    importing.import_weights(kind, paths, config, directory, _classes(values, config))
    print(f"{directory} holds the model.", file=sys.stderr)


def _export(values: flags.FlagValues) -> None:
    from squeezenext import importing

    _need(values, "format", "model_dir", "output")
    directory, path = resolve(values["model_dir"].value), Path(values["output"].value)
    importing.export_weights(values["format"].value, directory, path)
    print(f"{path} holds the weights of {directory}.", file=sys.stderr)


def _classes(values: flags.FlagValues, config: Config) -> tuple[labels.Label, ...]:
    if values["labels"].value:
        return labels.read(Path(values["labels"].value))
    if config.model.classes != len(labels.imagenet()):
        raise InputError(
            f"--labels is missing: the network tells {config.model.classes} classes apart, which "
            "are not ImageNet's; name a labels.json."
        )
    return labels.imagenet()


def _need(values: flags.FlagValues, *names: str) -> None:
    missing = [name for name in names if not values[name].value]
    if missing:
        raise InputError(f"--{missing[0]} is missing.")


if __name__ == "__main__":
    sys.exit(main())
