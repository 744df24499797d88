"""The words in which every configuration is written: frozen, keyword-only dataclasses.

`Config` has three parts: `model` (network.py) is the architecture, `images` (images.py) what the
network reads, `training` (training.py) the recipe. The last two default to the recipe published
with SqueezeNext. Configurations import all words from here. No TensorFlow here.
"""

import dataclasses

from squeezenext.arguments import checked
from squeezenext.config.checks import check, check_finite
from squeezenext.config.images import *  # noqa: F403  (all augmentation steps, listed nowhere)
from squeezenext.config.images import (
    CAFFE_RANDOM_RESIZED_CROP,
    CAFFE_SHORT_SIDE,
    CAFFE_SQUASH,
    TORCHVISION,
    Images,
)
from squeezenext.config.network import (
    Activation,
    Fire,
    Initializer,
    Network,
    SqueezeNet,
    SqueezeNext,
    Stage,
)
from squeezenext.config.training import IMAGENET_TRAIN, Distillation, Training

__all__ = [
    "CAFFE_RANDOM_RESIZED_CROP",
    "CAFFE_SHORT_SIDE",
    "CAFFE_SQUASH",
    "IMAGENET_TRAIN",
    "TORCHVISION",
    "Activation",
    "Config",
    "Distillation",
    "Fire",
    "Images",
    "Initializer",
    "Network",
    "SqueezeNet",
    "SqueezeNext",
    "Stage",
    "Training",
]


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One variant: a network, its images and its recipe."""

    model: Network
    images: Images = Images()
    training: Training = Training()

    def __post_init__(self) -> None:
        dead = getattr(self.model, "relu_before_add", False) and not self.training.residual_scale
        rule = "must be positive for a network with relu_before_add"
        check(self.training, not dead, "residual_scale", rule)
        check_finite(self)
