"""A model as it is shipped: what to show the network, its LiteRT file and its classes.

A user names a model directory, a published model or a single file. No TensorFlow, except for a
run that has not ended: its directory has no model.tflite yet.
"""

import dataclasses
import json
import math
from pathlib import Path

from squeezenext import config_io, description
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.labels import Label

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
    """

    name: str
    config: Config
    labels: tuple[Label, ...]
    litert: Path | bytes
    temperature: float = 1.0
    rgb: tuple[float, float] | None = None


def load(model: str | Path) -> Shipped:
    """Returns the model that a user means.

    Raises:
      InputError: there is none, or it is damaged.
    """
    path = Path(model)
    if path.suffix == ".sqz" and path.is_file():
        return _of_sqz(path)
    if path.suffix == ".tflite" and path.is_file():
        return _of_litert(path)
    if not path.is_dir():
        from squeezenext.foreign import named  # a folder needs neither its cache nor its network

        path = named.resolve(model)
    return _of_directory(path)


def _of_sqz(path: Path) -> Shipped:
    from squeezenext import graph
    from squeezenext.compression import sqz
    from squeezenext.litert import writer

    held = sqz.read(path)
    content = writer.write(graph.of(held.config), held.weights)
    return Shipped(str(path), held.config, held.classes, content, held.temperature)


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
        precision = document["precision"]
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
    return Shipped(str(path), config, known, path, rgb=rgb)


def _of_directory(directory: Path) -> Shipped:
    config, known = description.read(directory)
    path = directory / "model.tflite"
    if path.is_file() and _is_exported(path):
        raise InputError(
            f"{path} is an exported file, not the model directory's own; move it elsewhere: "
            "without one the checkpoint is read."
        )
    litert: Path | bytes = path if path.is_file() else _of_checkpoint(directory, config)
    return Shipped(str(path), config, known, litert, read_temperature(directory))


def _is_exported(path: Path) -> bool:
    """Says whether a zip, the description, lies behind a LiteRT file: by the zip's last record.

    Such a zip has no comment. Without zipfile, whose import prediction does not wait for.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _ZIP_END))
        return file.read().startswith(b"PK\x05\x06")


def _of_checkpoint(directory: Path, config: Config) -> bytes:
    from squeezenext import graph
    from squeezenext.litert import writer
    from squeezenext.training import model_directory  # the last is TensorFlow's

    variables = model_directory.read_weights(directory)
    return writer.write(graph.of(config), graph.fold(config, variables))


def read_temperature(directory: Path) -> float:
    """Returns what `evaluate --fit_temperature` stored, else 1.

    Raises:
      InputError: the file is damaged.
    """
    path = directory / CALIBRATION
    try:
        value = json.loads(path.read_text("utf-8"))["temperature"]
        value = float(value) if isinstance(value, int) else value  # a long one overflows
    except FileNotFoundError:
        return 1.0
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise InputError(f"{path} is damaged: {error}; delete it or fit it again.") from error
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{path} is damaged: temperature is {value!r}; delete it or fit it again.")
    return float(value)
