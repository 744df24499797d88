"""Which limits training, the input or the network, and what to change (`--profile_input`)."""

import dataclasses
import os
import time

import tensorflow as tf

from squeezenext.records.reader import Reader
from squeezenext.training.loop import Loop

SECONDS = 10.0  # of each measurement


@dataclasses.dataclass(frozen=True)
class Profile:
    """Images a second of this process: decoding alone, and training on one batch again and again.

    On a CPU both share the cores, and training runs below either.
    """

    input_rate: float
    model_rate: float
    shared: bool  # the CPU computes the network, too

    @property
    def rate(self) -> float:
        """What training can reach: the slower of the two, or both in turn on the same cores."""
        if self.shared:
            return 1 / (1 / self.input_rate + 1 / self.model_rate)
        return min(self.input_rate, self.model_rate)

    def report(self, echo: int) -> str:
        """Returns the figures and the advice, a few lines for a person."""
        lines = [
            f"input alone: {self.input_rate:,.0f} images/s on {os.cpu_count()} CPU cores",
            f"network alone: {self.model_rate:,.0f} images/s",
        ]
        if self.shared:
            share = self.rate / self.input_rate
            lines.append(f"both on the same cores: {self.rate:,.0f} images/s, {share:.0%} input")
        else:
            waiting = max(0.0, 1 - self.input_rate / self.model_rate)
            lines.append(f"the devices would wait for input {waiting:.0%} of the time")
        limit = share > 0.25 if self.shared else waiting > 0.05
        return "\n".join([*lines, *(_advice(echo) if limit else ["The network is the limit."])])


def _advice(echo: int) -> list[str]:
    return [
        "The input is the limit. In the order of what it costs in accuracy:",
        "  more CPU cores, or fewer devices for these;",
        "  records of smaller images: python -m datasets.convert ... --max_side 400;",
        "  smaller images at first: --set 'images.progressive=(128, 160, 192)';",
        f"  {echo + 1} crops of each decoded image: --set training.echo={echo + 1}.",
    ]


def profile(loop: Loop, reader: Reader, seconds: float = SECONDS) -> Profile:
    """Measures; the loop is afterwards as it was.

    Args:
      reader: of the training split.
      seconds: of each of the two measurements, after a start that does not count.
    """
    state = loop.state()
    batches = loop.batches(reader)
    per_replica = loop.micro_batch * loop.share.replicas
    held = next(batches)
    count, took = _repeated(lambda: next(batches), seconds)
    again = iter(loop.strategy.distribute_datasets_from_function(lambda _: _same(loop, held)))
    loop.train(again, 2)
    steps, trained = _repeated(lambda: loop.train(again, 1), seconds)
    loop.restore(state, loop.precision)
    return Profile(
        input_rate=count * per_replica / took,
        model_rate=steps * loop.micro_steps * per_replica / trained,
        shared=not tf.config.list_physical_devices("GPU"),
    )


def _same(loop: Loop, held) -> tf.data.Dataset:
    local = [loop.strategy.experimental_local_results(part)[0] for part in held]
    return tf.data.Dataset.from_tensors(tuple(local)).repeat()


def _repeated(work, seconds: float) -> tuple[int, float]:
    count, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds or count < 2:
        work()
        count += 1
    return count, took
