"""The `.net` files of Deep Compression (github.com/songhan/SqueezeNet-Deep-Compression).

Layout, little-endian, layers in network order: first the number of stored weights of every layer
as uint32; then for each layer a codebook of 256 float32 (16 in a 4-bit file), the biases as
float32, and a code and a 4-bit gap for each stored weight. Codes are uint8; in a 4-bit file two
fill a byte as the gaps do, the low half first. A weight's position is the running sum of (gap + 1),
minus 1, in an out x in x height x width array; positions between are zero. Code 0 means 0.0: a
filler if a gap does not fit into four bits.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNet
from squeezenext.errors import InputError
from squeezenext.network import graph

LARGEST_GAP = 15
Shape = tuple[int, int, int, int]  # out x in x height x width


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer as it is stored.

    Attributes:
      codebook: [256] or [16] float32; the first value is 0.
      biases: [out] float32.
      codes: [stored] uint8, indices into the codebook.
      gaps: [stored] uint8, 0..15, the number of zeros before each stored weight.
    """

    codebook: np.ndarray
    biases: np.ndarray
    codes: np.ndarray
    gaps: np.ndarray


def decode(
    data: bytes, shapes: Sequence[Shape], source: str, bits: int = 8
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (weights, biases [out]) of every layer in a file, float32; arguments as of `read`.

    Raises:
      InputError: the file is not of these layers.
    """
    layers = zip(read(data, shapes, source, bits), shapes, strict=True)
    return [(_weights(layer, shape, source), layer.biases) for layer, shape in layers]


def read(data: bytes, shapes: Sequence[Shape], source: str, bits: int = 8) -> list[Layer]:
    """Splits a file into layers; `write` is the inverse, byte for byte.

    Args:
      data: the whole file.
      shapes: the layers' shapes in network order.
      source: the file's name in messages.
      bits: bits of a code, 8 or 4.

    Raises:
      InputError: the file is not of these layers.
    """
    header = 4 * len(shapes)
    if len(data) < header:
        raise InputError(f"{source} is cut: {len(data)} bytes.")
    counts = [int(count) for count in np.frombuffer(data, "<u4", len(shapes))]
    sizes = [
        (4 << bits) + 4 * shape[0] + (count * bits + 7) // 8 + (count + 1) // 2
        for count, shape in zip(counts, shapes, strict=True)
    ]
    if header + sum(sizes) != len(data):
        raise InputError(
            f"{source} has {len(data)} bytes; its header promises {header + sum(sizes)}. "
            "It is damaged, or of another configuration, such as squeezenet_v1_0."
        )
    layers, offset = [], header
    for count, shape, size in zip(counts, shapes, sizes, strict=True):
        layers.append(_layer(data[offset : offset + size], count, shape[0], bits, source))
        offset += size
    return layers


def _layer(data: bytes, count: int, outputs: int, bits: int, source: str) -> Layer:
    codebook = np.frombuffer(data, "<f4", 1 << bits)
    biases = np.frombuffer(data, "<f4", outputs, codebook.nbytes)
    rest = np.frombuffer(data, np.uint8, offset=codebook.nbytes + biases.nbytes)
    codes, gaps = np.split(rest, [len(rest) - (count + 1) // 2])
    if not (np.isfinite(codebook).all() and np.isfinite(biases).all()):
        raise InputError(f"{source} is damaged: a weight is not finite.")
    if codebook[0]:
        raise InputError(f"{source} is damaged: its code 0 is {codebook[0]}, not 0.")
    codes = codes if bits == 8 else _halves(codes, count, source)
    return Layer(codebook, biases, codes, _halves(gaps, count, source))


def _halves(data: np.ndarray, count: int, source: str) -> np.ndarray:
    """Unpacks `count` numbers of four bits."""
    found = np.stack([data & 15, data >> 4], axis=1).reshape(-1)
    if found[count:].any():
        raise InputError(f"{source} is damaged: there is something after the last weight.")
    return found[:count]


def _weights(layer: Layer, shape: Shape, source: str) -> np.ndarray:
    positions = np.cumsum(layer.gaps.astype(np.int64) + 1) - 1
    weights = np.zeros(np.prod(shape), np.float32)
    if len(positions) and positions[-1] >= weights.size:
        raise InputError(f"{source} is damaged: a weight lies outside its layer of shape {shape}.")
    weights[positions] = layer.codebook[layer.codes]
    return weights.reshape(shape)


def write(layers: Sequence[Layer]) -> bytes:
    """Returns the file of `layers`, whose codebooks have one size."""
    parts = [np.array([len(layer.codes) for layer in layers], "<u4").tobytes()]
    for layer in layers:
        packed = layer.codes if len(layer.codebook) == 256 else _pairs(layer.codes)
        parts += [layer.codebook.astype("<f4").tobytes(), layer.biases.astype("<f4").tobytes()]
        parts += [packed.tobytes(), _pairs(layer.gaps).tobytes()]
    return b"".join(parts)


def _pairs(numbers: np.ndarray) -> np.ndarray:
    even = np.concatenate([numbers, np.zeros(len(numbers) % 2, np.uint8)]).astype(np.uint8)
    return even[::2] | even[1::2] << 4


def encode(layers: Sequence[tuple[np.ndarray, np.ndarray]], bits: int = 8) -> bytes:
    """Encodes (weights, biases) of every layer; the codebooks are ascending.

    Raises:
      InputError: a layer has more different weights than there are codes.
    """
    return write([_shared(weights, biases, bits) for weights, biases in layers])


def _shared(weights: np.ndarray, biases: np.ndarray, bits: int) -> Layer:
    flat = weights.astype(np.float32).reshape(-1)
    places = np.flatnonzero(flat)
    values, codes = np.unique(flat[places], return_inverse=True)
    if len(values) >= 1 << bits:
        raise InputError(
            f"A layer has {len(values)} different weights beside 0; {bits} bits hold "
            f"{(1 << bits) - 1}. Compress it first."
        )
    codebook = np.zeros(1 << bits, np.float32)
    codebook[1 : len(values) + 1] = values
    distance = np.diff(places, prepend=-1) - 1
    fillers = distance // (LARGEST_GAP + 1)
    ends = np.cumsum(fillers + 1) - 1
    gaps = np.full(int(fillers.sum()) + len(places), LARGEST_GAP, np.uint8)
    stored = np.zeros(len(gaps), np.uint8)
    gaps[ends], stored[ends] = distance % (LARGEST_GAP + 1), codes + 1
    return Layer(codebook, biases, stored, gaps)


def weighted_layers(config: Config) -> tuple[list[str], list[Shape]]:
    """Returns the names and shapes of SqueezeNet's layers; refuses other networks."""
    if not isinstance(config.model, SqueezeNet) or config.model.bypass == "complex":
        raise InputError("Deep Compression's files are of SqueezeNet without complex bypass.")
    network = graph.of(config)
    names = [node.name for node in network.weighted]
    shapes = [tuple(network.kernel_shape(name)[axis] for axis in (3, 2, 0, 1)) for name in names]
    return names, shapes
