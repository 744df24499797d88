"""Elementwise work in one pass over memory; TensorFlow alone makes one for each operation."""

from collections.abc import Callable

import tensorflow as tf
from tensorflow.python.eager import context  # no public function tells the device


def on_cpu() -> bool:
    """Returns whether a CPU computes what is made here; initialises TensorFlow's devices.

    The innermost `tf.device` says so, around a graph that is being built, too. Without one
    TensorFlow takes a GPU if the process has one.
    """
    placed = tf.DeviceSpec.from_string(context.context().device_name).device_type
    return placed == "CPU" if placed else not tf.config.list_logical_devices("GPU")


def fused(function: Callable) -> Callable:
    """Returns `function`, of tensors alone, such that XLA compiles it on a CPU.

    scripts/benchmarks/kernels.py has what that gives to training's images. On a GPU it is left as
    it is: XLA wants tools there that are not always to be found.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)
    return lambda *tensors: (compiled if on_cpu() else function)(*tensors)
