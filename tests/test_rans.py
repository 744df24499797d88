"""Tests for `sqz/rans.py`: the coder of whole numbers."""

from pathlib import Path

import numpy as np
import pytest

from squeezenext.errors import InputError
from squeezenext.sqz import file as sqz
from squeezenext.sqz import rans

SHAPES = [(3, 3, 8, 12), (1, 3, 5, 7), (1, 1, 40, 30), (1, 1, 1, 1), (5, 1, 1, 16)]


def kernels(spread=3.0):
    rng = np.random.default_rng(0)
    return [np.rint(rng.normal(0, spread, s)).clip(-127, 127).astype(np.int8) for s in SHAPES]


def biases():
    return np.arange(sum(shape[-1] for shape in SHAPES), dtype=np.int16)


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 90.0])
def test_what_was_written_is_read(spread):
    wanted = kernels(spread)
    data, forms, _ = rans.write(wanted, biases())
    found, offsets = rans.read(data, SHAPES, forms, "file")
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == np.int8 and (a == b).all()
    assert (offsets == biases()).all()


def test_the_size_is_near_the_entropy():
    kernel = kernels()[2]
    _, counts = np.unique(kernel, return_counts=True)
    entropy = -(counts * np.log2(counts / counts.sum())).sum() / 8
    data, _, sizes = rans.write([kernel], np.zeros(30, np.int16))
    assert entropy < sizes[0] < 1.01 * entropy + 2 * len(counts)
    assert abs(len(data) - 60 - sizes[0]) <= 5


def test_neighbours_choose_the_table():
    """Rows of equal weights take fewer bytes than the same weights in another order."""
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.integers(-9, 10, (3, 1, 32, 32)), 3, 1).astype(np.int8)
    mixed = rng.permutation(alike.ravel()).reshape(alike.shape)
    sizes = [rans.write([k], np.zeros(32, np.int16))[2][0] for k in (alike, mixed)]
    assert sizes[0] < 0.9 * sizes[1]


def test_other_data_are_refused():
    data, forms, _ = rans.write(kernels(), biases())
    cases = [(data[:20], forms), (data[:-1], forms), (data[:-2], forms), (data + b"\0\0", forms)]
    cases += [(data, [(n, 0, 0) for n, *_ in forms]), (data, [(0, 1, 0)] + forms[1:])]
    cases += [(data, [(n, t, 10) for n, t, _ in forms])]
    books = forms[0][0]
    cases += [(data[:books] + b"\xff" + data[books + 1 :], forms)]  # nothing is left for the first
    for content, sizes in cases:
        with pytest.raises(InputError, match="damaged|cut"):
            rans.read(content, SHAPES, sizes, "file")


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_of_an_earlier_commit_is_still_read(version):
    """Version 2 has 64 lanes of a range coder."""
    data = (Path(__file__).parent / "kept" / f"whole-{version}.sqz").read_bytes()
    network = sqz.decode(data, "old.sqz").integer
    shape = network.graph.nodes[0].shape
    image = np.arange(np.prod(shape)).reshape(shape) * 7 % 256
    assert network.run(image.astype(np.uint8)).tolist() == [19094, 60764, -75278]
