"""A model as it is shipped: what to show the network, its LiteRT file and its classes.

A user names a model directory, a published model or a single file. No TensorFlow, except for a
run that has not ended: its directory has no model.tflite yet.
"""

import dataclasses
import json
import math
from pathlib import Path

from squeezenext import config_io, labels
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.labels import Label

CALIBRATION = "calibration.json"


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A model ready to run.

    Attributes:
      name: for messages.
      config: its configuration; prediction reads `images`.
      labels: the classes in the order of the logits.
      litert: its LiteRT file, or the content of one.
      temperature: by which logits are divided before the softmax.
    """

    name: str
    config: Config
    labels: tuple[Label, ...]
    litert: Path | bytes
    temperature: float = 1.0


def load(model: str | Path) -> Shipped:
    """Returns the model that a user means.

    Raises:
      InputError: there is none, or it is damaged.
    """
    directory = Path(model)
    if not directory.is_dir():
        from squeezenext import weights  # a folder needs neither its cache nor its network

        directory = weights.resolve(model)
    return _of_directory(directory)


def _of_directory(directory: Path) -> Shipped:
    if not (directory / "config.json").is_file():
        raise InputError(f"{directory} is not a model directory: it has no config.json.")
    config = config_io.read(directory / "config.json")
    known = labels.read(directory / "labels.json")
    if len(known) != config.model.classes:
        raise InputError(
            f"{directory}/labels.json has {len(known)} classes, the network {config.model.classes}."
        )
    path = directory / "model.tflite"
    litert: Path | bytes = path if path.is_file() else _of_checkpoint(directory, config)
    return Shipped(str(path), config, known, litert, read_temperature(directory))


def _of_checkpoint(directory: Path, config: Config) -> bytes:
    from squeezenext import graph, litert_writer, model_directory  # the last is TensorFlow's

    variables = model_directory.read_weights(directory)
    return litert_writer.write(graph.of(config), graph.fold(config, variables))


def read_temperature(directory: Path) -> float:
    """Returns what `evaluate --fit_temperature` stored, else 1.

    Raises:
      InputError: the file is damaged.
    """
    path = directory / CALIBRATION
    try:
        value = json.loads(path.read_text("utf-8"))["temperature"]
    except FileNotFoundError:
        return 1.0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}; delete it or fit it again.") from error
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{path} is damaged: temperature is {value!r}; delete it or fit it again.")
    return float(value)
