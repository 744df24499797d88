"""Which devices a run uses, how they are tied together, and in which precision they compute."""

import functools
import json
import os
from pathlib import Path

import tensorflow as tf

from squeezenext.errors import InputError

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


def strategy(devices: int = 0) -> tf.distribute.Strategy:
    """Returns the distribution for this process; call before TensorFlow touches a device.

    One device needs none, several take MirroredStrategy, TF_CONFIG in the environment
    MultiWorkerMirroredStrategy.

    Args:
      devices: the first so many GPUs, or so many logical CPU devices where there is no GPU;
        0 is all GPUs, or one CPU.

    Raises:
      InputError: there are fewer GPUs, or TF_CONFIG is not what TensorFlow understands.
    """
    names = _names(devices)
    if os.environ.get("TF_CONFIG"):
        _check_tf_config(os.environ["TF_CONFIG"])
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy() if len(names) == 1 else mirrored(tuple(names))


@functools.cache
def mirrored(names: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    """One strategy a set of devices and process.

    Each strategy numbers its collectives from 100, and two of them on the same devices mix theirs
    up: "Shape mismatch in the collective instance 100" (TensorFlow 2.21).
    """
    return tf.distribute.MirroredStrategy(names)


def make_deterministic() -> None:
    """Makes every operation give the same bits each time; call before TensorFlow touches a device.

    TensorFlow's own switch does not cover the CPU: a sum shared out among threads now and then
    differs in the last bit (fire2_expand3x3's bias gradient, by 1e-10, in 2 of 12 runs under
    load, TensorFlow 2.21). Operations still run beside each other, each in one thread.

    Raises:
      InputError: this process has used TensorFlow already.
    """
    try:
        if tf.config.threading.get_intra_op_parallelism_threads() != 1:
            tf.config.threading.set_intra_op_parallelism_threads(1)
    except RuntimeError as error:
        raise InputError("--deterministic comes too late in this process.") from error
    tf.config.experimental.enable_op_determinism()


def _names(devices: int) -> list[str]:
    """Returns the devices' names, after making the logical ones."""
    gpus = tf.config.list_physical_devices("GPU")
    if devices > len(gpus) > 0:
        raise InputError(f"--devices {devices}: this machine has {len(gpus)} GPUs.")
    if gpus:
        chosen = gpus[: devices or len(gpus)]
        tf.config.set_visible_devices(chosen, "GPU")
        for gpu in chosen:  # else the first process takes all memory of every GPU
            tf.config.experimental.set_memory_growth(gpu, True)
        return [f"GPU:{i}" for i in range(len(chosen))]
    if devices > 1:
        _split_cpu(devices)
    return [f"CPU:{i}" for i in range(devices or 1)]


def _split_cpu(devices: int) -> None:
    """Makes logical devices of the CPU, unless this process has enough of them already."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * devices
        )
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("CPU")) < devices:
            raise InputError(f"--devices {devices} comes too late in this process.") from error


def _check_tf_config(text: str) -> None:
    try:
        document = json.loads(text)
        workers = document["cluster"]["worker"]
        kind, index = document["task"]["type"], int(document["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            'TF_CONFIG is not {"cluster": {"worker": ["host:port", ...]}, '
            f'"task": {{"type": "worker", "index": 0}}}}: {error!r}.'
        ) from error
    if kind != "worker" or not 0 <= index < len(workers):
        raise InputError(f"TF_CONFIG: task {kind} {index} is none of the {len(workers)} workers.")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Says whether this process is the one that writes files."""
    resolver = strategy.cluster_resolver
    return resolver is None or not resolver.task_id


def workers(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Returns (this worker's number, number of workers)."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec().as_dict():
        return 0, 1
    return resolver.task_id or 0, len(resolver.cluster_spec().as_dict()["worker"])


def precision(choice: str) -> str:
    """Returns the Keras dtype policy for `--precision`: one of `PRECISIONS`, or "auto".

    "auto": float16 on GPUs; bfloat16 on CPUs with AVX512-BF16 or AMX, where SqueezeNet 1.1
    trains 2.5 times as fast (docs/benchmarks.md); else float32.

    Raises:
      InputError: no such choice.
    """
    if choice in PRECISIONS:
        return choice
    if choice != "auto":
        raise InputError(f"--precision {choice}: must be auto or one of {', '.join(PRECISIONS)}.")
    if tf.config.list_physical_devices("GPU"):
        return "mixed_float16"
    return "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & _cpu_features() else "float32"


def _cpu_features() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return set()
    lines = [line for line in text.splitlines() if line.startswith("flags")]
    return set(lines[0].split()) if lines else set()
