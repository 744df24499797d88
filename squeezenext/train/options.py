"""The options of a training run beside its configuration: folders, machines, intervals."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from squeezenext import labels
from squeezenext.arguments import checked, refuse_remote
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.records.dataset import Split
from squeezenext.records.reader import READS

PRECISIONS = ("float32", "tf32", "mixed_float16", "mixed_bfloat16")
OnBadRecord = Literal["stop", "skip"]
OnNan = Literal["stop", "rollback"]
Cluster = Literal["auto", "slurm", "none"]
# Chooses the epochs of a run anew: course(whole epochs trained, images a second of the latest one).
# The rate is None when a run begins or is resumed: then the choice must be the one made before.
Course = Callable[[int, float | None], float]


@checked(
    "data_dir",
    devices=0,
    micro_batch_size=1,
    seed=0,
    lost_seconds=5,  # watchdog.STOPPED_SECONDS: a shorter pause is nobody's fault
    checkpoint_minutes=0,
    keep_checkpoints=1,
    evaluate_every_epochs=0,
    readers=1,
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `train.train`; none of them belongs to the recipe."""

    model_dir: str | Path  # directory of the run, made if absent; see model/directory.py
    data_dir: str | Path | None = None  # folder of shards and manifest.json
    training_file_pattern: str | Path | None = None  # TF-slim shards, instead of `data_dir`
    validation_file_pattern: str | Path | None = None  # TF-slim shards for validation
    # Model directory or published model whose weights to start from; the classifier is new if the
    # number of classes differs.
    fine_tune_from: str | Path | None = None
    devices: int = 0  # number of GPUs, or of logical CPU devices; 0: all GPUs, or one CPU
    cluster: Cluster = "auto"  # source of the workers' names, see cluster.py; "auto": TF_CONFIG
    # Silence, 5 to 600, after which a worker is taken for dead. TensorFlow's own heartbeat takes 7;
    # with 15 the others have ended within 30.
    lost_seconds: float = 15.0
    precision: str = "auto"  # or one of `PRECISIONS`
    micro_batch_size: int | None = None  # images a device takes at once
    seed: int = 0  # seed of initial weights, data order and augmentation
    deterministic: bool = False  # the same bits each time; slower, on a CPU without oneDNN
    on_nan: OnNan = "stop"  # when a gradient is not finite, see non_finite.py
    on_bad_record: OnBadRecord = "stop"  # at a damaged training record, see bad_records.py
    checkpoint_minutes: float = 10.0  # time between checkpoints; each epoch ends with one, too
    keep_checkpoints: int = 2  # number of newest checkpoints to keep, beside the best
    evaluate_every_epochs: int = 1  # epochs between evaluations; 0: one at the end
    readers: int = READS  # records read at once
    log_to: Sequence[str] = ()  # "mlflow", "wandb": where curves go beside TensorBoard
    profile_input: bool = False  # measure input and network apart, print that, train nothing

    def __post_init__(self) -> None:
        paths = ("model_dir", "data_dir", "fine_tune_from")
        for name in (*paths, "training_file_pattern", "validation_file_pattern"):
            if path := getattr(self, name):
                object.__setattr__(self, name, os.path.expanduser(path))
        refuse_remote("--model_dir", self.model_dir)
        check_precision(self.precision)
        if self.seed >= 1 << 32:  # numpy's limit
            raise InputError(f"--seed {self.seed}: must be below 4,294,967,296.")
        if self.lost_seconds > 600:  # a stalled worker is named after watchdog.STALL_SECONDS anyway
            raise InputError(f"--lost_seconds {self.lost_seconds:g}: must be 5 to 600 seconds.")
        choices = (("cluster", Cluster), ("on_nan", OnNan), ("on_bad_record", OnBadRecord))
        for field, kind in choices:
            if getattr(self, field) not in get_args(kind):
                raise InputError(
                    f"--{field} {getattr(self, field)}: must be {' or '.join(get_args(kind))}."
                )


@dataclasses.dataclass(frozen=True)
class Task:
    """The work of a training run, once the data have been found."""

    config: Config  # with the data's number of classes
    splits: Mapping[str, Split]  # "train" and, if there is one, "validation"
    classes: Sequence[labels.Label]  # in label order
    source: Path | None  # model directory to fine-tune from
    source_classes: Sequence[labels.Label] = ()  # its classes


def check_precision(choice: str) -> None:
    """Raises InputError if a precision is neither "auto" nor one of `PRECISIONS`."""
    if choice not in ("auto", *PRECISIONS):
        raise InputError(f"--precision {choice}: must be auto or one of {', '.join(PRECISIONS)}.")
