"""Heat maps, which show where in an image the network sees a class."""

import numpy as np
from PIL import Image

from squeezenext.config import Config
from squeezenext.images import geometry

MAX_SIDE = 1024  # pixels of a drawn image
# Five points of matplotlib's "inferno", dark to light, so that the map can be read in grey.
_COLOURS = np.float32([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])


def overlay(image: Image.Image, class_map: np.ndarray, config: Config) -> Image.Image:
    """Returns the image with the map of a class drawn over the network's crop.

    Args:
      image: RGB, of any size; made smaller where a side is over `MAX_SIDE`.
      class_map: [height, width] float32; negative values count as 0, and the classifier's
        padding, which is no part of the image, is cut off.
      config: the network's configuration; all outside of its crop is dimmed.
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
    """Returns a map without the classifier's padding."""
    margin = config.model.head_padding
    height, width = class_map.shape
    return class_map[margin : height - margin, margin : width - margin]


def _resized(class_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the map scaled to a largest value of 1 and enlarged to (width, height)."""
    positive = class_map.clip(0, None)
    positive = positive / max(float(positive.max()), 1e-9)
    enlarged = Image.fromarray(np.float32(positive)).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(enlarged).clip(0, 1)


def _colour(heat: np.ndarray) -> np.ndarray:
    places = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(heat[..., 0], places, _COLOURS[:, c]) for c in range(3)]
    return np.stack(channels, -1)
