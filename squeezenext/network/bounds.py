"""Bounds of a network that a stranger may have described, checked before it is built."""

import dataclasses
import math
from collections.abc import Iterator

from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.network import graph

# The largest published one has 4.4 million weights in 44 units.
MAX_WEIGHTS = 1 << 24
MAX_UNITS = 128
MAX_CHANNELS = 1 << 16
MAX_SIDE = 4096  # pixels of the images' sides
MAX_KERNEL = 15  # a kernel's side; the published ones have 7 at most
MAX_MAP, MAX_MAPS = 1 << 24, 1 << 27  # numbers in one map, and in all maps
_PIXELS = 1e-4, 1e4  # bounds of deviations and, the upper one, of means of pixels 0..255


def check_bounds(config: Config, source: str) -> None:
    """Checks the sizes of a configuration from a file.

    Raises:
      InputError: `source` describes images or a network out of bounds.
    """
    try:
        _check_images(config)
        _check_sizes(config)
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        raise InputError(f"{source} is damaged: its network cannot be built ({error}).") from error


def _check_images(config: Config) -> None:
    images, (low, high) = config.images, _PIXELS
    whole = type(images.size) is int and type(images.resize) is int
    if not whole or images.resize > MAX_SIDE:
        raise ValueError(f"images of {images.size!r} of {images.resize!r} pixels")
    possible = [low <= x <= high for x in images.std] + [-high <= x <= high for x in images.mean]
    if not all(possible):
        raise ValueError(f"pixels of mean {images.mean} and deviation {images.std}")


def _check_sizes(config: Config) -> None:
    units = sum(stage.units for stage in getattr(config.model, "stages", ()))
    layers = units + len(getattr(config.model, "fires", ()))
    if layers > MAX_UNITS:
        raise ValueError(f"{layers} units")
    numbers = [n for n in _leaves(dataclasses.astuple(config.model)) if isinstance(n, int)]
    if not all(0 <= number <= MAX_CHANNELS for number in numbers):
        raise ValueError(f"sizes {min(numbers)} to {max(numbers)}")
    network = graph.of(config)
    shapes = [network.kernel_shape(node.name) for node in network.weighted]
    maps = [node.shape for node in network.nodes]
    for shape in (*shapes, *maps):
        if not all(isinstance(side, int) and side > 0 for side in shape):
            raise ValueError(f"a layer of shape {shape}")
    if any(max(node.kernel) > MAX_KERNEL for node in network.nodes):
        raise ValueError("a kernel larger than any")
    sizes = [math.prod(shape) for shape in maps]
    total = sum(math.prod(shape) for shape in shapes)
    if total > MAX_WEIGHTS or max(sizes) > MAX_MAP or sum(sizes) > MAX_MAPS:
        raise ValueError(f"{total:,} weights, maps of up to {max(sizes):,} numbers")


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
