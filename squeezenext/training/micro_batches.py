"""How many images of a batch a device takes at once."""

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
    sizes = [s for s in range(echo, min(limit, share) + 1, echo) if share % s == 0]
    if not sizes:
        raise InputError(f"training.echo {echo} does not divide each device's {share} images.")
    if sizes[-1] < _FEW < share:
        LOG.warning(
            "A device's %d images go through in micro-batches of %d, few for batch norm; take a "
            "batch that a number from %d to %d divides, or --micro_batch_size.",
            *(share, sizes[-1], _FEW, limit),
        )
    return sizes[-1]
