"""Tests for `compression/huffman.py`."""

import numpy as np
import pytest

from squeezenext.errors import InputError
from squeezenext.sqz import huffman


def round_trip(symbols, alphabet):
    table = huffman.lengths(np.bincount(symbols, minlength=alphabet))
    data = huffman.encode(symbols, table)
    again = huffman.unpack_table(huffman.pack_table(table), alphabet, "file")
    np.testing.assert_array_equal(again, table)
    np.testing.assert_array_equal(huffman.decode(data, len(symbols), again, "file"), symbols)
    return data, table


@pytest.mark.parametrize("alphabet", [1, 2, 3, 17, 256, 4096])
@pytest.mark.parametrize("count", [0, 1, 5, 3000])
def test_symbols_come_back(alphabet, count):
    rng = np.random.default_rng(count)
    round_trip(np.minimum(rng.geometric(0.1, count) - 1, alphabet - 1), alphabet)


def test_one_symbol_takes_no_bits():
    data, _ = round_trip(np.full(100, 7), 9)
    assert data == b""


def test_more_than_a_chunk(monkeypatch):
    monkeypatch.setattr(huffman, "_CHUNK", 64)
    round_trip(np.random.default_rng(0).integers(0, 200, 3000), 200)


def test_lengths_are_the_best_and_bounded():
    fibonacci = [1, 1]
    while len(fibonacci) < 30:  # Huffman's own code of these is 29 bits deep
        fibonacci.append(sum(fibonacci[-2:]))
    table = huffman.lengths(np.array(fibonacci))
    assert table.max() == huffman.LIMIT
    assert (0.5 ** table.astype(float)).sum() == 1
    assert list(huffman.lengths(np.array([1, 0, 1, 2, 4]))) == [3, 0, 3, 2, 1]


def test_damage_is_named():
    symbols = np.random.default_rng(0).integers(0, 9, 300)
    data, table = round_trip(symbols, 9)
    for wrong, count in ((data[:-1], 300), (data + b"\0", 300), (data, 400), (b"", 5), (data, 0)):
        with pytest.raises(InputError, match="file is damaged"):
            huffman.decode(wrong, count, table, "file")
    for count in (1, 1 << 40):
        with pytest.raises(InputError, match="file is damaged"):
            huffman.decode(b"", count, np.zeros(9, np.uint8), "file")
    for lengths in ([1, 1, 1], [2, 2, 2], [15, 15]):
        packed = huffman.pack_table(np.array(lengths, np.uint8))
        with pytest.raises(InputError, match="not complete"):
            huffman.unpack_table(packed, len(lengths), "file")
