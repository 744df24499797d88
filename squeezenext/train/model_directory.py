"""A model directory: what a run leaves behind and every later command reads.

config.json labels.json       the resolved configuration and the classes
checkpoints/step-00001234/    see checkpoint.py
model.tflite                  the float32 network, for prediction without TensorFlow
history.csv train.log tensorboard/ model_stats.csv final.json MODEL_CARD.md
"""

import json
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from squeezenext import files, labels, stats, tf_import
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.model import card, checkpoint, published
from squeezenext.model import directory as model_directory
from squeezenext.network import keras_model
from squeezenext.network.keras_model import model_variables
from squeezenext.train import from_keras
from squeezenext.train.optimizers import CLASSIFIERS


def create(directory: Path, config: Config, classes: Sequence[labels.Label]) -> None:
    """Writes what describes the model: config.json, labels.json and model_stats.csv.

    Raises:
      InputError: the directory holds a model of another configuration or other classes.
    """
    model_directory.write(directory, config, classes)
    table = stats.to_csv(stats.layers(keras_model.build(config)))
    files.write_text(directory / "model_stats.csv", table)


def assign(
    model: keras.Model, weights: dict[str, np.ndarray], source: str, new_head: bool = False
) -> list[str]:
    """Gives a network weights by name.

    Args:
      model: built, under the strategy's scope or not.
      weights: by "model/layer/variable".
      source: where they come from, for messages.
      new_head: leave the classifier as it is where its shape differs.

    Returns:
      The names of the variables left as they were.

    Raises:
      InputError: a variable is missing or has another shape.
    """
    left = []
    for name, variable in model_variables(model).items():
        array = weights.get(name)
        if array is not None and array.shape == tuple(variable.shape):
            variable.assign(array)
        elif new_head and name.split("/")[1] in CLASSIFIERS:
            left.append(name)
        else:
            shape = "absent" if array is None else f"of shape {array.shape}"
            raise InputError(
                f"{source} does not fit this network: {name} is {shape}, not {variable.shape}."
            )
    return left


def write_litert(directory: Path, model: keras.Model) -> None:
    """Writes model.tflite."""
    content = from_keras.convert(model, config_io.read_model(directory))
    files.write_bytes(directory / "model.tflite", content)


def write_final(directory: Path, document: dict) -> None:
    """Writes final.json and the model card, which tells its figures."""
    files.write_json(directory / "final.json", document)
    card.write(directory)


def write_end(
    directory: Path, config: Config, state: dict[str, np.ndarray], document: dict
) -> None:
    """Writes model.tflite and final.json of a run that has come to its end.

    Args:
      state: `Loop.state`'s arrays.
      document: what final.json holds.
    """
    with tf.device("CPU:0"), tf_import.native():  # a GPU's precision is no reference
        model = keras_model.build(config)
        assign(model, checkpoint.evaluated(state), "the run")
        write_litert(directory, model)
    write_final(directory, document)


def origin(model: str) -> dict[str, str]:
    """Returns {"model", and where it is known, "licence"} of weights that training began with."""
    try:
        imported = card.imported(published.resolve(model))
    except InputError:  # a directory that has gone since
        imported = {}
    licence = {"licence": str(imported["licence"])} if "licence" in imported else {}
    return {"model": Path(model).name} | licence


def read_final(directory: Path) -> dict | None:
    """Reads final.json; None where there is none that can be read."""
    try:
        document = json.loads((directory / "final.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
