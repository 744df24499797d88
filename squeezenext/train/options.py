"""What a training run is told beside its configuration: places, machines and habits."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from squeezenext import labels
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.records.manifest import Split

# What a training run works on, once the command line and the data have been looked at.


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, and on what.

    Attributes:
      config: with the data's number of classes.
      splits: "train" and, where there is one, "validation".
      classes: in label order.
      source: the model directory to fine-tune from, or None.
    """

    config: Config
    splits: Mapping[str, Split]
    classes: Sequence[labels.Label]
    source: Path | None


PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
OnBadRecord = Literal["stop", "skip"]
OnNan = Literal["stop", "rollback"]
Cluster = Literal["auto", "slurm", "none"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments of `train.train`; none of them belongs to the recipe.

    Attributes:
      model_dir: made if absent; see model/directory.py for what it will hold.
      data_dir: records with a manifest; else the two patterns of TF-slim shards.
      fine_tune_from: a model directory or a published model's name, whose weights to start from;
        the classifier is new where the number of classes differs.
      devices: the first so many GPUs, or logical CPU devices; 0: all GPUs, or one CPU.
      cluster: where the workers are named: auto is TF_CONFIG where it is set; see cluster.py.
      micro_batch_size: images a device takes at once; gradients are accumulated to the batch.
      deterministic: the same bits each time on the same machine; slower, on a CPU without oneDNN.
      on_nan: a gradient that is not finite stops the run, or takes it back to the last checkpoint
        and past the examples since; see nan.py.
      on_bad_record: at a damaged training record stop, or skip it; see bad_records.py.
      evaluate_every_epochs: 0 is only at the end.
      profile_input: measure the input and the network apart, print that, and train nothing.
    """

    model_dir: str | Path
    data_dir: str | Path | None = None
    training_file_pattern: str | None = None
    validation_file_pattern: str | None = None
    fine_tune_from: str | None = None
    devices: int = 0
    cluster: Cluster = "auto"
    precision: str = "auto"
    micro_batch_size: int | None = None
    seed: int = 0
    deterministic: bool = False
    on_nan: OnNan = "stop"
    on_bad_record: OnBadRecord = "stop"
    checkpoint_minutes: float = 10.0
    keep_checkpoints: int = 2
    evaluate_every_epochs: int = 1
    profile_input: bool = False

    def __post_init__(self):
        check_precision(self.precision)
        choices = (("cluster", Cluster), ("on_nan", OnNan), ("on_bad_record", OnBadRecord))
        for field, kind in choices:
            if getattr(self, field) not in get_args(kind):
                raise InputError(
                    f"--{field} {getattr(self, field)}: must be {' or '.join(get_args(kind))}."
                )


def check_precision(choice: str) -> None:
    """Raises:
    InputError: `choice` is neither "auto" nor one of `PRECISIONS`.
    """
    if choice not in ("auto", *PRECISIONS):
        raise InputError(f"--precision {choice}: must be auto or one of {', '.join(PRECISIONS)}.")
