"""The damaged records that a run leaves out: one list of all workers, written with each save."""

from pathlib import Path

import tensorflow as tf

from squeezenext.records import bad_records
from squeezenext.records.reader import Reader
from squeezenext.training import devices


def share(reader: Reader, strategy: tf.distribute.Strategy) -> None:
    """Tells all workers what any of them has left out; all must call this together.

    Raises:
      InputError: together that is too much.
    """
    if (bad := reader.bad) is None:
        return
    mine = bad.numbers
    most = devices.exchange(strategy, [len(mine)]).max()
    if most:
        rows = devices.exchange(strategy, mine + [-1] * (most - len(mine)))
        bad.merge(rows[rows >= 0].tolist())


def write(reader: Reader, model_dir: Path) -> None:
    """Lists them in the model directory. Raises OSError."""
    if reader.bad is not None:
        reader.bad.write(model_dir / bad_records.FILE)
