"""How fast this machine trains a network: measured, on a batch that lies in memory."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from squeezenext.config import Config
from squeezenext.images import augment
from squeezenext.training import devices
from squeezenext.training.loop import Loop

BATCH = 32
_STEPS = 4  # that are timed


def measure(config: Config, precision: str = "auto") -> tuple[float, float]:
    """Returns images a second of training steps on one device, all weights learning, and the
    seconds that TensorFlow took to build such a step.

    Some ten seconds, most of them for building. The first steps do not count.
    """
    train = trainer(config, precision)
    first, steps = train(1), train(_STEPS)
    return _STEPS * BATCH / steps, max(0.0, first - steps / _STEPS)


def trainer(config: Config, precision: str) -> Callable[[int], float]:
    """Returns a function that takes so many steps of `BATCH` images and says their seconds."""
    training = dataclasses.replace(config.training, batch_size=BATCH, frozen_epochs=0)
    images = dataclasses.replace(config.images, progressive=())
    config = dataclasses.replace(config, training=training, images=images)
    devices.strategy(0)  # which settles what later work of this process needs of the GPUs
    loop = Loop(
        config,
        strategy=tf.distribute.get_strategy(),
        precision=devices.precision(precision),
        examples=BATCH,
        micro_batch=BATCH,
        seed=0,
    )
    batch = tf.data.Dataset.from_tensors(_batch(config))
    iterator = iter(batch.repeat())

    def train(steps: int) -> float:
        started = time.perf_counter()
        loop.train(iterator, steps)
        return time.perf_counter() - started

    return train


def _batch(config: Config) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Random pixels, as `data.training` would give them."""
    shape = (BATCH, config.images.size, config.images.size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    labels = np.arange(BATCH) % config.model.classes
    numbers = augment.of_steps(
        config.images.augmentation, 0, np.zeros(BATCH, int), np.arange(BATCH)
    )
    return tf.constant(pixels), tf.constant(labels, tf.int64), tf.constant(numbers, tf.float32)
