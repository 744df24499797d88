"""The words in which every configuration is written: frozen, keyword-only dataclasses.

`Config` has three groups. `model` says which network (its type chooses the builder, and it has
no defaults: a variant's file shows the whole architecture); `images` what the network is shown;
`training` the recipe. The last two default to the recipe published with SqueezeNext, whose Caffe
solvers (github.com/amirgholami/SqueezeNext) share one set of hyper-parameters. No TensorFlow here.
"""

import dataclasses
import math
from typing import ClassVar, Literal, get_args

from squeezenext.config.augmentation import (
    Augmentation,
    ColorJitter,
    CutMix,
    HorizontalFlip,
    Mixup,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    ShiftScaleRotate,
    check,
    in_order,
)

# The steps' words are part of the language, so that a configuration imports from here alone.
__all__ = [
    "CAFFE_RANDOM_RESIZED_CROP",
    "CAFFE_SHORT_SIDE",
    "CAFFE_SQUASH",
    "IMAGENET_TRAIN",
    "TORCHVISION",
    "Augmentation",
    "ColorJitter",
    "Config",
    "CutMix",
    "Distillation",
    "Fire",
    "HorizontalFlip",
    "Images",
    "Mixup",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "ShiftScaleRotate",
    "SqueezeNet",
    "SqueezeNext",
    "Stage",
    "Training",
]

IMAGENET_TRAIN = 1_281_167  # images in ILSVRC2012's training split
Triple = tuple[float, float, float]


def _check_choice(owner: object, field: str, choices: object) -> None:
    allowed = get_args(choices)
    check(owner, getattr(owner, field) in allowed, field, f"must be one of {list(allowed)}")


@dataclasses.dataclass(frozen=True)
class Fire:
    """SqueezeNet's module: a 1x1 squeeze, then 1x1 and 3x3 expansions side by side."""

    squeeze: int
    expand_1x1: int
    expand_3x3: int


Bypass = Literal["none", "simple", "complex"]
Activation = Literal["relu", "elu"]
Initializer = Literal["caffe_xavier", "glorot_normal"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SqueezeNet:
    """SqueezeNet (arXiv:1602.07360): stem, fire modules, a 1x1 convolution as classifier.

    Pooling follows the stem and each fire module in `pool_after` (numbered from 2, as in the
    paper). `bypass` adds a module's input to its output: "simple" where the channels agree,
    "complex" everywhere, through a 1x1 convolution where they do not.
    """

    stem_filters: int
    stem_kernel: int
    fires: tuple[Fire, ...]
    pool_after: tuple[int, ...]
    bypass: Bypass
    head_padding: int  # of the 1x1 classifier; Caffe's version 1.0 has 1
    activation: Activation
    initializer: Initializer
    dropout: float
    classes: int

    def __post_init__(self):
        _check_choice(self, "bypass", Bypass)
        _check_choice(self, "activation", Activation)
        _check_choice(self, "initializer", Initializer)
        check(self, 0 <= self.dropout < 1, "dropout", "must be in [0, 1)")
        check(self, self.classes > 0, "classes", "must be at least 1")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run of units with equal output; the first unit strides and changes the channels."""

    filters: int
    units: int
    stride: int


BottleneckInput = Literal["unit", "shortcut"]
PairOrder = Literal["alternating", "1x3_first"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SqueezeNext:
    """SqueezeNext (arXiv:1803.10615): bottlenecks with separated 3x1 and 1x3 convolutions.

    `bottleneck_input` names what a stage's first bottleneck reads: the unit's input (versions 1
    to 4 of the predecessors, and Caffe's 23, G and 44) or the shortcut's output (Caffe's v5).
    The last three, which alone have defaults, Caffe's, are where pytorchcv's networks differ.
    """

    stem_filters: int
    stem_kernel: int
    stages: tuple[Stage, ...]
    groups: int  # of the first 1x1 and of both separated convolutions of a unit
    bottleneck_input: BottleneckInput
    relu_before_add: bool  # Caffe: yes, on both branches
    head_filters: int  # Caffe: 128 at every width
    classes: int
    stem_padding: int = 0
    pair_order: PairOrder = "alternating"  # 3x1 first in every other unit
    biases: bool = False  # of convolutions, although batch norm follows, and the classifier
    head_padding: ClassVar[int] = 0  # the classifier comes after the mean, no field of a file

    def __post_init__(self):
        _check_choice(self, "bottleneck_input", BottleneckInput)
        _check_choice(self, "pair_order", PairOrder)
        check(self, self.stem_padding >= 0, "stem_padding", "must not be negative")
        check(self, not (self.biases and self.groups > 1), "biases", "needs groups to be 1")
        check(self, self.groups >= 1, "groups", "must be at least 1")
        check(self, self.classes > 0, "classes", "must be at least 1")
        for stage in self.stages:
            if stage.filters % (4 * self.groups):
                raise ValueError(f"{stage} must have filters divisible by 4 x groups.")


ResizeMode = Literal["squash", "short_side"]
Channels = Literal["BGR", "RGB"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """What the network is shown. Evaluation: resize, then the centre `size` x `size`.

    Pixels are 0..255; the network reads (pixel - mean) / std, `mean` and `std` in the order
    of `channels`.
    """

    size: int = 227  # train_val.prototxt: crop_size
    resize: int = 256
    # Intel Caffe's create_imagenet.sh makes 256 x 256 without keeping the aspect.
    resize_mode: ResizeMode = "squash"
    channels: Channels = "BGR"  # OpenCV's order, in which Caffe stores its LMDB
    mean: Triple = (104.0, 117.0, 123.0)  # train_val.prototxt: mean_value
    std: Triple = (1.0, 1.0, 1.0)
    augmentation: tuple[Augmentation, ...] = (RandomCrop(),)  # no `mirror` in the prototxt
    # Sizes that training passes through, each for an equal share of the epochs; evaluation always
    # sees `size`. Empty: training does, too.
    progressive: tuple[int, ...] = ()

    def __post_init__(self):
        _check_choice(self, "resize_mode", ResizeMode)
        _check_choice(self, "channels", Channels)
        check(self, 8 <= self.size <= self.resize, "size", f"must be 8..resize ({self.resize})")
        finite = all(math.isfinite(x) for x in (*self.mean, *self.std))  # NaN is below nothing
        check(self, finite, "mean and std", "must be finite")
        check(self, min(self.std) > 0, "std", "must be positive")
        rule = "must be one crop, then ShiftScaleRotate, changes in place, mixing, in this order"
        check(self, in_order(self.augmentation), "augmentation", rule)
        sizes = all(8 <= size <= self.resize for size in self.progressive)
        check(self, sizes, "progressive", f"must be sizes of 8..resize ({self.resize})")


CAFFE_SQUASH = Images()
CAFFE_SHORT_SIDE = Images(resize_mode="short_side")
# torchvision's references/classification/presets.py
TORCHVISION = Images(
    size=224,
    resize_mode="short_side",
    channels="RGB",
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    augmentation=(RandomResizedCrop(), HorizontalFlip()),
)
# The random-resized-crop training of TORCHVISION with Caffe's pixels.
CAFFE_RANDOM_RESIZED_CROP = dataclasses.replace(
    CAFFE_SHORT_SIDE, augmentation=(RandomResizedCrop(), HorizontalFlip())
)

Optimizer = Literal["sgd", "adam", "adamw", "lamb"]
Schedule = Literal["polynomial", "cosine", "cyclic_cosine"]
Decayed = Literal["all", "kernels"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learning from another network's answers to the very pixels that the student sees."""

    # A model directory, a published model's name, or keras:NAME of keras.applications; "": none.
    teacher: str = ""
    temperature: float = 1.0  # of both networks' softmax; arXiv:1503.02531
    label_share: float = 0.0  # of the true labels in the loss; 0: soft labels alone

    def __post_init__(self):
        check(self, self.temperature > 0, "temperature", "must be positive")
        check(self, 0 <= self.label_share <= 1, "label_share", "must be in [0, 1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The recipe, in epochs and images; learning rates are per 1024 images a batch."""

    epochs: float = 120.0  # net path of v5's solver: e120..., 150,136 x 1024 images
    batch_size: int = 1024  # global; the same path: b_1024
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.4  # solver.prototxt: base_lr
    schedule: Schedule = "polynomial"  # lr_policy: "poly"
    power: float = 2.0  # of the polynomial
    warmup_epochs: float = 780 * 1024 / IMAGENET_TRAIN  # warmup_iter: 780
    warmup_learning_rate: float = 0.1  # warmup_start_lr
    cycle_epochs: float = 5.0  # of the cyclic cosine: from its top to its bottom
    # Where every schedule ends, and a lower end from an epoch on (0: there is none).
    final_learning_rate: float = 0.0
    late_final_learning_rate: float = 0.0
    late_epoch: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4  # L2 in the gradient, as Caffe's (decoupled for adamw and lamb)
    decayed: Decayed = "all"  # Caffe: no decay_mult, so biases, scales and offsets decay too
    clip_norm: float = 0.0  # of the whole gradient; 0 is off
    label_smoothing: float = 0.0
    ema: float = 0.0  # momentum of the weights' moving average; 0 is off
    batch_norm_momentum: float = 0.999  # of its moving statistics; caffe.proto
    synchronized_batch_norm: bool = False  # Caffe's nodes each normalise their own 32 images
    # Initial scale of each unit's last norm. 0 (arXiv:1706.02677, section 5.1) only without
    # relu_before_add: a ReLU's gradient at 0 is 0, and the unit would never learn.
    residual_scale: float = 1.0
    frozen_epochs: int = 0  # at the start, in which only the classifier learns
    classifier_multiplier: float = 1.0  # of the classifier's learning rate
    # Crops taken of each decoded image, side by side in the batch: so much less decoding, and so
    # many fewer different images a batch (arXiv:1907.05550 says what that costs).
    echo: int = 1
    distillation: Distillation = Distillation()

    def __post_init__(self):
        _check_choice(self, "optimizer", Optimizer)
        _check_choice(self, "schedule", Schedule)
        _check_choice(self, "decayed", Decayed)
        for field in ("epochs", "batch_size", "learning_rate", "power", "cycle_epochs"):
            check(self, getattr(self, field) > 0, field, "must be positive")
        for field in ("warmup_epochs", "weight_decay", "clip_norm", "final_learning_rate"):
            check(self, getattr(self, field) >= 0, field, "must not be negative")
        for field in ("residual_scale", "frozen_epochs", "classifier_multiplier"):
            check(self, getattr(self, field) >= 0, field, "must not be negative")
        check(self, self.echo >= 1, "echo", "must be at least 1")
        thawed = not self.frozen_epochs or self.frozen_epochs < self.epochs
        check(self, thawed, "frozen_epochs", f"must be less than epochs ({self.epochs:g})")
        for field in ("momentum", "label_smoothing", "ema", "batch_norm_momentum"):
            check(self, 0 <= getattr(self, field) < 1, field, "must be in [0, 1)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One variant: a network, its images and its recipe."""

    model: SqueezeNet | SqueezeNext
    images: Images = Images()
    training: Training = Training()

    def __post_init__(self):
        dead = getattr(self.model, "relu_before_add", False) and not self.training.residual_scale
        rule = "must be positive for a network with relu_before_add"
        check(self.training, not dead, "residual_scale", rule)
