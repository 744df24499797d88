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
