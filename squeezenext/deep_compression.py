"""Reads the `.net` files of Deep Compression (github.com/songhan/SqueezeNet-Deep-Compression).

Layout, little-endian, layers in network order: first the number of stored weights of every layer
as uint32; then for each layer a codebook of 256 float32, the biases as float32, one uint8 code a
stored weight and one 4-bit gap a stored weight, two to a byte, low half first. A weight's position
is the running sum of (gap + 1), minus 1, in an out x in x height x width array; positions between
are zero. Code 0 stands for 0.0: a filler where a gap would not fit four bits.
"""

from collections.abc import Sequence

import numpy as np

from squeezenext.errors import InputError

CODEBOOK = 256


def decode(
    data: bytes, shapes: Sequence[tuple[int, int, int, int]], source: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Decodes an 8-bit file.

    Args:
      data: the whole file.
      shapes: out x in x height x width of every layer, in network order.
      source: named in messages.

    Returns:
      (weights of that shape, biases [out]) of every layer, float32.

    Raises:
      InputError: the file is not of these layers.
    """
    header = 4 * len(shapes)
    if len(data) < header:
        raise InputError(f"{source} is cut: {len(data)} bytes.")
    counts = [int(count) for count in np.frombuffer(data, "<u4", len(shapes))]
    sizes = [
        4 * CODEBOOK + 4 * shape[0] + count + (count + 1) // 2
        for count, shape in zip(counts, shapes, strict=True)
    ]
    if header + sum(sizes) != len(data):
        raise InputError(
            f"{source} has {len(data)} bytes; its header promises {header + sum(sizes)}. "
            "It is damaged, or of another network."
        )
    layers, offset = [], header
    for count, shape, size in zip(counts, shapes, sizes, strict=True):
        layers.append(_layer(data[offset : offset + size], count, shape, source))
        offset += size
    return layers


def _layer(
    data: bytes, count: int, shape: tuple[int, int, int, int], source: str
) -> tuple[np.ndarray, np.ndarray]:
    codebook = np.frombuffer(data, "<f4", CODEBOOK)
    biases = np.frombuffer(data, "<f4", shape[0], 4 * CODEBOOK)
    start = 4 * CODEBOOK + 4 * shape[0]
    codes = np.frombuffer(data, np.uint8, count, start)
    pairs = np.frombuffer(data, np.uint8, offset=start + count)
    gaps = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)[:count]
    positions = np.cumsum(gaps.astype(np.int64) + 1) - 1
    weights = np.zeros(np.prod(shape), np.float32)
    if count and positions[-1] >= weights.size:
        raise InputError(f"{source} is damaged: a weight lies outside its layer of shape {shape}.")
    weights[positions] = codebook[codes]
    if not (np.isfinite(weights).all() and np.isfinite(biases).all()):
        raise InputError(f"{source} is damaged: a weight is not finite.")
    return weights.reshape(shape), biases
