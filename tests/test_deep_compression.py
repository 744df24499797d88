"""Tests for `foreign/deep_compression.py`; test_weights.py has the reader's."""

import numpy as np
import pytest

from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.formats import deep_compression
from squeezenext.network import graph

SHAPES = [(2, 3, 1, 1), (4, 2, 3, 3), (5, 7, 3, 3)]


@pytest.fixture(params=[4, 8])
def bits(request):
    return request.param


@pytest.fixture
def layers():
    rng = np.random.default_rng(0)
    made = []
    for shape, zeros in zip(SHAPES, (0.0, 1.0, 0.97), strict=True):  # dense, empty, wide gaps
        array = rng.integers(1, 7, shape).astype(np.float32)
        array[rng.random(shape) < zeros] = 0
        made.append((array, rng.normal(size=shape[0]).astype(np.float32)))
    return made


def test_written_and_read(layers, bits):
    data = deep_compression.encode(layers, bits)
    for (array, biases), (weights, offsets) in zip(
        layers, deep_compression.decode(data, SHAPES, "file", bits), strict=True
    ):
        np.testing.assert_array_equal(weights, array)
        np.testing.assert_array_equal(offsets, biases)
    assert deep_compression.write(deep_compression.read(data, SHAPES, "file", bits)) == data


def test_too_many_values_are_refused(layers):
    layers[0] = (np.arange(6, dtype=np.float32).reshape(SHAPES[0]) * 10, layers[0][1])
    deep_compression.encode(layers, 4)
    many = np.arange(1, 4 * 2 * 9 + 1, dtype=np.float32).reshape(SHAPES[1])
    with pytest.raises(InputError, match="72 different weights beside 0; 4 bits hold 15"):
        deep_compression.encode([layers[0], (many, layers[1][1]), layers[2]], 4)


def test_the_published_file_byte_for_byte(shared):
    data = (shared / "weights" / "squeezenet_v1.0.deep-compression-8bit.net").read_bytes()
    network = graph.of(config_io.load("squeezenet_v1_0"))
    kernels = [network.kernel_shape(node.name) for node in network.weighted]
    shapes = [(out, inside, height, width) for height, width, inside, out in kernels]
    assert deep_compression.write(deep_compression.read(data, shapes, "file")) == data
    arrays = deep_compression.decode(data, shapes, "file")
    assert len(deep_compression.encode(arrays)) == len(data) == 675_763


def test_damage_is_an_error_or_another_network_of_the_same_shape(layers, bits):
    """The format has no checksum: a changed weight cannot be told, a broken layout must be."""
    data = deep_compression.encode(layers, bits)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            damaged[place] ^= 1 << rng.integers(0, 8)
        damaged = bytes(
            damaged[: rng.integers(0, len(data) + 1)] if rng.random() < 0.3 else damaged
        )
        try:
            decoded = deep_compression.decode(damaged, SHAPES, "file", bits)
        except InputError as error:
            refused += "file" in str(error)
        else:
            assert [w.shape for w, _ in decoded] == SHAPES
            assert all(np.isfinite(w).all() and np.isfinite(b).all() for w, b in decoded)
    assert refused > 60
