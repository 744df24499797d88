"""A trained network in the form that is shipped: its graph, folded weights and classes."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from squeezenext.cli import Log, log
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.labels import Label
from squeezenext.model import checkpoint, published
from squeezenext.model import directory as model_directory
from squeezenext.network import graph
from squeezenext.network.graph import Graph
from squeezenext.sqz.header import check_temperature

# A model as it is shipped: what to show the network, its LiteRT file and its classes.
#
# A user names a model directory, a published model or a single file.


CALIBRATION = "calibration.json"
DESCRIPTION = "squeezenext.json"  # behind an exported LiteRT file
_MAX_DESCRIPTION = 16 << 20
_ZIP_END = 22  # bytes of a zip's last record
# What zipfile (RuntimeError: an encrypted entry) and json make of bytes that are something else.
_NO_DESCRIPTION = (
    KeyError, ValueError, TypeError, NotImplementedError, RuntimeError, RecursionError,
)  # fmt: skip
PHONES = (127.5, 127.5)  # mean and deviation of an exported float file: MobileNet's, -1..1
PIXELS = (0.0, 1.0)  # of an int8 one


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A model ready to run.

    Attributes:
      name: for messages.
      config: its configuration; prediction reads `images`.
      labels: the classes in the order of the logits.
      litert: its LiteRT file, or the content of one.
      temperature: by which logits are divided before the softmax.
      rgb: (mean, deviation) of a file that was exported for other programs, too: it reads
        (pixel - mean) / deviation, RGB, and gives probabilities. None: it reads what
        `preprocessing.normalize` makes and gives logits.
      fitted_to: the split that its temperature was fitted to, see `read_fitted_to`.
    """

    name: str
    config: Config
    labels: tuple[Label, ...]
    litert: Path | bytes
    temperature: float = 1.0
    rgb: tuple[float, float] | None = None
    fitted_to: str = ""


def load_shipped(model: str | Path) -> Shipped:
    """Returns the model that a user means.

    Raises:
      InputError: there is none, or it is damaged.
    """
    path = Path(model)
    if path.suffix == ".sqz" and path.is_file():
        return _shipped_of_sqz(path)
    if path.suffix == ".tflite" and path.is_file():
        return _of_litert(path)
    if not path.is_dir():
        from squeezenext.model import published  # a folder needs neither its cache nor its network

        path = published.resolve(model)
    return _of_directory(path)


def _shipped_of_sqz(path: Path) -> Shipped:
    from squeezenext.litert import writer
    from squeezenext.network import graph
    from squeezenext.sqz import file as sqz

    held = sqz.read(path)
    content = writer.write(graph.of(held.config), held.weights)
    return Shipped(
        name=str(path),
        config=held.config,
        labels=held.classes,
        litert=content,
        temperature=held.temperature,
        fitted_to=held.fitted_to,
    )


def _of_litert(path: Path) -> Shipped:
    """Reads a file of `squeezenext.export`, behind which its description lies as a zip."""
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(DESCRIPTION).file_size > _MAX_DESCRIPTION:
                raise InputError(f"{path} is damaged: {DESCRIPTION} in it is too large.")
            document = json.loads(archive.read(DESCRIPTION))
        config = config_io.from_json(json.dumps(document["configuration"]), str(path))
        pairs = zip(document["synsets"], document["labels"], strict=True)
        known = tuple(Label(str(synset), str(text)) for synset, text in pairs)
        precision, fitted_to = document["precision"], str(document.get("fitted_to", ""))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except _NO_DESCRIPTION + (zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} was not exported by this program: no {DESCRIPTION} lies behind it; give the "
            "model directory it was made of."
        ) from error
    if len(known) != config.model.classes:
        raise InputError(
            f"{path} names {len(known)} classes, its network has {config.model.classes}."
        )
    rgb = PIXELS if precision == "int8" else PHONES
    return Shipped(str(path), config, known, path, rgb=rgb, fitted_to=fitted_to)


def _of_directory(directory: Path) -> Shipped:
    config, known = model_directory.read(directory)
    path = directory / "model.tflite"
    try:
        exported = path.is_file() and _is_exported(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if exported:
        raise InputError(
            f"{path} is an exported file, not the model directory's own; move it elsewhere: "
            "without one the checkpoint is read."
        )
    litert: Path | bytes = path if path.is_file() else _of_checkpoint(directory, config)
    return Shipped(
        name=str(path),
        config=config,
        labels=known,
        litert=litert,
        temperature=read_temperature(directory),
        fitted_to=read_fitted_to(directory),
    )


def _is_exported(path: Path) -> bool:
    """Says whether a zip, the description, lies behind a LiteRT file: by the zip's last record.

    Such a zip has no comment. Without zipfile, whose import prediction does not wait for.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _ZIP_END))
        return file.read().startswith(b"PK\x05\x06")


def _of_checkpoint(directory: Path, config: Config) -> bytes:
    from squeezenext.litert import writer
    from squeezenext.network import graph

    return writer.write(graph.of(config), graph.fold(config, variables(directory)))


def read_temperature(directory: Path) -> float:
    """Returns what `evaluate --fit_temperature` stored, else 1.

    Raises:
      InputError: the file is damaged.
    """
    path = directory / CALIBRATION
    try:
        return check_temperature(json.loads(path.read_text("utf-8"))["temperature"])
    except FileNotFoundError:
        return 1.0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}; delete it or fit it again.") from error


def read_fitted_to(directory: Path) -> str:
    """Returns the SHA-256 of the split that a temperature was fitted to, "" where there is none.

    Of images that it was fitted to, a model's calibration error says nothing of others.
    """
    try:
        document = json.loads((directory / CALIBRATION).read_text("utf-8"))
        return str(document.get("shards_sha256", ""))
    except (OSError, ValueError, AttributeError):  # `read_temperature` tells what is damaged
        return ""


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network and its weights.

    Attributes:
      name: of the model directory or the published model.
      config: its configuration.
      labels: the classes in the order of the logits.
      graph, weights: as `graph.of` and `graph.fold` make them.
      temperature: by which `predict.py` divides the logits before the softmax.
      fitted_to: the split it was fitted to, see `shipped.read_fitted_to`.
    """

    name: str
    config: Config
    labels: tuple[Label, ...]
    graph: Graph
    weights: dict[str, np.ndarray]
    temperature: float = 1.0
    fitted_to: str = ""


def load(model: str | Path) -> Trained:
    """Reads a model directory, a published model or a `.sqz` file.

    Raises:
      InputError: there is no such model, or it holds no checkpoint.
    """
    if Path(model).suffix == ".sqz" and Path(model).is_file():
        return _of_sqz(Path(model))
    directory = published.resolve(model)
    config, known = model_directory.read(directory)
    folded = graph.fold(config, variables(directory))
    return Trained(
        name=Path(model).name,
        config=config,
        labels=known,
        graph=graph.of(config),
        weights=folded,
        temperature=read_temperature(directory),
        fitted_to=read_fitted_to(directory),
    )


def _of_sqz(path: Path) -> Trained:
    from squeezenext.sqz import file as sqz  # no model directory needs it

    found = sqz.read(path)
    return Trained(
        name=path.stem,
        config=found.config,
        labels=found.classes,
        graph=graph.of(found.config),
        weights=found.weights,
        temperature=found.temperature,
        fitted_to=found.fitted_to,
    )


def variables(directory: Path, report: Log = log) -> dict[str, np.ndarray]:
    """Returns a model directory's variables by "model/layer/variable", averages where kept.

    A checkpoint that is damaged is reported, and the one before it taken.

    Raises:
      InputError: there is no whole checkpoint, or none of the network that final.json tells of.
    """
    found = checkpoint.newest(directory / "checkpoints", report)
    if found is None:
        raise InputError(f"{directory} holds no checkpoint yet; train it first.")
    state, meta = found
    _check_last(directory, meta["step"])
    return checkpoint.evaluated(state)


def _check_last(directory: Path, step: int) -> None:
    """Refuses an older network than the one whose scores and files lie in the directory."""
    try:
        ended = json.loads((directory / "final.json").read_text("utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):  # a run that goes on, imported weights
        return
    if ended != step:
        raise InputError(
            f"{directory} holds a run that ended at step {ended}, whose checkpoint is missing or "
            f"damaged (the newest whole one is of step {step}); bring it back from a copy, or "
            "train again, which goes on from there."
        )
