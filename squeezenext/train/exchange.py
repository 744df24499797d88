"""Between a Keras model and a model directory: weights are assigned, results are written."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from squeezenext import files, labels, stats, tf_import
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.litert import writer
from squeezenext.litert.runner import Runner
from squeezenext.model import card, checkpoint, published
from squeezenext.model import directory as model_directory
from squeezenext.network import graph, keras_model
from squeezenext.network.architecture import CLASSIFIERS
from squeezenext.network.keras_model import inference, model_variables

TOLERANCE = 1e-3  # of the logits, against the network; float32 kernels differ by 1e-5


def create(directory: Path, config: Config, classes: Sequence[labels.Label]) -> None:
    """Writes what describes the model: config.json, labels.json and model_stats.csv.

    Raises:
      InputError: the directory holds a model of another configuration or other classes.
    """
    model_directory.write(directory, config, classes)
    files.write_text(directory / model_directory.STATS, stats.to_csv(stats.layers(config)))


def assign(
    model: keras.Model, weights: dict[str, np.ndarray], source: str, new_head: bool = False
) -> list[str]:
    """Gives a network weights by name.

    Args:
      model: the network.
      weights: arrays by "model/layer/variable".
      source: their origin, for messages.
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
    """Writes model.tflite, for prediction without TensorFlow: one image, normalised, to logits.

    Raises:
      RuntimeError: the file does not compute what the network does.
    """
    config, size = model_directory.read_config(directory), model.input_shape[1]
    variables = {name: np.asarray(value) for name, value in model_variables(model).items()}
    content = writer.write(graph.of(config, size), graph.fold(config, variables))
    image = np.random.default_rng(0).normal(0, 50, (size, size, 3)).astype(np.float32)
    actual = Runner(content, 1, "the network").run(image)[0]
    expected = inference(model, batch=1)(tf.constant(image[np.newaxis])).numpy()
    error = np.abs(actual - expected).max() / max(1.0, np.abs(expected).max())
    if not error < TOLERANCE:
        raise RuntimeError(f"The LiteRT file differs from the network by {error:.3g}.")
    files.write_bytes(directory / model_directory.LITERT, content)


def write_end(
    directory: Path, config: Config, state: dict[str, np.ndarray], document: dict
) -> None:
    """Writes model.tflite, final.json (`document`) and the model card of a run that has ended."""
    with tf.device("CPU:0"), tf_import.native():  # a GPU's precision is no reference
        model = keras_model.build_model(config)
        assign(model, checkpoint.evaluated(state), "the run")
        write_litert(directory, model)
    files.write_json(directory / model_directory.FINAL, document)
    card.write(directory)  # which reports the scores in final.json


def origin(model: str) -> dict[str, str]:
    """Returns {"model", and where it is known, "licence"} of weights that training began with."""
    model = str(published.local(model))  # of the Hub it names the commit
    try:
        imported = card.imported(published.resolve(model))
    except InputError:  # a directory that has gone since
        imported = {}
    licence = {"licence": str(imported["licence"])} if "licence" in imported else {}
    return {"model": str(imported.get("model", Path(model).name))} | licence
