"""Recipes: functions that give a configuration another way of training, for the same network.

The published recipe of a variant is part of its configuration. `--recipe NAME` replaces it; `--set`
then changes single fields, and config.json holds the result.
"""

import dataclasses

from squeezenext.config import Config
from squeezenext.config.images import HorizontalFlip, RandomResizedCrop, side
from squeezenext.config.io import override
from squeezenext.config.network import SqueezeNext
from squeezenext.config.training import Training
from squeezenext.errors import InputError

NAMES = ("published", "modern", "fine_tune")
FINE_TUNE_BATCH = 32  # batch size of fine-tuning, also of the retraining in compression
# Cross-entropy of held-out photographs after 3e-4, 6e-4 and 12e-4, one run each: clothes, 12 epochs
# at 192 pixels, 0.407, 0.375 and 0.399; clothes, 20 a class, 24 epochs, 0.949 and 0.904. After 79
# epochs of 245 ants and bees 3e-4 is better, see adapt/plan.py.
FINE_TUNE_RATE = 6e-4
# Fields that recipes compute with.
_FACTS = ("model.", "images.size=", "images.resize=", "training.epochs=", "training.batch_size=")
GROWTH = (0.7, 0.85, 1.0)  # shares of the image side, each for a third of fine-tuning's epochs


def apply(name: str, config: Config, *changes: str) -> Config:
    """Returns the configuration with the recipe `name`, one of `NAMES`, and then with `changes`.

    The recipe computes with the changed epochs, batch and image size. Changes are as those of
    `config.io.override`.

    Raises:
      InputError: there is no such recipe, or a change is wrong.
    """
    if name not in NAMES:
        raise InputError(f"--recipe {name}: there are {', '.join(NAMES)}.")
    if name != "published":
        facts = [change for change in changes if change.startswith(_FACTS)]
        config = override(_without_recipe(config), *facts)
        config = modern(config) if name == "modern" else fine_tune(config)
    return override(config, *changes)


def _without_recipe(config: Config) -> Config:
    """Returns the configuration with only those choices of its training that recipes keep."""
    training = Training(
        epochs=config.training.epochs,
        batch_size=config.training.batch_size,
        synchronized_batch_norm=config.training.synchronized_batch_norm,
    )
    return dataclasses.replace(config, training=training)


def modern(config: Config) -> Config:
    """Returns a recipe from scratch: SGD under a cosine, light regularisation, growing images.

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
        learning_rate=2.0 if normed else 6.25e-4,
        rate_scaling="linear" if normed else "sqrt",
        reference_batch=1024 if normed else 32,
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


def _residual_scale(config: Config) -> float:
    """Returns 0 where a unit can learn from 0 (arXiv:1706.02677), else a small scale."""
    return 0.2 if getattr(config.model, "relu_before_add", False) else 0.0


def fine_tune(config: Config) -> Config:
    """Returns a recipe for a pretrained network: the classifier alone, then all, at a low rate."""
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
        learning_rate=FINE_TUNE_RATE,
        rate_scaling="sqrt",
        reference_batch=FINE_TUNE_BATCH,
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
