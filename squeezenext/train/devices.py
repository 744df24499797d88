"""The devices of a run: their strategy, precision, exchange of numbers, and share of a batch."""

import functools
import os
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from squeezenext import tf_import
from squeezenext.cli import plural
from squeezenext.config import Config
from squeezenext.errors import InputError, install
from squeezenext.network.convolutions import bfloat16_sum, sums_bfloat16
from squeezenext.records.batches import Share
from squeezenext.train.cluster import Cluster
from squeezenext.train.log import LOG
from squeezenext.train.options import PRECISIONS, check_precision

MAX_CPU_DEVICES = 64  # more would only take longer


def strategy(devices: int = 0, cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """Returns the strategy for this process; call before TensorFlow touches a device.

    One device gets the default strategy, several MirroredStrategy, a cluster
    MultiWorkerMirroredStrategy, which waits here until all workers have come.

    Args:
      devices: number of GPUs, the first ones, or of logical CPU devices if there is no GPU; 0: all
        GPUs, or one CPU.
      cluster: the workers, if there are several.

    Raises:
      InputError: there are fewer GPUs, TensorFlow has no kernels for them or does not use them, or
        a worker would have several CPU devices.
    """
    if cluster is not None and devices > 1 and not tf.config.list_physical_devices("GPU"):
        raise InputError(
            f"--devices {devices}: a worker without GPUs has one device; start more workers."
        )
    found = names(devices)
    if found[0].startswith("CPU") and tf_import.has_gpu_driver():
        _warn_that_no_gpu_is_seen()
    if cluster is not None:
        return _multi_worker(cluster, found)
    return tf.distribute.get_strategy() if len(found) == 1 else mirrored(tuple(found))


@functools.cache  # the commands that train several networks ask for several strategies
def _warn_that_no_gpu_is_seen() -> None:
    LOG.warning(
        "A GPU's driver is on this machine, but TensorFlow sees no GPU, so the CPU computes. "
        f"If NVIDIA's libraries are missing, {install('cuda')}; CUDA_VISIBLE_DEVICES=-1 says that "
        "the CPU is meant."
    )


def _multi_worker(
    cluster: Cluster, names: Sequence[str]
) -> tf.distribute.MultiWorkerMirroredStrategy:
    """Returns the strategy of workers that have these devices each; it waits for all of them.

    TensorFlow 2.21 itself counts GPUs only for workers that TF_CONFIG names, else it takes the CPU.
    And it lets GPUs of several machines exchange gradients by gRPC unless NCCL is asked for.
    """
    spec = tf.train.ClusterSpec({"worker": list(cluster.workers)})
    gpus = [name for name in names if name.startswith("GPU")]
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec,
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
        num_accelerators={"GPU": len(gpus)} if gpus else None,
    )
    ways = tf.distribute.experimental.CommunicationImplementation
    strategy = tf.distribute.MultiWorkerMirroredStrategy(
        resolver,
        tf.distribute.experimental.CommunicationOptions(
            implementation=ways.NCCL if gpus else ways.AUTO
        ),
    )
    wanted = len(cluster.workers) * len(names)
    if (used := strategy.num_replicas_in_sync) != wanted:
        raise InputError(
            f"TensorFlow trains on {plural(used, 'device')}, but {len(cluster.workers)} workers "
            f"with {plural(len(names), 'device')} each have {wanted}; give --devices 1 and start a "
            "worker for each GPU."
        )
    return strategy


@functools.cache
def mirrored(names: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    """Returns the one MirroredStrategy of a set of devices in this process.

    Each strategy numbers its collectives from 100, so two of them on the same devices confuse
    them: "Shape mismatch in the collective instance 100" (TensorFlow 2.21).
    """
    ignored = os.environ.pop("TF_CONFIG", None)  # TensorFlow fails if it is empty or no JSON
    try:
        return tf.distribute.MirroredStrategy(names)
    finally:
        if ignored is not None:
            os.environ["TF_CONFIG"] = ignored


def make_deterministic() -> None:
    """Makes every operation give the same bits each time; call before TensorFlow touches a device.

    TensorFlow's own switch does not cover the CPU. A sum divided among an operation's threads
    sometimes differs in the last bit, so there is one thread. And under load oneDNN's first
    convolution on a thread sometimes makes a gradient differ by 1e-10 (one process in ten,
    TensorFlow 2.21; one thread for the operations makes it rarer, one core for the process does
    not help), so training does without oneDNN, see `tf_import.without_onednn`.

    Raises:
      InputError: this process has used TensorFlow already.
    """
    if tf_import.onednn():
        raise InputError(
            f"--deterministic comes too late in this process; set {tf_import.ONEDNN}=0 before "
            "TensorFlow is imported."
        )
    threading = tf.config.threading
    try:
        if threading.get_intra_op_parallelism_threads() != 1:
            threading.set_intra_op_parallelism_threads(1)
        if threading.get_inter_op_parallelism_threads() != 1:
            threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        raise InputError(
            "--deterministic comes too late in this process, which has computed with TensorFlow; "
            "train first, or in a process of its own."
        ) from error
    tf.config.experimental.enable_op_determinism()


def names(devices: int) -> list[str]:
    """Returns the names of the devices that `strategy(devices)` takes, after creating logical ones.

    Raises:
      InputError: there are fewer GPUs, TensorFlow has no kernels for them, or it has used another
        number of devices already.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if devices > len(gpus) > 0:
        raise InputError(
            f"--devices {devices}: this machine has {plural(len(gpus), 'GPU')}; 0 takes all."
        )
    if gpus:
        chosen = gpus[: devices or len(gpus)]
        _check_kernels(chosen)
        try:
            tf.config.set_visible_devices(chosen, "GPU")
            for gpu in chosen:  # else the first process takes all memory of every GPU
                tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError as error:  # TensorFlow uses devices already, perhaps fewer or more
            chosen = tf.config.get_visible_devices("GPU")[: devices or None]
            if len(chosen) < max(1, devices):
                raise InputError(
                    f"--devices {devices} comes too late in this process; begin another one."
                ) from error
        return [f"GPU:{i}" for i in range(len(chosen))]
    if devices > 1:
        _split_cpu(devices)
    return [f"CPU:{i}" for i in range(devices or 1)]


def capability(gpu: tf.config.PhysicalDevice) -> tuple[int, int] | None:
    """Returns a GPU's compute capability, None if it has none, as AMD's."""
    return tf.config.experimental.get_device_details(gpu).get("compute_capability")


def _check_kernels(gpus: Sequence[tf.config.PhysicalDevice]) -> None:
    """Refuses GPUs that this TensorFlow was not built for: it would start and then fail.

    Kernels for 9.0 do not run on 10.0 and 12.0: "CUDA_ERROR_INVALID_PTX", after half an hour of
    compilation (tensorflow#89272, TensorFlow 2.21).
    """
    built = tf.sysconfig.get_build_info().get("cuda_compute_capabilities", ())
    known = sorted(int(number) for text in built for number in re.findall(r"\d+", text))
    for gpu in gpus if known else ():
        have = capability(gpu)
        if have and not known[0] <= 10 * have[0] + have[1] < known[-1] // 10 * 10 + 10:
            name = tf.config.experimental.get_device_details(gpu).get("device_name", "a GPU")
            raise InputError(
                f"{gpu.name} ({name}) has compute capability {have[0]}.{have[1]}; TensorFlow "
                f"{tf.__version__} has kernels for {known[0] / 10} to {known[-1] / 10}. Take "
                "NVIDIA's container of TensorFlow, or choose other GPUs by CUDA_VISIBLE_DEVICES "
                "(-1: none, the CPU computes)."
            )


def _split_cpu(devices: int) -> None:
    """Divides the CPU into logical devices, unless this process has enough of them already."""
    if devices > MAX_CPU_DEVICES:
        raise InputError(f"--devices {devices}: a CPU is divided into {MAX_CPU_DEVICES} at most.")
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * devices
        )
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("CPU")) < devices:
            raise InputError(
                f"--devices {devices} comes too late in this process; begin another one."
            ) from error


def worker_share(strategy: tf.distribute.Strategy) -> Share:
    """Returns this worker's part of all replicas."""
    resolver, total = strategy.cluster_resolver, strategy.num_replicas_in_sync
    tasks = resolver.cluster_spec().as_dict() if resolver else {}
    if not tasks:
        return Share(0, total, total)
    replicas = total // len(tasks["worker"])
    return Share((resolver.task_id or 0) * replicas, replicas, total)


def exchange(strategy: tf.distribute.Strategy, numbers: Sequence[int]) -> np.ndarray:
    """Returns the numbers of all workers, [workers, n] int64; a collective."""
    share = worker_share(strategy)
    rows = np.zeros((share.total // share.replicas, len(numbers)), np.int64)
    rows[share.first // share.replicas] = numbers
    if len(rows) == 1:
        return rows

    def own(context):  # a worker's first replica contributes its numbers
        first = context.replica_id_in_sync_group == share.first
        return tf.constant(rows if first else np.zeros_like(rows))

    shared = strategy.experimental_distribute_values_from_function(own)
    return strategy.reduce(tf.distribute.ReduceOp.SUM, shared, axis=None).numpy()


def precision(choice: str) -> str:
    """Returns the one of `PRECISIONS` that `--precision` asks for, which may be "auto".

    Call after `strategy`, for this computes on the CPU to see what it can do.

    "auto": on GPUs bfloat16 from compute capability 8.0 on, which needs no loss scale, float16 on
    those of 7.x, whose tensor cores know no other, and float32 on older ones, which have none;
    bfloat16 on CPUs with AVX512-BF16 or AMX, where SqueezeNet 1.1 trains twice as fast
    (scripts/benchmarks/train.py); else float32.

    Raises:
      InputError: no such choice, or one that the GPUs or oneDNN have no kernels for.
    """
    check_precision(choice)
    gpus = tf.config.get_visible_devices("GPU")
    if choice == "mixed_bfloat16" and not gpus and not bfloat16_sum():
        raise InputError(
            "--precision mixed_bfloat16: oneDNN has no kernels for it under this "
            "ONEDNN_MAX_CPU_ISA; unset that, or take float32."
        )
    oldest = min((capability(gpu) or (7, 0) for gpu in gpus), default=(0, 0))
    if choice == "tf32" and oldest < (8, 0):
        raise InputError(
            "--precision tf32 needs GPUs of compute capability 8.0 or later, such as an A100; "
            "give --precision float32."
        )
    if choice != "auto":
        return choice
    if gpus:
        if oldest < (7, 0):
            return "float32"
        return "mixed_bfloat16" if oldest >= (8, 0) else "mixed_float16"
    fast = {"avx512_bf16", "amx_bf16"} & tf_import.cpu_features() and sums_bfloat16()
    return "mixed_bfloat16" if fast else "float32"


def agreed_precision(choice: str, strategy: tf.distribute.Strategy) -> str:
    """Returns the `precision` that all workers can take, whose devices may differ; a collective."""
    found = exchange(strategy, [PRECISIONS.index(precision(choice))])
    return PRECISIONS[int(found.min())]


_FEW = 16  # images; fewer are too few for batch norm's statistics


def micro_batch(config: Config, strategy: tf.distribute.Strategy, wanted: int | None = None) -> int:
    """Returns the images that a replica takes at once: `wanted`, or else a fast number.

    Raises:
      InputError: the batch does not divide among the replicas, or a share into such parts.
    """
    batch, replicas = config.training.batch_size, strategy.num_replicas_in_sync
    share, rest = divmod(batch, replicas)
    if rest:
        raise InputError(
            f"--batch_size {batch} does not divide among {replicas} devices; give another, such "
            f"as {max(replicas, batch - rest)} (training.batch_size)."
        )
    echo = config.training.echo
    if wanted:
        if wanted < 1 or share % wanted or wanted % echo:
            raise InputError(
                f"--micro_batch_size {wanted} does not divide each device's {share} images into "
                f"whole groups of training.echo {echo}."
            )
        return wanted
    limit = 256 if tf.config.list_physical_devices("GPU") else 32
    possible = sizes(share, echo, max(limit, echo))
    if not possible:
        raise InputError(
            f"training.echo {echo} does not divide each device's {share} images; "
            "give another --set training.echo, or another --batch_size."
        )
    if possible[-1] < _FEW < share:
        LOG.warning(
            "A device's %d images go through in micro-batches of %d, few for batch norm; take a "
            "batch that a number from %d to %d divides, or --micro_batch_size.",
            *(share, possible[-1], _FEW, limit),
        )
    return possible[-1]


def fitted_batch(config: Config, replicas: int, wanted: int | None, images: int) -> int:
    """Returns the recipe's batch, or the largest one up to `images` that the devices can share.

    Args:
      config: the configuration.
      replicas: number of devices.
      wanted: images that a replica takes at once, or None.
      images: number of images that training sees in an epoch, or in less than one.
    """
    batch, echo = config.training.batch_size, config.training.echo
    unit = replicas * (wanted or echo)
    for fitting in range(images // unit * unit, 0, -unit) if batch > images else ():
        share = fitting // replicas
        if wanted or sizes(share, echo, max(2 * _FEW, echo))[-1] >= min(_FEW, share):
            return fitting
    return batch


def sizes(share: int, echo: int, limit: int) -> list[int]:
    """Returns the possible micro-batches of a replica's share, up to `limit`, in order."""
    return [s for s in range(echo, min(limit, share) + 1, echo) if share % s == 0]
