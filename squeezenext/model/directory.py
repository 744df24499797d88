"""What a model directory says of its model, config.json and labels.json, without TensorFlow."""

from collections.abc import Sequence
from pathlib import Path

from squeezenext import files, labels
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.model import checkpoint


def read(directory: Path) -> tuple[Config, tuple[labels.Label, ...]]:
    """Returns the configuration and the classes.

    Raises:
      InputError: it is no model directory, or the two do not fit.
    """
    config = config_io.read_model(directory)
    known = labels.read(directory / "labels.json")
    if len(known) != config.model.classes:
        raise InputError(
            f"{directory}/labels.json has {len(known)} classes, the network {config.model.classes}."
        )
    return config, known


def write(directory: Path, config: Config, classes: Sequence[labels.Label]) -> None:
    """Makes the directory and the two files.

    Raises:
      InputError: the directory holds a model of another configuration or other classes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path, names = directory / "config.json", directory / "labels.json"
    if checkpoint.steps(directory / "checkpoints"):
        if path.exists() and config_io.read(path).model != config.model:
            raise InputError(f"{directory} holds a model of another network; choose another one.")
        if names.exists() and labels.read(names) != tuple(classes):
            raise InputError(f"{directory} holds a model of other classes; choose another one.")
    text = config_io.to_json(config)
    files.write_text(path, text)
    files.write_file(names, lambda file: labels.write(file, classes))
