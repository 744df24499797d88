"""The words for a network: SqueezeNet, SqueezeNext and what they consist of.

They have no defaults: the file of a variant shows the whole architecture.
"""

import dataclasses
from typing import ClassVar, Literal

from squeezenext.arguments import checked
from squeezenext.config.checks import check, check_choice


@checked()
@dataclasses.dataclass(frozen=True)
class Fire:
    """SqueezeNet's module: a 1x1 squeeze, then 1x1 and 3x3 expansions side by side."""

    squeeze: int
    expand_1x1: int
    expand_3x3: int


Bypass = Literal["none", "simple", "complex"]
Activation = Literal["relu", "elu"]
Initializer = Literal["caffe_xavier", "glorot_normal"]


@checked()
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
    head_padding: int  # zeros around the input of the 1x1 classifier; Caffe's version 1.0 has 1
    activation: Activation
    initializer: Initializer
    dropout: float
    classes: int

    def __post_init__(self) -> None:
        check_choice(self, "bypass", Bypass)
        check_choice(self, "activation", Activation)
        check_choice(self, "initializer", Initializer)
        check(self, 0 <= self.dropout < 1, "dropout", "must be in [0, 1)")
        check(self, self.classes > 0, "classes", "must be at least 1")


@checked()
@dataclasses.dataclass(frozen=True)
class Stage:
    """A run of units with equal output; the first unit strides and changes the channels."""

    filters: int
    units: int
    stride: int


BottleneckInput = Literal["unit", "shortcut"]
PairOrder = Literal["alternating", "1x3_first"]


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class SqueezeNext:
    """SqueezeNext (arXiv:1803.10615): bottlenecks with separated 3x1 and 1x3 convolutions.

    The first bottleneck of a stage reads `bottleneck_input`: the unit's input (versions 1 to 4 of
    the TensorFlow 1 code, and Caffe's 23, G and 44) or the shortcut's output (Caffe's v5). The last
    three fields have Caffe's values as defaults; pytorchcv's networks have others.
    """

    stem_filters: int
    stem_kernel: int
    stages: tuple[Stage, ...]
    groups: int  # channel groups of a unit's first 1x1 and both its separated convolutions
    bottleneck_input: BottleneckInput
    relu_before_add: bool  # Caffe: yes, on both branches
    head_filters: int  # Caffe: 128 at every width
    classes: int
    stem_padding: int = 0
    pair_order: PairOrder = "alternating"  # 3x1 first in every other unit
    biases: bool = False  # whether convolutions, which batch norm follows, and classifier have one
    head_padding: ClassVar[int] = 0  # as SqueezeNet's; here the classifier follows the mean

    def __post_init__(self) -> None:
        check_choice(self, "bottleneck_input", BottleneckInput)
        check_choice(self, "pair_order", PairOrder)
        check(self, self.stem_padding >= 0, "stem_padding", "must not be negative")
        check(self, not (self.biases and self.groups > 1), "biases", "needs groups to be 1")
        check(self, self.groups >= 1, "groups", "must be at least 1")
        check(self, self.classes > 0, "classes", "must be at least 1")
        for stage in self.stages:
            if stage.filters % (4 * self.groups):
                raise ValueError(f"{stage} must have filters divisible by 4 x groups.")


Network = SqueezeNet | SqueezeNext
