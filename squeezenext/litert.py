"""A network as a LiteRT file, the form in which prediction needs no TensorFlow."""

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from squeezenext.models import inference

TOLERANCE = 1e-3  # of the logits, against the network; float32 kernels differ by 1e-5


def convert(model: keras.Model) -> bytes:
    """Converts a float32 network, batch size 1, with LiteRT's built-in operators only.

    The file is run and compared with the network before it is returned.

    Raises:
      RuntimeError: the file does not compute what the network does.
    """
    function = inference(model, batch=1)
    # TensorFlow freezes the variables that its own tracking finds; Keras' wrappers hide them.
    owner = tf.Module()
    owner.weights = [variable.value for variable in model.variables]
    concrete = function.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    content = converter.convert()
    _compare(content, function, model.input_shape[1])
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
