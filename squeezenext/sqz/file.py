"""`.sqz`: a whole compressed classifier in one file, read with numpy alone.

The file holds the configuration (with the preprocessing), the labels and the folded network's
weights, coded; docs/compression.md gives it byte for byte. `read` believes no length before it has
compared it with what is there, and nothing before the checksum.
"""

import dataclasses
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from squeezenext import files, labels
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.network import graph
from squeezenext.sqz import header as sqz_header
from squeezenext.sqz import kernels as sqz_kernels
from squeezenext.sqz import streams as sqz_streams
from squeezenext.sqz.header import Header
from squeezenext.sqz.kernels import Shared

SUFFIX = ".sqz"
MAGIC = b"\x89SQZ\r\n\x1a\n"  # as PNG's: a transfer that changes line ends is noticed at once
VERSION = 1
HUFFMAN, ARITHMETIC = 0, 1  # the header's numbers of the coders; the first is no longer read
MAX_BYTES = 64 << 20  # of a file
_HEAD = struct.Struct("<8sHBBII")  # magic, version, coder, bytes of a float, header, streams
_CRC = struct.Struct("<I")


@dataclasses.dataclass(frozen=True)
class Compressed:
    """What a file holds.

    Attributes:
      config, classes, temperature, fitted_to: as `sqz_header.Header` has them.
      weights: as `graph.fold` returns them.
    """

    config: Config
    classes: tuple[labels.Label, ...]
    temperature: float
    weights: dict[str, np.ndarray]
    fitted_to: str = ""


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
    wide: bool = False,
    temperature: float = 1.0,
    fitted_to: str = "",
) -> Encoded:
    """Makes the file of a network.

    Args:
      config: of the network.
      classes: its labels, in order.
      kernels: by layer; an array with more than 4,096 different values is stored as it is.
      biases: [out] by layer, of those that have one.
      wide: keep values as float32; else they are rounded to float16.
      temperature: by which its logits are divided before the softmax.
      fitted_to: the split that this was fitted to.

    Raises:
      InputError: a value does not fit float16.
    """
    kind = np.dtype("<f4" if wide else "<f2")
    names = [node.name for node in graph.of(config).weighted]
    with np.errstate(over="ignore"):  # what overflows is found next
        parts = [sqz_kernels.take_apart(kernels[name], kind) for name in names]
        offsets = [biases[name].astype(kind) for name in names if name in biases]
    for array in (*offsets, *(part.codebook for part in parts)):
        if not np.isfinite(array).all():
            raise InputError("A weight is too large for float16; compress with --lossless.")
    header = sqz_header.encode(Header(config, tuple(classes), temperature, fitted_to))
    flat = np.concatenate([np.zeros(0, kind), *offsets])
    streams, sizes = sqz_streams.write(parts, flat)
    head = _HEAD.pack(MAGIC, VERSION, ARITHMETIC, kind.itemsize, len(header), len(streams))
    body = head + header + streams
    data = body + _CRC.pack(zlib.crc32(body))
    return Encoded(data, dict(zip(names, sizes, strict=True)))


def write(path: Path, data: bytes) -> None:
    """Puts a file in place, whole or not at all.

    Raises:
      InputError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, data)
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
    kind, header, streams = _frame(data, source)
    known = sqz_header.decode(header, source)
    nodes = graph.of(known.config)
    shapes = [nodes.kernel_shape(node.name) for node in nodes.weighted]
    full = [shape if len(shape) == 4 else (1, 1, *shape) for shape in shapes]
    biased = [node for node in nodes.weighted if node.op == "conv" or node.bias]
    count = sum(node.shape[-1] for node in biased)
    kernels, biases = sqz_streams.read(streams, full, count, kind, source)
    if not all(np.isfinite(array).all() for array in (*kernels, biases)):
        raise InputError(f"{source} is damaged: a weight is not finite.")
    weights = {
        f"{node.name}/kernel": kernel.reshape(shape)
        for node, kernel, shape in zip(nodes.weighted, kernels, shapes, strict=True)
    }
    ends = np.cumsum([node.shape[-1] for node in biased])[:-1]
    for node, bias in zip(biased, np.split(biases, ends), strict=True):
        weights[f"{node.name}/bias"] = bias
    described = (known.config, known.classes, known.temperature)
    return Compressed(*described, weights, known.fitted_to)


def _frame(data: bytes, source: str) -> tuple[np.dtype, bytes, bytes]:
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
    if coder == HUFFMAN:
        raise InputError(
            f"{source} holds Huffman codes, which are no longer read; compress the model again."
        )
    if coder != ARITHMETIC or itemsize not in (2, 4):
        raise InputError(f"{source} is damaged: there is no coder {coder} of {itemsize} bytes.")
    start = _HEAD.size + header
    kind = np.dtype(f"<f{itemsize}")
    return kind, data[_HEAD.size : start], data[start : start + streams]
