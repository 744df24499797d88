"""How many images of a batch a device takes at once."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.training.history import LOG

_FEW = 16  # images for batch norm's statistics


def size(config: Config, strategy: tf.distribute.Strategy, wanted: int | None = None) -> int:
    """Returns how many images a replica takes at once, a divisor of its share of the batch.

    Args:
      config: its `training.batch_size` is that of all replicas together.
      wanted: so many, if they divide the share; None: as many as are fast.

    Raises:
      InputError: the batch does not divide among the devices, or a share as is wanted.
    """
    batch, replicas = config.training.batch_size, strategy.num_replicas_in_sync
    share, rest = divmod(batch, replicas)
    if rest:
        raise InputError(
            f"--batch_size {batch} does not divide among {replicas} devices; give another "
            "(training.batch_size)."
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
    sizes = _sizes(share, echo, limit)
    if not sizes:
        raise InputError(f"training.echo {echo} does not divide each device's {share} images.")
    if sizes[-1] < _FEW < share:
        LOG.warning(
            "A device's %d images go through in micro-batches of %d, few for batch norm; take a "
            "batch that a number from %d to %d divides, or --micro_batch_size.",
            *(share, sizes[-1], _FEW, limit),
        )
    return sizes[-1]


def _sizes(share: int, echo: int, limit: int) -> list[int]:
    """Returns what divides a replica's share of the batch, up to `limit`, the smallest first."""
    return [s for s in range(echo, min(limit, share) + 1, echo) if share % s == 0]


@contextlib.contextmanager
def memory_named(config: Config, strategy: tf.distribute.Strategy, now: int) -> Iterator[None]:
    """Turns TensorFlow's account of a device whose memory is full into what one can do.

    Args:
      config: as for `size`.
      strategy: the same.
      now: images a replica takes at once.

    Raises:
      InputError: the memory was full.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        if not re.search(r"OOM|memory", error.message, re.IGNORECASE):  # a disk can be full, too
            raise
        share = config.training.batch_size // strategy.num_replicas_in_sync
        less = _sizes(share, config.training.echo, now // 2)
        remedy = f"run again with --micro_batch_size {less[-1]}" if less else "take smaller images"
        raise InputError(
            f"A device's memory is too small for {now} images at once; {remedy}."
        ) from error
