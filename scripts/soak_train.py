"""Trains for a long time and watches resident memory and retracing.

    python scripts/soak_train.py [--steps 2000] [--configuration NAME]

Training, checkpoints and evaluations alternate as in an ordinary run. Resident memory is taken
every 100 steps; its slope over the second half must stay below 1 MB in 100 steps, and no function
may be traced again after the first evaluation. Exit code 0: so it was; 1: it was not.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from squeezenext import config_io, quiet
from squeezenext import flags as command_line
from squeezenext.errors import SomeInputsFailed

EVERY = 100
LIMIT = 1.0  # MB in 100 steps


def resident() -> float:
    """MB of this process in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise SomeInputsFailed("/proc/self/status does not tell the resident memory.")


def soak(configuration: str, steps: int, batch: int) -> None:
    """Prints a line every 100 steps.

    Raises:
      SomeInputsFailed: memory grows, or a function is traced again.
    """
    config = config_io.override(config_io.load(configuration), f"training.batch_size={batch}")
    quiet.import_tensorflow()
    import tensorflow as tf

    from squeezenext.training.loop import Loop
    from squeezenext.training.snapshots import Progress, Snapshots
    from tests import tiny

    with tempfile.TemporaryDirectory() as folder:
        reader = tiny.reader(Path(folder), 256)
        loop = Loop(
            config_io.override(config, f"model.classes={tiny.CLASSES}"),
            strategy=tf.distribute.get_strategy(),
            precision="float32",
            examples=256,
            micro_batch=batch,
            seed=0,
        )
        snapshots = Snapshots(loop, Path(folder), examples=256, chief=True, keep=2)
        batches = loop.batches(reader)
        memory, traces = [], []
        for step in range(EVERY, steps + 1, EVERY):
            loop.train(batches, EVERY)
            loop.evaluate(reader, batch)
            snapshots.save(Progress(), loop.state())
            memory.append(resident())
            functions = (loop._train, loop._score)
            traces.append(sum(f.experimental_get_tracing_count() for f in functions))
            print(f"step {step}: {memory[-1]:.1f} MB, {traces[-1]} traces", flush=True)
    half = memory[len(memory) // 2 :]
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0])
    print(f"slope of the second half: {slope:+.3f} MB in {EVERY} steps")
    if slope >= LIMIT or len(set(traces)) > 1:
        raise SomeInputsFailed(f"Memory grows by {slope:.2f} MB in {EVERY} steps, or {traces}.")


def main() -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_integer("steps", 2000, "Of training.", 400, **at)
    flags.DEFINE_integer("batch_size", 8, "Images.", 1, **at)
    flags.DEFINE_string("configuration", "quickstart", "The network.", **at)

    def command(values, _):
        soak(values["configuration"].value, values["steps"].value, values["batch_size"].value)

    return command_line.run(command, values, __doc__)


if __name__ == "__main__":
    sys.exit(main())
