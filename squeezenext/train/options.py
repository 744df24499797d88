"""The options of a training run beside its configuration: folders, machines, intervals."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from squeezenext import labels
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.records.manifest import Split

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
OnBadRecord = Literal["stop", "skip"]
OnNan = Literal["stop", "rollback"]
Cluster = Literal["auto", "slurm", "none"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `train.train`; none of them belongs to the recipe.

    Attributes:
      model_dir: directory of the run, made if absent; model/directory.py lists its files.
      data_dir: folder of shards and manifest.json.
      training_file_pattern: TF-slim shards, instead of `data_dir`.
      validation_file_pattern: TF-slim shards for validation.
      fine_tune_from: model directory or published model whose weights to start from; the
        classifier is new if the number of classes differs.
      devices: number of GPUs, or of logical CPU devices; 0: all GPUs, or one CPU.
      cluster: source of the workers' names; "auto": TF_CONFIG if it is set; see cluster.py.
      precision: "auto" or one of `PRECISIONS`.
      micro_batch_size: images a device takes at once; gradients accumulate up to the batch.
      seed: seed of initial weights, data order and augmentation.
      deterministic: the same bits each time on the same machine; slower, on a CPU without oneDNN.
      on_nan: when a gradient is not finite: stop, or roll back; see non_finite.py.
      on_bad_record: at a damaged training record: stop, or skip it; see bad_records.py.
      checkpoint_minutes: time between checkpoints; each epoch ends with one, too.
      keep_checkpoints: number of newest checkpoints to keep, beside the best.
      evaluate_every_epochs: epochs between evaluations; 0: one at the end.
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


@dataclasses.dataclass(frozen=True)
class Task:
    """The work of a training run, once the data have been found.

    Attributes:
      config: the configuration, with the data's number of classes.
      splits: the data: "train" and, if there is one, "validation".
      classes: names in label order.
      source: model directory to fine-tune from, or None.
    """

    config: Config
    splits: Mapping[str, Split]
    classes: Sequence[labels.Label]
    source: Path | None


def check_precision(choice: str) -> None:
    """Refuses a precision that does not exist.

    Raises:
      InputError: `choice` is neither "auto" nor one of `PRECISIONS`.
    """
    if choice not in ("auto", *PRECISIONS):
        raise InputError(f"--precision {choice}: must be auto or one of {', '.join(PRECISIONS)}.")
