"""`.sqz`: a whole compressed classifier in one file, read with numpy alone.

The file holds the configuration (with the preprocessing), the labels and the folded network's
weights, coded; docs/compression.md gives it byte for byte. `read` believes no length before it has
compared it with what is there, and nothing before the checksum.
"""

import dataclasses
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from squeezenext import atomic, config_io, graph, labels
from squeezenext.compression import arithmetic_streams, huffman_streams, kernel_form
from squeezenext.compression.sharing import Shared
from squeezenext.config import Config
from squeezenext.errors import InputError

SUFFIX = ".sqz"
MAGIC = b"\x89SQZ\r\n\x1a\n"  # as PNG's: a transfer that changes line ends is noticed at once
VERSION = 1
Coder = Literal["huffman", "arithmetic"]
CODERS = get_args(Coder)
MAX_BYTES = 64 << 20  # of a file
MAX_HEADER = 4 << 20  # of the JSON, decompressed
# Of a network; the largest that is published has 4.4 million weights in 44 units.
MAX_WEIGHTS = 1 << 24
MAX_UNITS = 500
MAX_CHANNELS = 1 << 16
MAX_SIDE = 4096
_HEAD = struct.Struct("<8sHBBII")  # magic, version, coder, bytes of a float, header, streams
_CRC = struct.Struct("<I")
_STREAMS = {"huffman": huffman_streams, "arithmetic": arithmetic_streams}


@dataclasses.dataclass(frozen=True)
class Compressed:
    """What a file holds.

    Attributes:
      config: the network and its images.
      classes: its labels.
      weights: as `graph.fold` returns them.
      coder: with which the file was coded.
    """

    config: Config
    classes: tuple[labels.Label, ...]
    weights: dict[str, np.ndarray]
    coder: Coder


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A file and, by layer, about how many bytes of it the kernel takes."""

    data: bytes
    layers: dict[str, int]


def encode(
    config: Config,
    classes: Sequence[labels.Label],
    kernels: Mapping[str, Shared | np.ndarray],
    biases: Mapping[str, np.ndarray],
    *,
    coder: Coder = "arithmetic",
    wide: bool = False,
) -> Encoded:
    """Makes the file of a network.

    Args:
      config: of the network.
      classes: its labels, in order.
      kernels: by layer; an array with more than 4,096 different values is stored as it is.
      biases: [out] by layer, of those that have one.
      coder: "arithmetic" is smaller, "huffman" is what Deep Compression publishes.
      wide: keep values as float32; else they are rounded to float16.

    Raises:
      InputError: a value does not fit float16.
    """
    kind = np.dtype("<f4" if wide else "<f2")
    names = [node.name for node in graph.of(config).weighted]
    with np.errstate(over="ignore"):  # what overflows is found next
        parts = [kernel_form.take_apart(kernels[name], kind) for name in names]
        offsets = [biases[name].astype(kind) for name in names if name in biases]
    for array in (*offsets, *(part.codebook for part in parts)):
        if not np.isfinite(array).all():
            raise InputError("A weight is too large for float16; compress with --lossless.")
    header = _header(config, tuple(classes))
    flat = np.concatenate([np.zeros(0, kind), *offsets])
    streams, sizes = _STREAMS[coder].write(parts, flat)
    head = _HEAD.pack(MAGIC, VERSION, CODERS.index(coder), kind.itemsize, len(header), len(streams))
    body = head + header + streams
    data = body + _CRC.pack(zlib.crc32(body))
    return Encoded(data, dict(zip(names, sizes, strict=True)))


def _header(config: Config, classes: tuple[labels.Label, ...]) -> bytes:
    named = "imagenet" if classes == labels.imagenet() else [[x.synset, x.text] for x in classes]
    document = {"config": json.loads(config_io.to_json(config)), "labels": named}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return zlib.compress(text.encode("utf-8"), 9)


def write(path: Path, data: bytes) -> None:
    """Puts a file in place, whole or not at all.

    Raises:
      InputError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_file(path, lambda file: file.write_bytes(data))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error


def read(path: Path) -> Compressed:
    """Reads a file.

    Raises:
      InputError: it cannot be read, is damaged, or of another version.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return decode(data, str(path))


def decode(data: bytes, source: str) -> Compressed:
    """Reads a file's bytes; `source` is named in messages.

    Raises:
      InputError: as `read`.
    """
    coder, kind, header, streams = _frame(data, source)
    config, classes = _read_header(header, source)
    nodes = graph.of(config)
    shapes = [nodes.kernel_shape(node.name) for node in nodes.weighted]
    full = [shape if len(shape) == 4 else (1, 1, *shape) for shape in shapes]
    biased = [node for node in nodes.weighted if node.op == "conv" or node.bias]
    count = sum(node.shape[-1] for node in biased)
    kernels, biases = _STREAMS[coder].read(streams, full, count, kind, source)
    if not all(np.isfinite(array).all() for array in (*kernels, biases)):
        raise InputError(f"{source} is damaged: a weight is not finite.")
    weights = {
        f"{node.name}/kernel": kernel.reshape(shape)
        for node, kernel, shape in zip(nodes.weighted, kernels, shapes, strict=True)
    }
    ends = np.cumsum([node.shape[-1] for node in biased])[:-1]
    for node, bias in zip(biased, np.split(biases, ends), strict=True):
        weights[f"{node.name}/bias"] = bias
    return Compressed(config, classes, weights, coder)


def _frame(data: bytes, source: str) -> tuple[Coder, np.dtype, bytes, bytes]:
    """Checks everything around the content."""
    if len(data) > MAX_BYTES:
        raise InputError(f"{source} is larger than {MAX_BYTES >> 20} MB.")
    if not data.startswith(MAGIC):
        raise InputError(f"{source} is not a .sqz file: it begins otherwise.")
    if len(data) < _HEAD.size + _CRC.size:
        raise InputError(f"{source} is cut: {len(data)} bytes.")
    _, version, coder, itemsize, header, streams = _HEAD.unpack_from(data)
    if version != VERSION:
        raise InputError(
            f"{source} is of version {version} of the format; this program reads {VERSION}."
        )
    promised = _HEAD.size + header + streams + _CRC.size
    if promised != len(data):
        raise InputError(f"{source} has {len(data)} bytes; its header promises {promised}.")
    if zlib.crc32(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        raise InputError(f"{source} is damaged: its checksum is another.")
    if coder >= len(CODERS) or itemsize not in (2, 4):
        raise InputError(f"{source} is damaged: there is no coder {coder} of {itemsize} bytes.")
    start = _HEAD.size + header
    kind = np.dtype(f"<f{itemsize}")
    return CODERS[coder], kind, data[_HEAD.size : start], data[start : start + streams]


def _read_header(data: bytes, source: str) -> tuple[Config, tuple[labels.Label, ...]]:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, MAX_HEADER)
        if not inflater.eof or inflater.unused_data:
            raise InputError(f"{source} is damaged: its header is too long.")
        document = json.loads(text)
        config = config_io.from_json(json.dumps(document["config"]), source)
        named = document["labels"]
        classes = (
            labels.imagenet()
            if named == "imagenet"
            else tuple(labels.Label(str(synset), str(text)) for synset, text in named)
        )
    except InputError:
        raise
    except (zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{source} is damaged: its header cannot be read ({error}).") from error
    _check_size(config, source)
    if len(classes) != config.model.classes:
        raise InputError(
            f"{source} has {len(classes)} labels, its network {config.model.classes} classes."
        )
    return config, classes


def _check_size(config: Config, source: str) -> None:
    """Refuses a network that no one would have compressed, before any of it is built.

    Raises:
      InputError: it is too large, or impossible.
    """
    try:
        total = _weights(config)
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        raise InputError(f"{source} is damaged: its network cannot be built ({error}).") from error
    if total > MAX_WEIGHTS:
        raise InputError(f"{source} is damaged: its network would have {total:,} weights.")


def _weights(config: Config) -> int:
    """Counts a network's weights; raises ValueError or TypeError of one that cannot be."""
    units = sum(stage.units for stage in getattr(config.model, "stages", ()))
    layers = units + len(getattr(config.model, "fires", ()))
    numbers = [n for n in _leaves(dataclasses.astuple(config.model)) if isinstance(n, int)]
    if layers > MAX_UNITS or config.images.size > MAX_SIDE:
        raise ValueError(f"{layers} units, {config.images.size} pixels")
    if not all(0 <= number <= MAX_CHANNELS for number in numbers):
        raise ValueError(f"sizes {min(numbers)} to {max(numbers)}")
    nodes = graph.of(config)
    shapes = [nodes.kernel_shape(node.name) for node in nodes.weighted]
    if not all(isinstance(side, int) and side > 0 for shape in shapes for side in shape):
        raise ValueError("a layer without weights")
    return sum(math.prod(shape) for shape in shapes)


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
