"""Measures the speed of training: of a network alone, of input and network, with and without XLA.

`measure_speed` serves adapt's plan, `profile` is `--profile_input`, `choose_xla` decides for a run.
"""

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from squeezenext.cli import cores, plural
from squeezenext.config import Config, recipes
from squeezenext.images import augment
from squeezenext.records.reader import Reader
from squeezenext.train import devices
from squeezenext.train.log import LOG
from squeezenext.train.loop import Loop

SECONDS = 10.0  # duration of each of a profile's two measurements
_CALL_SECONDS = 1.0  # duration of a call of several steps, as in a run
_ROUNDS, _STEPS = 3, 2  # times that steps are timed, and steps each time


def measure_speed(config: Config, precision: str = "auto") -> tuple[float, float]:
    """Measures the training of all weights on one device, in some ten seconds.

    The fastest of several rounds counts: another program's short work makes no plan.

    Returns:
      Images a second after the first step, and the seconds that TensorFlow took to build a step.
    """
    batch = recipes.FINE_TUNE_BATCH
    train = trainer(config, precision, batch)
    first = train(1)
    step = min(train(_STEPS) / _STEPS for _ in range(_ROUNDS))
    return batch / step, max(0.0, first - step)


def trainer(config: Config, precision: str, batch: int) -> Callable[[int], float]:
    """Returns a function that trains for a number of steps of `batch` images: the seconds."""
    training = dataclasses.replace(config.training, batch_size=batch, frozen_epochs=0)
    images = dataclasses.replace(config.images, progressive=())
    config = dataclasses.replace(config, training=training, images=images)
    devices.strategy(1)  # sets up the GPU for the later work of this process
    loop = Loop(
        config,
        strategy=tf.distribute.get_strategy(),
        precision=devices.precision(precision),
        examples=batch,
        micro_batch=batch,
        seed=0,
    )
    iterator = iter(tf.data.Dataset.from_tensors(random_batch(config, batch)).repeat())

    def train(steps: int) -> float:
        started = time.perf_counter()
        loop.train(iterator, steps)
        return time.perf_counter() - started

    return train


def random_batch(config: Config, batch: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns a batch of random pixels in the form of `batches.training`."""
    shape = (batch, config.images.size, config.images.size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    labels = np.arange(batch) % config.model.classes
    epochs, records = np.zeros(batch, int), np.arange(batch)
    numbers = augment.random_numbers(config.images.augmentation, 0, epochs, records)
    return tf.constant(pixels), tf.constant(labels, tf.int64), tf.constant(numbers, tf.float32)


@dataclasses.dataclass(frozen=True)
class Profile:
    """Speed of the input alone and of the network alone, which trains on one batch repeatedly."""

    input_rate: float  # images a second
    model_rate: float  # images a second
    shared: bool  # both use the CPU's cores

    def report(self, echo: int) -> str:
        """Returns the figures and advice as a few lines of text."""
        lines = [
            f"input alone: {self.input_rate:,.0f} images/s on {plural(cores(), 'CPU core')}",
            f"network alone: {self.model_rate:,.0f} images/s",
        ]
        if self.shared:
            rate = 1 / (1 / self.input_rate + 1 / self.model_rate)
            share, bearable = rate / self.input_rate, 0.25
            lines.append(f"both on the same cores: {rate:,.0f} images/s, {share:.0%} input")
        else:
            share, bearable = max(0.0, 1 - self.input_rate / self.model_rate), 0.05
            lines.append(f"the devices would wait for input {share:.0%} of the time")
        advice = _ADVICE.format(crops=echo + 1) if share > bearable else "The network is the limit."
        return "\n".join([*lines, advice])


_ADVICE = """\
The input is the limit. Remedies, those that cost no accuracy first:
  more CPU cores, or fewer devices for these;
  records of smaller images: python -m datasets.convert ... --max_side 400;
  smaller images at first: --set 'images.progressive=(128, 160, 192)';
  {crops} crops of each decoded image: --set training.echo={crops}."""


def profile(loop: Loop, reader: Reader, seconds: float = SECONDS) -> Profile:
    """Measures input and network apart, `seconds` each; the loop is restored afterwards."""
    state = loop.state()
    batches = loop.batches(reader)
    per_replica = loop.micro_batch * loop.share.replicas
    held = [loop.strategy.experimental_local_results(part)[0] for part in next(batches)]
    count, took = _repeated(lambda: next(batches), seconds)
    same = tf.data.Dataset.from_tensors(tuple(held)).repeat()
    again = iter(loop.strategy.distribute_datasets_from_function(lambda _: same))
    loop.train(again, 2)
    count_one, took_one = _repeated(lambda: loop.train(again, 1), 0.0)
    call = max(1, int(_CALL_SECONDS * count_one / took_one))  # several steps a call, as in training
    calls, trained = _repeated(lambda: loop.train(again, call), seconds)
    steps = calls * call
    loop.restore(state, loop.precision)
    return Profile(
        input_rate=count * per_replica / took,
        model_rate=steps * loop.micro_steps * per_replica / trained,
        shared=not tf.config.list_physical_devices("GPU"),
    )


def _repeated(work, seconds: float) -> tuple[int, float]:
    count, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds or count < 2:
        work()
        count += 1
    return count, took


def choose_xla(loop: Loop, reader: Reader, deterministic: bool) -> None:
    """Lets XLA compile the network if that is faster on the GPUs; a collective.

    A run that goes on keeps its choice: another one computes other last digits.

    It is not used on CPUs, where it takes three times as long (SqueezeNet 1.1, 16 images, 2 cores
    under load: 6.1 s with, 2.1 s without, by `measure_xla`), nor where the replicas have a graph
    each (keras#19005, tensorflow#53140), see `Backward.shared`.
    """
    if not tf.config.list_physical_devices("GPU"):
        loop.use_xla(None)
        why = "the CPU's own kernels are faster"
    elif loop.strategy.num_replicas_in_sync > 1 and not loop.backward.shared:
        loop.use_xla(False)
        why = "a teacher or synchronised statistics keep it from several devices"
    elif deterministic:
        why = "a choice by time is not deterministic"
    elif loop.xla is not None:
        why = "as the run was begun"
    else:
        seconds = measure_xla(loop, loop.batches(reader))
        why = f"{1e3 * seconds[False]:.2f} ms without, {1e3 * seconds[True]:.2f} with"
    LOG.info("XLA for the network: %s; %s.", "on" if loop.xla else "off", why)


def measure_xla(loop: Loop, iterator) -> dict[bool, float]:
    """Times one micro-batch without XLA and with it, and chooses the faster for all workers.

    It leaves the loop as it was, but for the choice.

    Returns:
      This worker's seconds a micro-batch, by whether XLA compiles it; infinite if XLA cannot.
    """
    element = next(iterator)
    loop.strategy.run(loop.load)
    seconds = {jit: _time_pass(loop, element, jit) for jit in (False, True)}
    loop.update.discard_accumulated(loop.strategy)
    faster = devices.exchange(loop.strategy, [seconds[True] < seconds[False]])
    loop.use_xla(bool(faster.all()))
    return seconds


def _time_pass(loop: Loop, element, jit: bool, repeats: int = 10) -> float:
    try:
        loop.prepare(jit)

        @tf.function
        def compute(element):
            how = tf.constant(False), loop.phase.frozen, jit  # no statistics move
            loop.strategy.run(loop.micro_step, (*element, *how))

        for repeat in range(repeats + 2):
            if repeat == 2:  # the first builds and compiles, the second finds its memory
                loop.update.wait(loop.strategy)
                started = time.perf_counter()
            compute(element)
        loop.update.wait(loop.strategy)
    except tf.errors.OpError:
        return math.inf
    return (time.perf_counter() - started) / repeats
