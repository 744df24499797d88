"""Networks built once a process: thirty of them, each a second of Keras' time."""

import functools

import keras

from squeezenext.config import io as config_io
from squeezenext.network import keras_model


@functools.cache
def built(name: str) -> keras.Model:
    """Returns the network of a configuration with initial weights, which no test may change."""
    return keras_model.build_model(config_io.load(name))
