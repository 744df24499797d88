"""Trains the same networks in stock Keras 3 layers by `fit`: a peer of benchmarks/train.py."""

import time
from collections.abc import Callable

import keras
import tensorflow as tf

from squeezenext.config import Config
from squeezenext.network import architecture, keras_model

L = keras.layers


class StockOps(keras_model.KerasOps):
    """`networks.Ops` without a layer of ours."""

    def conv(self, x, name, filters, kernel, *, initializer, strides=1, groups=1, same=False,
             bias=False):  # fmt: skip
        del initializer
        padding = "same" if same else "valid"
        return L.Conv2D(filters, kernel, strides, padding, groups=groups, use_bias=bias, name=name)(
            x
        )

    def batch_norm(self, x, name):
        return L.BatchNormalization(momentum=0.999, epsilon=1e-5, name=name)(x)

    def dropout(self, x, name, rate):
        return L.Dropout(rate, name=name)(x)


def trainer(config: Config, precision: str, batch: int) -> Callable[[int], float]:
    """Returns a function that trains so many steps and says how many seconds they took."""
    keras.config.set_dtype_policy(precision)
    images, logits = architecture.build_network(StockOps(config.training), config)
    logits = L.Activation("linear", dtype="float32")(logits)
    model = keras.Model(images, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, 0.9), loss, jit_compile=False)  # XLA is slower here
    size = config.images.size
    pixels = tf.random.stateless_normal((batch, size, size, 3), (0, 1))
    labels = tf.random.stateless_uniform((batch,), (0, 1), 0, config.model.classes, tf.int64)

    class Clock(keras.callbacks.Callback):
        """When each step ended: `fit` takes a while to begin, which is no training."""

        def on_train_begin(self, logs=None):
            self.times = []

        def on_train_batch_end(self, batch, logs=None):
            self.times.append(time.perf_counter())

    def train(steps: int) -> float:
        clock = Clock()
        batches = tf.data.Dataset.from_tensors((pixels, labels)).repeat(steps + 1)
        model.fit(batches, verbose=0, callbacks=[clock])
        return clock.times[-1] - clock.times[0]

    return train
