"""Recipes: functions from a configuration to one that trains in another way, its network kept.

Each variant's published recipe is its configuration's own. `--recipe NAME` takes another one
instead; `--set` changes single fields after it, and config.json holds what came out.
"""

import dataclasses

from squeezenext.config import Config, SqueezeNext, Training
from squeezenext.config.augmentation import (
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    ShiftScaleRotate,
)
from squeezenext.errors import InputError

NAMES = ("published", "modern", "fine_tune", "seed_caltech256")
FINE_TUNE_BATCH = 32  # batch size of fine-tuning, also of the retraining in compression
GROWTH = (0.7, 0.85, 1.0)  # shares of the image side, each for a third of fine-tuning's epochs


def apply(name: str, config: Config) -> Config:
    """Returns the configuration with the recipe `name`, one of `NAMES`.

    Raises:
      InputError: there is no such recipe.
    """
    if name == "published":
        return config
    if name == "modern":
        return modern(config)
    if name == "fine_tune":
        return fine_tune(config)
    if name == "seed_caltech256":
        return seed_caltech256(config)
    raise InputError(f"--recipe {name}: there are {', '.join(NAMES)}.")


def modern(config: Config) -> Config:
    """From scratch: SGD under a cosine, light regularisation, growing images.

    Cosine, warm-up, no decay of norms and biases (arXiv:1812.01187), label smoothing
    (arXiv:1512.00567), an average of the weights, images smaller than evaluation's
    (arXiv:1906.06423) and growing, flips that alternate (arXiv:2404.00498). Crops are mild and
    nothing is mixed: networks of a million weights fit too little rather than too much.
    """
    images = dataclasses.replace(
        config.images,
        resize_mode="short_side",
        augmentation=(RandomResizedCrop(scale=(0.35, 1.0)), HorizontalFlip(alternating=True)),
        progressive=tuple(side(config.images.size, share) for share in (0.56, 0.7, 0.85)),
    )
    normed = isinstance(config.model, SqueezeNext)
    training = Training(
        epochs=config.training.epochs,
        batch_size=config.training.batch_size,
        optimizer="sgd" if normed else "adamw",
        learning_rate=2.0 if normed else 0.02,
        schedule="cosine",
        warmup_epochs=config.training.epochs / 20,
        warmup_learning_rate=0.0,
        weight_decay=5e-5 if normed else 0.05,
        decayed="kernels",
        clip_norm=0.0 if normed else 1.0,
        label_smoothing=0.1,
        ema=0.998,
        batch_norm_momentum=0.99,
        synchronized_batch_norm=config.training.synchronized_batch_norm,
        residual_scale=_residual_scale(config),
    )
    return dataclasses.replace(config, images=images, training=training)


def side(size: int, share: float) -> int:
    """Returns a share of an image side as a multiple of 8 pixels; a share of 1 is exact."""
    return size if share == 1 else max(8, 8 * round(size * share / 8))


def _residual_scale(config: Config) -> float:
    """0 where a unit can learn from there (arXiv:1706.02677), else small."""
    return 0.2 if getattr(config.model, "relu_before_add", False) else 0.0


def fine_tune(config: Config) -> Config:
    """For a network that knows ImageNet: first the classifier alone, then all, gently."""
    images = dataclasses.replace(
        config.images,
        resize_mode="short_side",
        augmentation=(RandomResizedCrop(scale=(0.35, 1.0)), HorizontalFlip(alternating=True)),
        progressive=tuple(side(config.images.size, share) for share in GROWTH),
    )
    training = Training(
        epochs=12.0,
        batch_size=FINE_TUNE_BATCH,
        optimizer="adamw",
        learning_rate=0.0096,  # 3e-4 at 32 images
        schedule="cosine",
        warmup_epochs=0.5,
        warmup_learning_rate=0.0,
        weight_decay=0.02,
        decayed="kernels",
        label_smoothing=0.1,
        ema=0.99,
        batch_norm_momentum=0.99,
        synchronized_batch_norm=config.training.synchronized_batch_norm,
        frozen_epochs=1,
        classifier_multiplier=3.0,
    )
    return dataclasses.replace(config, images=images, training=training)


def seed_caltech256(config: Config) -> Config:
    """The PyTorch predecessor's: Adam under a cyclic cosine, shifts, turns, flips; faults mended.

    It turned every image by -15 degrees, distorted the aspect and took the mean of the validation
    split; learning rates are 1e-3 down to 1e-5, after epoch 70 to 1e-6, at its unrecorded batch,
    here 64. Source: notes on github.com/adeveloperdiary's SqueezeNet in configs/.
    """
    images = dataclasses.replace(
        config.images,
        resize_mode="short_side",
        augmentation=(
            RandomCrop(),
            ShiftScaleRotate(shift=0.0625, scale=0.1, rotate_degrees=15.0),
            HorizontalFlip(),
        ),
        progressive=(),
    )
    training = Training(
        epochs=90.0,
        batch_size=64,
        optimizer="adam",
        learning_rate=0.016,  # 1e-3 at 64 images
        schedule="cyclic_cosine",
        cycle_epochs=5.0,
        final_learning_rate=1.6e-4,  # 1e-5
        late_final_learning_rate=1.6e-5,  # 1e-6
        late_epoch=70.0,
        warmup_epochs=0.0,
        weight_decay=1e-4,
        batch_norm_momentum=config.training.batch_norm_momentum,
        synchronized_batch_norm=config.training.synchronized_batch_norm,
    )
    return dataclasses.replace(config, images=images, training=training)
