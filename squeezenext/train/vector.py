"""Many variables as one vector, so that an operation changes all of them at once.

SqueezeNext has 334 weights and 333 moving statistics. An operation for each costs a GPU more time
than its arithmetic: 5 microseconds to launch, for some hundred numbers.
"""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf


class Vector:
    """The values of some variables one after another, float32, on every replica.

    Args:
      variables: the variables; a replica may have its own values of them.
      name: the vector's name.
    """

    def __init__(self, variables: Sequence[keras.Variable], name: str):
        self.variables = list(variables)
        self.shapes = [tuple(variable.shape) for variable in self.variables]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.values = replicated(np.zeros(sum(self.sizes), np.float32), name)

    def join(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the tensors, one for each variable, as a vector; float32."""
        parts = [tf.reshape(tf.cast(tensor, tf.float32), [-1]) for tensor in tensors]
        return tf.concat([*parts, tf.zeros([0])], 0)  # there may be no variables

    def split(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Returns the parts of a vector in the shapes of the variables."""
        parts = tf.split(vector, self.sizes) if self.sizes else []
        return [tf.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def arrays(self, vector: np.ndarray) -> list[np.ndarray]:
        """Returns the parts of an array in the shapes of the variables."""
        parts = np.split(vector, np.cumsum(self.sizes)[:-1]) if self.sizes else []
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def constant(self, value: Callable[[keras.Variable], float]) -> tf.Tensor:
        """Returns a constant vector from one value for each variable; a scalar if all are equal."""
        values = [value(variable) for variable in self.variables]
        if len(set(values)) == 1:
            return tf.constant(values[0], tf.float32)
        return tf.constant(np.repeat(np.array(values, np.float32), self.sizes))

    def load(self) -> None:
        """Reads this replica's variables into `values`; call in a replica."""
        self.values.assign(self.join([tf.convert_to_tensor(v) for v in self.variables]))

    def store(self, strategy: tf.distribute.Strategy) -> None:
        """Gives mirrored variables their `values` on all replicas; call outside any replica."""
        parts = strategy.run(lambda: self.split(tf.convert_to_tensor(self.values)))
        for variable, part in zip(self.variables, parts, strict=True):
            strategy.extended.update(
                variable.value, lambda own, new: own.assign(new), args=(part,), group=False
            )


class Averages:
    """Exponential moving averages of vectors on every replica, each of its own values.

    Args:
      vectors: the vectors, each with its lag: by how many steps it is a mean of the past already.
        Its average is shorter by as many, since the lag of an average of an average is the sum.
      momentum: the share of an average that a step keeps, in [0, 1).
    """

    def __init__(self, vectors: Sequence[tuple[Vector, float]], momentum: float):
        self._momentum = momentum
        self._all = [
            (vector, lag, replicated(np.zeros(sum(vector.sizes), np.float32), "average"))
            for vector, lag in vectors
        ]

    def restart(self, strategy: tf.distribute.Strategy) -> None:
        """Begins anew at the first replica's variables; call outside any replica."""
        for vector, _, average in self._all:
            own = [strategy.experimental_local_results(v.value)[0] for v in vector.variables]
            average.assign(vector.join(own))

    def move(self, step: tf.Tensor, changed: tf.Tensor) -> None:
        """Moves the averages towards the vectors; call in a replica.

        Args:
          step: the number of the step, from 1 on; early ones count for more, to forget the start.
          changed: scalar bool; False leaves the averages as they are.
        """
        number = tf.cast(step, tf.float32)
        momentum = tf.minimum(self._momentum, number / (9.0 + number))
        for vector, lag, average in self._all:
            share = 1.0 - momentum
            if lag:
                share = 1.0 / tf.maximum(1.0 / share - lag, 1.0)
            old, now = map(tf.convert_to_tensor, (average, vector.values))
            average.assign(tf.where(changed, old + share * (now - old), old))

    def swap(self) -> None:
        """Exchanges the averages with the vectors; call in a replica."""
        for vector, _, average in self._all:
            now, old = (tf.identity(tf.convert_to_tensor(v)) for v in (vector.values, average))
            vector.values.assign(old)
            average.assign(now)


def replicated(initial: np.ndarray, name: str) -> tf.Variable:
    """Returns a variable that each replica assigns for itself, with no communication.

    Outside a replica a read gives the first one's value.
    """
    return tf.Variable(
        initial,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        name=name,
    )
