"""Whether XLA compiles the network: measured where it may help."""

import math
import time

import tensorflow as tf

from squeezenext.records.reader import Reader
from squeezenext.training.history import LOG
from squeezenext.training.loop import Loop


def choose(loop: Loop, reader: Reader, deterministic: bool) -> None:
    """Lets XLA compile the network where that is faster on this very GPU.

    Not on the CPU, where it takes three times as long (SqueezeNet 1.1, 16 images, 2 cores under
    load: 6.1 s with, 2.1 s without, by `measure`), nor with several replicas, where TensorFlow
    breaks (keras#19005, tensorflow#53140).
    """
    if not tf.config.list_physical_devices("GPU"):
        why = "the CPU's own kernels are faster"
    elif loop.strategy.num_replicas_in_sync > 1:
        why = "TensorFlow does not compile for several devices"
    elif deterministic:
        why = "a choice by time is not deterministic"
    else:
        seconds = measure(loop, loop.batches(reader))
        state = "on" if loop.jit else "off"
        without, compiled = 1e3 * seconds[False], 1e3 * seconds[True]
        LOG.info("XLA for the network: %s; %.2f ms without, %.2f with.", state, without, compiled)
        return
    LOG.info("XLA for the network: off; %s.", why)


def measure(loop: Loop, iterator) -> dict[bool, float]:
    """Times one micro-batch on one device without XLA and with it, and takes the faster.

    Args:
      loop: afterwards as it was, but for `loop.jit`.
      iterator: one of its own, from `Loop.batches`; it is read from.

    Returns:
      Seconds a micro-batch, by whether XLA compiles it; infinite where XLA cannot.
    """
    element = next(iterator)
    state = loop.state()
    seconds = {jit: _time_pass(loop, element, jit) for jit in (False, True)}
    loop.restore(state, loop.precision)
    loop.update.drop_gathered()
    loop.jit = seconds[True] < seconds[False]
    return seconds


def _time_pass(loop: Loop, element, jit: bool, repeats: int = 10) -> float:
    compiled = tf.function(loop.backward, jit_compile=jit)
    try:
        for repeat in range(repeats + 2):
            if repeat == 2:  # the first builds and compiles, the second finds its memory
                loop.update.gathered_sum()
                started = time.perf_counter()
            compiled(*element, loop.phase.frozen)
        loop.update.gathered_sum()  # waits for the device
    except tf.errors.OpError:
        return math.inf
    return (time.perf_counter() - started) / repeats
