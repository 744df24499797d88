"""Compares a GPU's gradients with the CPU's and times training steps: scripts/check_gpu.sh's part.

    python scripts/benchmarks/gpu.py --check correct --configuration squeezenet_v1_1
    python scripts/benchmarks/gpu.py --check speed --batch_size 256 --precision mixed_float16 --xla
    python scripts/benchmarks/gpu.py --check export --batch_size 256 --output FOLDER/NAME

"export" writes the pass of a micro-batch for a machine that has JAX, but no TensorFlow. All three
run on a machine without a GPU, too; the other two then test no more than this program.
"""

import dataclasses
import gzip
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli, files, tf_import
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.errors import SomeInputsFailed
from squeezenext.train.options import PRECISIONS

SCALE = 256.0  # factor of a float16 loss: small gradients survive, large ones fit
ROUNDS = 3  # times that steps are timed
# How far a gradient may be from float32's on the CPU, as a share of its length. On a CPU SqueezeNet
# 1.1 was 4e-7 away in float32 and 8e-3 in float16; TF32 has float16's digits, bfloat16 three fewer.
LIMITS = {"float32": 1e-4, "tf32": 0.03, "mixed_float16": 0.03, "mixed_bfloat16": 0.2}
# Places and precisions that are compared with the first; the last word: whether XLA compiles.
ON_CPU = (("CPU:0", "float32", False), ("CPU:0", "mixed_bfloat16", False))
ON_GPU = (
    ("CPU:0", "float32", False),
    ("GPU:0", "float32", False),
    ("GPU:0", "tf32", False),
    ("GPU:0", "mixed_float16", False),
    ("GPU:0", "mixed_float16", True),
    ("GPU:0", "mixed_bfloat16", False),
)


def sized(config: Config, size: int, batch: int) -> Config:
    """Returns the configuration with images of `size` (0: its own), all equal, and the batch."""
    images = dataclasses.replace(config.images, progressive=())
    if size:
        images = dataclasses.replace(images, size=size, resize=size + 8)
    training = dataclasses.replace(config.training, batch_size=batch, frozen_epochs=0)
    return dataclasses.replace(config, images=images, training=training)


def _loop(config: Config, precision: str, batch_statistics: bool):
    import tensorflow as tf

    from squeezenext.train import devices
    from squeezenext.train.loop import Loop

    devices.strategy(1 if tf.config.list_physical_devices("GPU") else 0)  # sets up the memory
    batch = config.training.batch_size
    how = {"examples": batch, "micro_batch": batch, "seed": 0}
    strategy = tf.distribute.get_strategy()
    statistics = {"batch_statistics": batch_statistics}
    return Loop(config, strategy=strategy, precision=precision, **how, **statistics)


def gradient(config: Config, place: str, precision: str, xla: bool):
    """Returns the gradient of one batch at random weights, without dropout, as an array."""
    import numpy as np
    import tensorflow as tf

    from squeezenext.train.measure import random_batch

    scale = SCALE if precision == "mixed_float16" else 1.0
    with tf.device(place):
        loop = _loop(config, precision, False)
        loop.load()
        loop.prepare(xla)
        how = tf.constant(False), False, xla  # no statistics move, no layer is frozen
        found, _ = loop.backward.run(
            tf.constant(scale), *random_batch(config, config.training.batch_size), *how
        )
    return np.asarray(found) / scale


def correct(config: Config) -> None:
    """Prints a line for each place and precision.

    Raises:
      SomeInputsFailed: a gradient is wrong.
    """
    import numpy as np
    import tensorflow as tf

    kinds = ON_GPU if tf.config.list_physical_devices("GPU") else ON_CPU
    reference = gradient(config, *kinds[0])
    wrong = False
    for place, precision, xla in kinds[1:]:
        found = gradient(config, place, precision, xla)
        error = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
        verdict = "right" if error <= LIMITS[precision] else "WRONG"  # NaN is wrong
        wrong |= verdict == "WRONG"
        compiled = ", XLA" if xla else ""
        cli.say(f"{place} {precision}{compiled}: {error:.1e} from the CPU's gradient, {verdict}")
    if wrong:
        raise SomeInputsFailed("A gradient is further from the CPU's than its precision explains.")


def export(config: Config, precision: str, compare: bool, path: Path) -> None:
    """Writes the pass of a micro-batch on a GPU as PATH.mlir.gz (StableHLO) and PATH.npz.

    The .npz has the arguments `arr_0` and so on, with the shape of the pixels in their place
    (`images`), the `scale` of the loss, and the `expected` gradient, empty unless `compare`, with
    its `limit`.
    """
    import numpy as np
    import tensorflow as tf

    from squeezenext.train.measure import random_batch

    loop, batch = _loop(config, precision, not compare), config.training.batch_size
    loop.load()
    scale = SCALE if precision == "mixed_float16" else 1.0
    inputs = loop.backward.inputs(tf.constant(scale), *random_batch(config, batch))
    flat = tf.nest.flatten(inputs)

    def compute(*tensors):
        return loop.backward.compute(False, *tf.nest.pack_sequence_as(inputs, list(tensors)))

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in flat]
    with tf.device("GPU:0"):  # chooses the ways of a GPU, which need not be here
        compiled = tf.function(compute, jit_compile=True, autograph=False)
        text = compiled.experimental_get_compiler_ir(*specs)(stage="stablehlo")
    files.make_missing(path.parent)
    with gzip.open(f"{path}.mlir.gz", "wt") as file:
        file.write(text)
    arrays = [tensor.numpy() for tensor in flat]
    images = next(i for i, array in enumerate(arrays) if array.dtype == np.uint8)
    arrays[images] = np.array(arrays[images].shape)
    expected = gradient(config, "CPU:0", "float32", False) if compare else ()
    limit = LIMITS["tf32" if precision == "float32" else precision]  # XLA takes TF32 on a GPU
    more = {"scale": scale, "expected": expected, "limit": limit, "images": images}
    np.savez_compressed(f"{path}.npz", *arrays, **more)


def speed(config: Config, precision: str, xla: bool, steps: int) -> str:
    """Times whole steps on a batch that is copied to the device each time.

    Training with one GPU copies ahead, so that this is a lower bound of its speed.
    """
    import tensorflow as tf

    from squeezenext.train.measure import random_batch

    loop = _loop(config, precision, True)
    loop.use_xla(xla)
    batch = config.training.batch_size
    with tf.device("CPU:0"):
        data = tf.data.Dataset.from_tensors(random_batch(config, batch)).repeat()
    iterator = iter(loop.strategy.distribute_datasets_from_function(lambda _: data))

    def seconds(count: int) -> float:
        started = time.perf_counter()
        loop.train(iterator, count)  # its sums come to the host, so it waits for the device
        return time.perf_counter() - started

    first = seconds(1)
    seconds(2)
    rates = [steps * batch / seconds(steps) for _ in range(ROUNDS)]
    text = f"{statistics.median(rates):,.0f} images/s ({min(rates):,.0f} to {max(rates):,.0f})"
    return f"{text}, first step {first:.0f} s{_memory()}"


def _memory() -> str:
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return ""
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return f", {peak / 2**30:.1f} GiB at most"


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_enum("check", None, ["correct", "speed", "export"], "What to do.", **at)
    flags.DEFINE_string("configuration", "v_1_0_SqNxt_23", "Name of the network.", **at)
    flags.DEFINE_integer("batch_size", 32, "Images in a batch.", 1, **at)
    flags.DEFINE_integer("size", 0, "Side of the images; 0: the configuration's.", 0, **at)
    flags.DEFINE_enum("precision", "float32", PRECISIONS, "Precision of --check speed.", **at)
    flags.DEFINE_bool("xla", False, "XLA compiles the pass of --check speed.", **at)
    flags.DEFINE_bool("compare", False, "The exported pass has a gradient to compare with.", **at)
    flags.DEFINE_string("output", "pass", "Path of --check export, without its end.", **at)
    flags.DEFINE_integer("steps", 20, "Steps to time together.", 1, **at)
    return values


def _command(values: flags.FlagValues, positional: list[str]) -> None:
    del positional
    tf_import.import_tensorflow()
    config = config_io.load(values["configuration"].value)
    config = sized(config, values["size"].value, values["batch_size"].value)
    if values["check"].value == "correct":
        correct(config)
        return
    if values["check"].value == "export":
        how = values["precision"].value, values["compare"].value, Path(values["output"].value)
        export(config, *how)
        return
    cli.say(speed(config, *(values[name].value for name in ("precision", "xla", "steps"))))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the check; returns its exit code."""
    return cli.run(_command, _flags(), __doc__, argv, required=("check",))


if __name__ == "__main__":
    sys.exit(main())
