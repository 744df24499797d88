"""Elementwise work in one pass over memory; TensorFlow alone makes one for each operation."""

from collections.abc import Callable

import tensorflow as tf


def on_cpu() -> bool:
    """Returns whether this process computes on CPUs; initialises TensorFlow's devices."""
    return not tf.config.list_logical_devices("GPU")


def fused(function: Callable) -> Callable:
    """Returns `function`, of tensors alone, such that XLA compiles it on a CPU.

    scripts/benchmarks/kernels.py has what that gives to training's images. On a GPU it is left as
    it is: XLA wants tools there that are not always to be found.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)
    return lambda *tensors: (compiled if on_cpu() else function)(*tensors)
