"""What part of an image the network reads, and in which numbers.

The functions are arithmetic on their arguments alone, so that the same ones serve numpy, in
prediction, and TensorFlow's graphs, in training and evaluation. No TensorFlow here: prediction
must not wait for its import.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from squeezenext.config.images import Images


class Window(NamedTuple):
    """A rectangle of the source, in fractional pixels, that becomes the network's input."""

    top: float
    left: float
    height: float
    width: float


def resized_sides(height, width, images: Images):
    """Returns (height, width) of the image once resized, as integers.

    torchvision's rule for the short side: the long one is cut down to a whole pixel.
    """
    if images.resize_mode == "squash":
        return images.resize, images.resize
    # min() written so that it holds for integers and for tensors alike.
    short = (height + width - abs(height - width)) // 2
    return images.resize * height // short, images.resize * width // short


def crop_window(height, width, top, left, images: Images) -> Window:
    """Returns the source window of the crop at (top, left) of the resized image."""
    resized_height, resized_width = resized_sides(height, width, images)
    return Window(
        top * height / resized_height,
        left * width / resized_width,
        images.size * height / resized_height,
        images.size * width / resized_width,
    )


def centre_window(height, width, images: Images) -> Window:
    """Returns the source window of the centre crop, which evaluation and prediction read.

    Args:
      height: pixels of the source, an int or an integer tensor.
      width: pixels of the source, an int or an integer tensor.
      images: how the image is resized, and the crop's size.
    """
    resized_height, resized_width = resized_sides(height, width, images)
    top = _half(resized_height - images.size)
    left = _half(resized_width - images.size)
    return crop_window(height, width, top, left, images)


def _half(margin):
    """Returns half of a margin, rounded to even as torchvision's int(round(margin / 2))."""
    return (margin + margin // 2 % 2) // 2


def normalize(pixels, images: Images):
    """Returns the network's input, [..., 3] floats, from RGB pixels, [..., 3] floats in 0..255.

    The pixels are a numpy array or a tensor.
    """
    if isinstance(pixels, np.ndarray):
        return _normalized(pixels, images)
    if images.channels == "BGR":
        pixels = pixels[..., ::-1]
    return (pixels - np.float32(images.mean)) / np.float32(images.std)


def _normalized(pixels: np.ndarray, images: Images) -> np.ndarray:
    """Normalizes a channel at a time: numpy loops over a last axis of 3 at half the speed."""
    outputs = np.empty(pixels.shape, np.float32)
    for channel, (mean, std) in enumerate(zip(images.mean, images.std, strict=True)):
        output = outputs[..., channel]
        source = 2 - channel if images.channels == "BGR" else channel
        np.subtract(pixels[..., source], np.float32(mean), out=output, dtype=np.float32)
        output /= np.float32(std)
    return outputs


def centre_pixels(image: Image.Image, images: Images) -> np.ndarray:
    """Returns the centre crop of an RGB image: [size, size, 3] uint8, RGB, 0..255."""
    window = centre_window(image.height, image.width, images)
    box = (window.left, window.top, window.left + window.width, window.top + window.height)
    # Rounding may put the box a billionth outside, which Pillow refuses.
    box = (max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height))
    side = (images.size, images.size)
    return np.asarray(image.resize(side, Image.Resampling.BILINEAR, box=box))
