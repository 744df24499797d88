"""Batch norm's moving statistics, of which each replica keeps its own."""

import contextlib
import math
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from squeezenext.network import layers
from squeezenext.network.keras_model import model_variables


class MovingStatistics:
    """The moving statistics of a network on a strategy.

    Training goes on with each replica's own, so that it does not depend on when one evaluates or
    saves; evaluation and every file take their mean.

    Args:
      model: built under the strategy's scope.
      strategy: see `devices.strategy`.

    Attributes:
      names: of the variables.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy):
        self._variables = layers.statistics(model)
        self._strategy = strategy
        self._sizes = [math.prod(variable.shape) for variable in self._variables]
        names = {id(variable): name for name, variable in model_variables(model).items()}
        self.names = [names[id(variable)] for variable in self._variables]

    def rows(self) -> np.ndarray:
        """Returns each replica's, [replicas, values] float32; all workers must call it together."""
        if not self._variables:
            return np.zeros([self._strategy.num_replicas_in_sync, 0], np.float32)
        return self._gather().numpy()

    @tf.function
    def _gather(self):
        def mine():
            values = [tf.convert_to_tensor(variable) for variable in self._variables]
            return tf.concat([tf.reshape(value, [1, -1]) for value in values], -1)

        return self._strategy.gather(self._strategy.run(mine), axis=0)

    @tf.function
    def assign(self, rows: tf.Tensor) -> None:
        """Gives each replica its row of [replicas, values] float32."""

        def mine():
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            parts = tf.split(rows[number], self._sizes)
            for variable, part in zip(self._variables, parts, strict=True):
                variable.assign(tf.reshape(part, variable.shape))

        self._strategy.run(mine)

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Gives all replicas the mean of their statistics inside the block."""
        rows = self.rows()
        if (rows == rows[:1]).all():
            yield
            return
        self.assign(np.broadcast_to(mean(rows), rows.shape))
        try:
            yield
        finally:
            self.assign(rows)

    def named(self, row: np.ndarray) -> dict[str, np.ndarray]:
        """Cuts one replica's statistics up, by the variables' names."""
        if not self._variables:
            return {}
        parts = np.split(row, np.cumsum(self._sizes)[:-1])
        each = zip(self.names, self._variables, parts, strict=True)
        return {name: part.reshape(variable.shape) for name, variable, part in each}


def mean(rows: np.ndarray) -> np.ndarray:
    """The mean over replicas in float64: that of equal rows is the row, to the last bit."""
    return rows.mean(0, dtype=np.float64).astype(np.float32)
