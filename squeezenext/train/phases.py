"""What changes while a run goes on: the images' size, and which weights learn.

Both are functions of the epoch alone and change only between two epochs, so that a resumed run
meets them where the undisturbed one does.
"""

import dataclasses
import math

from squeezenext.config import Config, Images


@dataclasses.dataclass(frozen=True)
class Phase:
    """`size` of training's images in pixels; `frozen`: only the classifier learns."""

    size: int
    frozen: bool


def phase(config: Config, epoch: int) -> Phase:
    """Returns the phase of an epoch, counted from 0; what lies before is the first's."""
    epoch = max(epoch, 0)
    sizes = config.images.progressive or (config.images.size,)
    epochs = math.ceil(config.training.epochs)
    place = min(epoch * len(sizes) // epochs, len(sizes) - 1)
    return Phase(sizes[place], epoch < config.training.frozen_epochs)


def resized(images: Images, size: int) -> Images:
    """Returns the same images at another size; the margin of a random crop keeps its share."""
    resize = max(round(images.resize * size / images.size), size)
    return dataclasses.replace(images, size=size, resize=resize, progressive=())
