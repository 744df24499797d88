"""Phases of a run: the size of the training images, and which weights learn.

Both depend on the epoch and the number of epochs, which change only between two epochs, so that a
resumed run changes them where the undisturbed one does.
"""

import dataclasses
import math

from squeezenext.config import Config
from squeezenext.config.images import Images


@dataclasses.dataclass(frozen=True)
class Phase:
    """What changes during a run."""

    size: int  # side of the training images in pixels
    frozen: bool  # only the classifier learns


def phase(config: Config, epoch: int) -> Phase:
    """Returns the phase of an epoch, counted from 0; a negative epoch has that of the first."""
    epoch = max(epoch, 0)
    sizes = config.images.progressive or (config.images.size,)
    epochs = math.ceil(config.training.epochs)
    index = min(epoch * len(sizes) // epochs, len(sizes) - 1)
    return Phase(sizes[index], epoch < config.training.frozen_epochs)


def resized(images: Images, size: int) -> Images:
    """Returns the same images at another size; a random crop keeps the share of its margin."""
    resize = max(round(images.resize * size / images.size), size)
    return dataclasses.replace(images, size=size, resize=resize, progressive=())
