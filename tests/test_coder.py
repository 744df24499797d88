"""Tests for `compression/range_coder.py`."""

import numpy as np
import pytest

from squeezenext.errors import InputError
from squeezenext.sqz.coder import HALF, Contexts, Decoder, Encoder, Meter


def coded(coder, contexts, bits=None):
    """Codes a bit in each context, a call a lane-full; returns the bits."""
    chances = Contexts(int(contexts.max(initial=0)) + 1)
    found = []
    for start in range(0, len(contexts), coder.lanes):
        part = slice(start, start + coder.lanes)
        wanted = None if bits is None else bits[part]
        found.append(coder.code(chances.ones(contexts[part]), wanted))
        chances.learn(contexts[part], found[-1])
    return np.concatenate([np.zeros(0, bool), *found])


@pytest.mark.parametrize("lanes", [1, 3, 64])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("count", [0, 1, 2, 700])
def test_bits_come_back(lanes, share, count):
    rng = np.random.default_rng(count)
    bits = rng.random(count) < share
    contexts = rng.integers(0, 3, count)
    encoder = Encoder(lanes)
    coded(encoder, contexts, bits)
    data = encoder.finish()
    decoder = Decoder(data, lanes, "file")
    np.testing.assert_array_equal(coded(decoder, contexts), bits)
    decoder.finish()


def test_the_length_is_near_the_information():
    bits = np.random.default_rng(0).random(20_000) < 0.1
    contexts = np.zeros(len(bits), np.int64)
    encoder, meter = Encoder(16), Meter(16)
    coded(encoder, contexts, bits)
    coded(meter, contexts, bits)
    share = bits.mean()
    entropy = -len(bits) * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    assert entropy < meter.bits / 8 < 1.02 * entropy + 20
    assert meter.bits / 8 - 1 < len(encoder.finish()) < meter.bits / 8 + 4 * 16


def test_carries_run_through_many_words():
    """The lower part of an interval, again and again, then the upper: 0xFFFF words and a carry."""
    rare = np.full(1, 16, np.uint64)  # of 65,536: the least likely one that is allowed
    for ones in range(40):
        bits = [False] * 3 + [True] * ones + [False]
        encoder = Encoder(1)
        for bit in bits:
            encoder.code(np.uint64(65536) - rare if not bit else rare, np.array([bit]))
        decoder = Decoder(encoder.finish(), 1, "file")
        for bit in bits:
            assert decoder.code(np.uint64(65536) - rare if not bit else rare)[0] == bit
        decoder.finish()


def test_a_carry_into_a_full_word_moves_on():
    encoder = Encoder(1)
    encoder._low[:] = (1 << 48) - 2  # the next narrowing from below passes 2^48
    encoder._digits = [np.array([5], np.uint64), np.array([0xFFFF], np.uint64)]
    encoder._owners = [np.array([0]), np.array([0])]
    encoder._range[:] = 1 << 40
    encoder.code(np.full(1, HALF), np.array([False]))
    data = encoder.finish()
    assert data[1:3] == bytes([0, 6])


def test_too_much_and_too_little_are_noticed():
    bits = np.random.default_rng(1).random(2000) < 0.5
    contexts = np.zeros(2000, np.int64)
    encoder = Encoder(4)
    coded(encoder, contexts, bits)
    data = encoder.finish()
    short = Decoder(data, 4, "file")
    coded(short, contexts[:500])
    with pytest.raises(InputError, match="file is damaged"):
        short.finish()
    long = Decoder(data, 4, "file")
    coded(long, np.zeros(4000, np.int64))
    with pytest.raises(InputError, match="file is damaged"):
        long.check()
    for cut in (data[:-1], data[:2], b"", data + b"x", b"\xff" * 40):
        with pytest.raises(InputError, match="file is damaged"):
            Decoder(cut, 4, "file")


def test_counts_are_halved_and_stay_possible():
    chances = Contexts(1)
    for _ in range(40):
        chances.learn(np.zeros(1000, np.int64), np.ones(1000, bool))
    certain = int(chances.ones(np.zeros(1, np.int64))[0])
    assert 65536 - 64 < certain <= 65536 - 16
    for _ in range(10):
        chances.learn(np.zeros(1000, np.int64), np.zeros(1000, bool))
    assert 16 <= int(chances.ones(np.zeros(1, np.int64))[0]) < 1000
