"""Heat maps: where in an image the network sees a class."""

import numpy as np
from PIL import Image

from squeezenext.config import Config
from squeezenext.images import geometry

MAX_SIDE = 1024  # of a drawn image
# Five points of matplotlib's "inferno", dark to light, so that the map reads in grey, too.
_COLOURS = np.float32([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])


def overlay(image: Image.Image, class_map: np.ndarray, config: Config) -> Image.Image:
    """Returns the image with a class's map over what the network was shown of it.

    Args:
      image: RGB, of any size; made smaller where a side is over `MAX_SIDE`.
      class_map: [height, width] float32; negative places count as none, those in the padding of
        the classifier are of no part of the image.
      config: the network's; what lies outside of the crop it is shown is dimmed.
    """
    window = geometry.centre_window(image.height, image.width, config.images)
    small = image.copy() if max(image.size) <= MAX_SIDE else _thumbnail(image)
    scale_x, scale_y = small.width / image.width, small.height / image.height
    left, top = round(window.left * scale_x), round(window.top * scale_y)
    width = max(1, round(window.width * scale_x))
    height = max(1, round(window.height * scale_y))
    heat = _resized(_inside(class_map, config), (width, height))
    canvas = np.float32(small) * 0.4
    below = np.float32(small)[top : top + height, left : left + width]
    heat = heat[: below.shape[0], : below.shape[1], np.newaxis]
    alpha = 0.65 * heat
    canvas[top : top + height, left : left + width] = below * (1 - alpha) + _colour(heat) * alpha
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8))


def _thumbnail(image: Image.Image) -> Image.Image:
    factor = MAX_SIDE / max(image.size)
    size = tuple(max(1, round(side * factor)) for side in image.size)
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _inside(class_map: np.ndarray, config: Config) -> np.ndarray:
    """Returns the places of a map that lie in the image: all but the classifier's padding."""
    margin = config.model.head_padding
    height, width = class_map.shape
    return class_map[margin : height - margin, margin : width - margin]


def _resized(class_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the map in 0..1, its largest value 1, smoothly enlarged to (width, height)."""
    positive = class_map.clip(0, None)
    positive = positive / max(float(positive.max()), 1e-9)
    enlarged = Image.fromarray(np.float32(positive)).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(enlarged).clip(0, 1)


def _colour(heat: np.ndarray) -> np.ndarray:
    places = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(heat[..., 0], places, _COLOURS[:, c]) for c in range(3)]
    return np.stack(channels, -1)
