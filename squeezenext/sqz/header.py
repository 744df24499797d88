"""The header of a `.sqz` file: the network, what it is shown, its labels and temperature.

Zlib of JSON. What training alone knows is left out, so that a new word of a recipe changes no
file. `decode` refuses a network that no one would have compressed before any of it is built.
"""

import dataclasses
import json
import math
import zlib
from collections.abc import Iterator

from squeezenext import labels
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.network import graph

MAX_HEADER = 4 << 20  # of the JSON, decompressed
# Of a network; the largest that is published has 4.4 million weights in 44 units.
MAX_WEIGHTS = 1 << 24
MAX_UNITS = 128
MAX_CHANNELS = 1 << 16
MAX_SIDE = 4096  # of the images
MAX_KERNEL = 15  # of a kernel's side; the published ones have 7 at most
MAX_MAP, MAX_MAPS = 1 << 24, 1 << 27  # numbers of one map, and of all
_PIXELS = 1e-4, 1e4  # deviations and, above, means that pixels of 0..255 can have
IMAGES = ("size", "resize", "resize_mode", "channels", "mean", "std")
# Of a model's logits. The fit gives 0.05 to 20; far below, logits in float32 would be infinite.
TEMPERATURES = (1e-3, 1e3)


def check_temperature(value: object) -> float:
    """Returns a temperature as it stands in a file.

    Raises:
      ValueError: it is none.
    """
    low, high = TEMPERATURES
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"a temperature of {value!r}"[:60])
    return float(value)


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of its network.

    Attributes:
      config: the network and its images; augmentation and training are the defaults.
      classes: its labels.
      temperature: by which the logits are divided before the softmax.
      fitted_to: the split it was fitted to, see `shipped.read_fitted_to`.
    """

    config: Config
    classes: tuple[labels.Label, ...]
    temperature: float = 1.0
    fitted_to: str = ""


def encode(header: Header) -> bytes:
    """Returns the header's bytes."""
    plain, classes = json.loads(config_io.to_json(header.config)), header.classes
    named = "imagenet" if classes == labels.imagenet() else [[x.synset, x.text] for x in classes]
    document = {
        "model": plain["model"],
        "images": {field: plain["images"][field] for field in IMAGES},
        "labels": named,
        "temperature": header.temperature,
    }
    document |= {"fitted_to": header.fitted_to} if header.fitted_to else {}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return zlib.compress(text.encode("utf-8"), 9)


def decode(data: bytes, source: str) -> Header:
    """Reads what `encode` wrote; `source` is named in messages.

    Raises:
      InputError: it is damaged, or of a network that cannot be.
    """
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, MAX_HEADER)
        if not inflater.eof or inflater.unused_data:
            raise InputError(f"{source} is damaged: its header is too long.")
        header = _read(json.loads(text), source)
    except InputError:
        raise
    except (
        zlib.error, ValueError, KeyError, TypeError, ArithmeticError, RecursionError,
    ) as error:  # fmt: skip
        raise InputError(f"{source} is damaged: its header cannot be read ({error}).") from error
    _check_network(header.config, source)
    if len(header.classes) != header.config.model.classes:
        raise InputError(
            f"{source} has {len(header.classes)} labels, its network "
            f"{header.config.model.classes} classes."
        )
    return header


def _read(document: dict, source: str) -> Header:
    images = {field: document["images"][field] for field in IMAGES}
    plain = {"model": document["model"], "images": images}
    config = config_io.from_json(json.dumps(plain), source)
    named = document["labels"]
    classes = (
        labels.imagenet()
        if named == "imagenet"
        else tuple(labels.Label(str(synset), str(text)) for synset, text in named)
    )
    temperature = check_temperature(document["temperature"])
    return Header(config, classes, temperature, str(document.get("fitted_to", "")))


def _check_network(config: Config, source: str) -> None:
    try:
        _check_images(config)
        _check_sizes(config)
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        raise InputError(f"{source} is damaged: its network cannot be built ({error}).") from error


def _check_images(config: Config) -> None:
    images = config.images
    if type(images.size) is not int or type(images.resize) is not int:
        raise ValueError(f"images of {images.size!r} of {images.resize!r} pixels")
    if images.resize > MAX_SIDE:
        raise ValueError(f"images of {images.resize} pixels")
    low, high = _PIXELS
    possible = all(low <= x <= high for x in images.std) and all(
        -high <= x <= high for x in images.mean
    )
    if not possible:
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
