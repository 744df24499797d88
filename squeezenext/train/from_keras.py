"""The LiteRT file of a network that has just been trained, compared with it before it is kept."""

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from squeezenext.config import Config
from squeezenext.litert import writer
from squeezenext.network import graph
from squeezenext.network.keras_model import inference

TOLERANCE = 1e-3  # of the logits, against the network; float32 kernels differ by 1e-5


def convert(model: keras.Model, config: Config) -> bytes:
    """Writes a float32 network for one image at a time, from normalised images to logits.

    Args:
      model: as `models.build(config)` makes it.

    Raises:
      RuntimeError: the file does not compute what the network does.
    """
    variables = {
        f"model/{layer.name}/{variable.name}": np.asarray(variable)
        for layer in model.layers
        for variable in layer.variables
    }
    size = model.input_shape[1]
    content = writer.write(graph.of(config, size), graph.fold(config, variables))
    _compare(content, inference(model, batch=1), size)
    return content


def _compare(content: bytes, function, size: int) -> None:
    images = np.random.default_rng(0).normal(0, 50, (1, size, size, 3)).astype(np.float32)
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    actual = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = function(tf.constant(images)).numpy()
    error = np.abs(actual - expected).max() / max(1.0, np.abs(expected).max())
    if not error < TOLERANCE:
        raise RuntimeError(f"The LiteRT file differs from the network by {error:.3g}.")
