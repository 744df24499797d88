"""Elementwise work in one pass over memory; TensorFlow alone makes one for each operation."""

from collections.abc import Callable

import tensorflow as tf


def fused(function: Callable) -> Callable:
    """Returns `function`, of tensors alone, such that XLA compiles it on a CPU.

    Flip, BGR and normalisation of 32 images of 227 x 227 take 4 ms instead of 44 on two cores
    (scripts/benchmark_kernels.py). Left as it is on a GPU, whose memory is fast, and for which XLA
    wants tools that are not always there.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)

    def call(*tensors):
        chosen = function if tf.config.list_logical_devices("GPU") else compiled
        return chosen(*tensors)

    return call
