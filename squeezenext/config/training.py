"""The words for a recipe: how long, with which optimizer and which learning rate.

The defaults are the recipe published with SqueezeNext, whose Caffe solvers
(github.com/amirgholami/SqueezeNext) share one set of hyper-parameters.
"""

import dataclasses
import math
from typing import Literal

from squeezenext.arguments import checked
from squeezenext.config.checks import check, check_choice

IMAGENET_TRAIN = 1_281_167  # images in ILSVRC2012's training split

Optimizer = Literal["sgd", "adam", "adamw", "lamb"]
Schedule = Literal["polynomial", "cosine", "cyclic_cosine"]
Decayed = Literal["all", "kernels"]
ClassWeights = Literal["none", "balanced", "adjusted"]
RateScaling = Literal["linear", "sqrt"]


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learning from another network's answers to the same pixels as the student's."""

    # A model directory, a published model's name, or keras:NAME of keras.applications; "": none.
    teacher: str = ""
    temperature: float = 1.0  # divides both networks' logits; arXiv:1503.02531
    label_share: float = 0.0  # weight of the true labels in the loss; 0: soft labels alone

    def __post_init__(self) -> None:
        check(self, self.temperature > 0, "temperature", "must be positive")
        check(self, 0 <= self.label_share <= 1, "label_share", "must be in [0, 1]")


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The recipe, in epochs and images; learning rates are for `reference_batch` images."""

    epochs: float = 120.0  # v5's solver names its net e120..., 150,136 x 1024 images
    batch_size: int = 1024  # images, over all replicas; the same name has b_1024
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.4  # solver.prototxt: base_lr
    # How all learning rates follow the batch. linear is for SGD (arXiv:1706.02677). Adam, AdamW and
    # LAMB divide by the gradient's deviation, which falls with the root of the batch: sqrt
    # (arXiv:1904.00962, arXiv:2205.10287).
    rate_scaling: RateScaling = "linear"
    reference_batch: int = 1024  # images in a batch that the learning rates are for
    schedule: Schedule = "polynomial"  # lr_policy: "poly"
    power: float = 2.0  # exponent of the polynomial
    warmup_epochs: float = 780 * 1024 / IMAGENET_TRAIN  # warmup_iter: 780
    warmup_learning_rate: float = 0.1  # warmup_start_lr
    cycle_epochs: float = 5.0  # from the top of the cyclic cosine to its bottom
    # The learning rate at the end of every schedule, and a lower one from `late_epoch` on (0: off).
    final_learning_rate: float = 0.0
    late_final_learning_rate: float = 0.0
    late_epoch: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4  # L2 in the gradient, as Caffe's (decoupled for adamw and lamb)
    decayed: Decayed = "all"  # Caffe: no decay_mult, so biases, scales and offsets decay too
    clip_norm: float = 0.0  # largest norm of the whole gradient; 0 is off
    label_smoothing: float = 0.0
    # balanced: an image's loss is weighted by images / (classes x images of its class). adjusted:
    # the loss adds each class's log frequency to its logit (arXiv:2007.07314, equation 10), which
    # is left out in prediction, so that no class is named for its frequency.
    class_weights: ClassWeights = "none"
    # Momentum of the moving average of weights and statistics, or instead the average's length as a
    # share of all steps; both 0: no average. 0.998 is 500 steps, 0.4 epochs of ImageNet.
    ema: float = 0.0
    average_share: float = 0.0
    batch_norm_momentum: float = 0.999  # momentum of the moving statistics; caffe.proto
    synchronized_batch_norm: bool = False  # Caffe's nodes each normalise their own 32 images
    # Initial scale of each unit's last norm. 0 (arXiv:1706.02677, section 5.1) only without
    # relu_before_add: a ReLU's gradient at 0 is 0, and the unit would never learn.
    residual_scale: float = 1.0
    # Epochs at the start in which only the classifier learns; all of them is linear probing.
    frozen_epochs: int = 0
    classifier_multiplier: float = 1.0  # times the learning rate, for the classifier
    # Crops of each decoded image, side by side in the batch: as many times less decoding, and as
    # many times fewer different images a batch (arXiv:1907.05550 measures the cost).
    echo: int = 1
    distillation: Distillation = Distillation()

    def __post_init__(self) -> None:
        check_choice(self, "optimizer", Optimizer)
        check_choice(self, "schedule", Schedule)
        check_choice(self, "decayed", Decayed)
        check_choice(self, "class_weights", ClassWeights)
        check_choice(self, "rate_scaling", RateScaling)
        for field in ("epochs", "batch_size", "learning_rate", "power", "cycle_epochs"):
            check(self, getattr(self, field) > 0, field, "must be positive")
        check(self, self.reference_batch >= 1, "reference_batch", "must be at least 1")
        for field in ("warmup_epochs", "weight_decay", "clip_norm", "final_learning_rate"):
            check(self, getattr(self, field) >= 0, field, "must not be negative")
        for field in ("residual_scale", "frozen_epochs", "classifier_multiplier"):
            check(self, getattr(self, field) >= 0, field, "must not be negative")
        check(self, self.epochs <= 1e6, "epochs", "must be at most 1,000,000")
        check(self, self.echo >= 1, "echo", "must be at least 1")
        within = self.frozen_epochs <= self.epochs or not self.frozen_epochs
        check(self, within, "frozen_epochs", f"must be at most epochs ({self.epochs:g})")
        for field in ("momentum", "label_smoothing", "ema", "average_share", "batch_norm_momentum"):
            check(self, 0 <= getattr(self, field) < 1, field, "must be in [0, 1)")
        single = not (self.ema and self.average_share)
        check(self, single, "average_share", "must be 0, or give training.ema=0, too")

    @property
    def rate_factor(self) -> float:
        """The factor from the recipe's learning rates to those of this batch."""
        ratio = self.batch_size / self.reference_batch
        return ratio if self.rate_scaling == "linear" else math.sqrt(ratio)

    def average_momentum(self, steps: int) -> float:
        """Returns the momentum of the moving average in a run of so many steps."""
        share = self.average_share
        return max(0.0, 1.0 - 1.0 / (share * steps)) if share else self.ema

    @property
    def averages(self) -> bool:
        """True if training keeps moving averages of the weights."""
        return bool(self.ema or self.average_share)

    @property
    def schedule_start(self) -> int:
        """The epoch in which the schedule begins: with all weights, or at once if none ever do."""
        return self.frozen_epochs if self.frozen_epochs < self.epochs else 0
