"""Trains for a long time and watches resident memory and retracing.

    python scripts/faults/soak_train.py [--steps 2000] [--configuration NAME]

It is an ordinary run with checkpoints, TensorBoard, an evaluation of the moving averages after each
epoch, and images that grow half-way. Resident memory is read every 100 steps. In the last 45 % of
the steps its slope must stay below 1 MB in 100 steps, and no function may be traced again. Exit
code 0: both hold; 1: one does not.
"""

import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli as command_line
from squeezenext import tf_import
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.errors import SomeInputsFailed

EVERY = 100
LIMIT = 1.0  # MB in 100 steps
SETTLED = 0.55  # share of the steps after which the images no longer grow
EXAMPLES = 256
SETTINGS = ("training.ema=0.99", "training.optimizer=adamw", "training.learning_rate=0.01")


def resident() -> float:
    """Returns the resident memory of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise SomeInputsFailed("/proc/self/status has no VmRSS.")


def configured(name: str, steps: int, batch: int, classes: int) -> Config:
    """Returns a small recipe that contains every change that a run can make on its way."""
    config = config_io.load(name)
    size = config.images.size
    settings = (
        *SETTINGS,
        f"training.batch_size={batch}",
        f"training.epochs={steps * batch / EXAMPLES}",
        f"model.classes={classes}",
        f"images.progressive=({max(8, size // 2)}, {max(8, 3 * size // 4)})",
    )
    return config_io.override(config, *settings)


class Watch:
    """Records (step, MB, traces) of a run every `EVERY` steps, in a thread."""

    def __init__(self, run):
        self.rows: list[tuple[int, float, int]] = []
        self._run = run
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            step = self._run.loop.step
            if step // EVERY > (self.rows[-1][0] // EVERY if self.rows else 0):
                self.rows.append((step, resident(), self._traces()))
                print("step {}: {:.1f} MB, {} traces".format(*self.rows[-1]), flush=True)

    def _traces(self) -> int:
        loop = self._run.loop
        functions = (
            loop._train,
            loop.evaluator._score,
            loop.statistics._gather,
            loop.statistics.assign,
        )
        return sum(function.experimental_get_tracing_count() for function in functions)


def soak(configuration: str, steps: int, batch: int) -> None:
    """Runs the training and prints a line every 100 steps.

    Raises:
      SomeInputsFailed: memory grows, or a function is traced again.
    """
    tf_import.import_tensorflow()
    import tensorflow as tf

    from squeezenext.labels import Label
    from squeezenext.train import exchange
    from squeezenext.train.loop import Loop
    from squeezenext.train.options import Options
    from squeezenext.train.run import Run
    from tests import tiny

    config = configured(configuration, steps, batch, tiny.CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        reader = tiny.reader(Path(folder), EXAMPLES)
        model_dir = Path(folder) / "model"
        model_dir.mkdir()
        classes = [Label(f"n{i}", f"class {i}") for i in range(tiny.CLASSES)]
        exchange.create(model_dir, config, classes)
        loop = Loop(
            config,
            strategy=tf.distribute.get_strategy(),
            precision="float32",
            examples=EXAMPLES,
            micro_batch=batch,
            seed=0,
        )
        run = Run(loop, reader, reader, Options(model_dir=model_dir))
        with Watch(run) as watch:
            run.run()
    judge(watch.rows, steps)


def judge(rows: list[tuple[int, float, int]], steps: int) -> None:
    """Prints the slope of memory and the number of new traces in the last part of the run.

    Raises:
      SomeInputsFailed: memory grows, or a function is traced again.
    """
    settled = [row for row in rows if row[0] > SETTLED * steps]
    if len(settled) < 3:
        raise SomeInputsFailed(f"Only {len(settled)} looks after step {SETTLED * steps:.0f}.")
    slope = EVERY * float(np.polyfit(*zip(*(row[:2] for row in settled), strict=True), 1)[0])
    traces = {row[2] for row in settled}
    print("| steps | MB at the end | slope, MB in 100 steps | traces since |")
    print("|---|---|---|---|")
    print(f"| {steps} | {settled[-1][1]:.1f} | {slope:+.3f} | {max(traces) - min(traces)} |")
    if slope >= LIMIT or len(traces) > 1:
        raise SomeInputsFailed(f"Memory grows by {slope:.2f} MB in {EVERY} steps, or {traces}.")


def main() -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_integer("steps", 2000, "Training steps.", 400, **at)
    flags.DEFINE_integer("batch_size", 8, "Images a batch.", 1, **at)
    flags.DEFINE_string("configuration", "quickstart", "Configuration of the network.", **at)

    def command(values, _):
        soak(values["configuration"].value, values["steps"].value, values["batch_size"].value)

    return command_line.run(command, values, __doc__)


if __name__ == "__main__":
    sys.exit(main())
