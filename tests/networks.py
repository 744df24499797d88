"""Networks built once a process: thirty of them, each a second of Keras' time."""

import functools

import keras

from squeezenext import models
from squeezenext.config import io as config_io


@functools.cache
def built(name: str) -> keras.Model:
    """Returns the network of a configuration with initial weights, which no test may change."""
    return models.build(config_io.load(name))
