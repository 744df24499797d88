"""Plants NaN on each replica in turn and checks the weights and the loss scale.

    python -m scripts.faults.nan --devices 4 --folder DIR

With TF_CONFIG set, this is one of several workers. Prints {"replicas", "unharmed", "scale_fell"}
as JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np
from absl import flags

from squeezenext import cli as command_line
from squeezenext.train import cluster, devices, loop
from tests import tiny

STEPS = 2  # steps with NaN on each replica


class Planted(loop.Loop):
    """A loop in which the images of replica `bad` become NaN; -1: of none."""

    def __init__(self, config, **options):
        import tensorflow as tf  # after squeezenext, which says how it is to compute

        self.bad = tf.Variable(-1, trainable=False)
        super().__init__(config, **options)
        self.backward.shared = False  # the replicas' graphs differ
        augment = self.backward._augment

        def planted(images, labels, numbers):
            pixels, inputs, targets = augment(images, labels, numbers)
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            factor = tf.where(tf.equal(replica, self.bad), float("nan"), 1.0)
            return pixels, inputs * factor, targets

        self.backward._augment = planted


def planted_loop(devices_used: int) -> Planted:
    strategy = devices.strategy(devices_used, cluster.find_cluster("auto"))
    return Planted(
        tiny.SQUEEZENEXT,
        strategy=strategy,
        precision="mixed_float16",
        examples=40,
        micro_batch=tiny.TRAINING.batch_size // strategy.num_replicas_in_sync,
        seed=3,
    )


def plant(made: Planted, batches) -> dict:
    """Trains with NaN on each replica in turn, then without."""
    local = made.strategy.experimental_local_results
    before = [weight.numpy() for weight in made.update.weights]
    scale, fell = float(made.update.loss_scale.numpy()), True
    for replica in range(made.share.total):
        made.bad.assign(replica)
        made.train(batches, STEPS)
        scale /= 2**STEPS
        fell &= all(copy.numpy() == scale for copy in local(made.update.loss_scale))
    unharmed = np.isfinite(made.statistics.rows()).all()
    for old, weight in zip(before, made.update.weights, strict=True):
        unharmed &= all(np.array_equal(copy.numpy(), old) for copy in local(weight.value))
    made.bad.assign(-1)
    made.train(batches, STEPS)
    learnt = any(
        not np.array_equal(weight.numpy(), old)
        for old, weight in zip(before, made.update.weights, strict=True)
    )
    return {
        "replicas": made.share.total,
        "unharmed": bool(unharmed and learnt),
        "scale_fell": bool(fell),
    }


def main() -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_integer("devices", 0, "Number of logical devices; 0 with TF_CONFIG.", 0, **at)
    flags.DEFINE_string("folder", None, "Folder for the records.", **at)

    def command(values, _):
        reader = tiny.reader(Path(values["folder"].value))
        made = planted_loop(values["devices"].value)
        print(json.dumps(plant(made, made.batches(reader))))

    return command_line.run(command, values, __doc__)


if __name__ == "__main__":
    sys.exit(main())
