"""Tests for `compression/kernel_coding.py` and `kernel_form.py`."""

import numpy as np
import pytest

from squeezenext.errors import InputError
from squeezenext.sqz import contexts as coding
from squeezenext.sqz import kernels as forms
from squeezenext.sqz.coder import Decoder, Encoder, Meter

SHAPES = [(1, 1, 1, 1), (1, 1, 70, 50), (3, 3, 5, 7), (3, 1, 4, 9), (7, 7, 3, 8)]


def both_ways(code, *known):
    """Runs `code(coder, known)` through an encoder, then a decoder."""
    encoder = Encoder(16)
    code(encoder, *known)
    decoder = Decoder(encoder.finish(), 16, "file")
    found = code(decoder, *(None for _ in known))
    decoder.finish()
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6, 1.0])
def test_places_and_signs_come_back(shape, density):
    rng = np.random.default_rng(0)
    there = rng.random((shape[0] * shape[1], shape[2] * shape[3])) < density
    found = both_ways(lambda coder, known: coding.positions(coder, shape, known), there)
    np.testing.assert_array_equal(found, there)
    signs = np.where(there, rng.choice([-1, 1], there.shape), 0).astype(np.int8)
    found = both_ways(lambda coder, known: coding.signs(coder, shape, there, known), signs)
    np.testing.assert_array_equal(found, signs)


def test_numbers_of_several_depths_come_back():
    rng = np.random.default_rng(0)
    depths = (0, 1, 5, 8)
    families = rng.integers(0, 4, 900)
    numbers = rng.integers(0, 1 << 20, 900) % (1 << np.array(depths)[families])
    found = both_ways(lambda coder, known: coding.symbols(coder, families, depths, known), numbers)
    np.testing.assert_array_equal(found, numbers)
    none = np.zeros(0, np.int64)
    assert not len(both_ways(lambda c, known: coding.symbols(c, none, (3,), known), none))
    widths = rng.integers(0, 32, 500)
    numbers = rng.integers(0, 1 << 40, 500) % (1 << widths)
    found = both_ways(lambda coder, known: coding.plain(coder, widths, known), numbers)
    np.testing.assert_array_equal(found, numbers)


def test_contexts_find_dense_filters_and_neighbours():
    rng = np.random.default_rng(0)
    shape = (3, 3, 20, 30)
    rows = np.tile(rng.random(30) < 0.3, 20)  # some filters dense, the others empty
    there = np.tile(rows, (9, 1)) & (rng.random((9, 600)) < 0.95)
    meter = Meter(64)
    coding.positions(meter, shape, there)
    share = there.mean()
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) * there.size
    assert meter.bits < 0.6 * entropy
    signs = np.where(np.tile(rng.choice([-1, 1], 600), (9, 1)), 1, 0) * rng.choice([-1, 1], 600)
    meter = Meter(64)
    coding.signs(meter, shape, np.ones((9, 600), bool), signs.astype(np.int8))
    assert meter.bits < 0.35 * signs.size


@pytest.mark.parametrize("density", [0.0, 0.001, 0.3, 1.0])
def test_gaps(density):
    there = np.random.default_rng(0).random((9, 2000)) < density
    shape = (3, 3, 20, 100)
    np.testing.assert_array_equal(forms.from_gaps(forms.to_gaps(there), shape, "file"), there)
    with pytest.raises(InputError, match="outside its layer"):
        forms.from_gaps(np.append(forms.to_gaps(there), [254] * 80), shape, "file")


def test_forms():
    shapes = [(1, 1, 4, 4), (3, 3, 2, 2)]
    table = [forms.Form("gaps", False, 3, 4, 16), forms.Form("mask", True, 0, 0, 0)]
    packed = b"".join(form.pack() for form in table)
    assert forms.unpack(packed, shapes, "file") == table
    impossible = [
        forms.Form("mask", False, 20, 0, 0),
        forms.Form("mask", True, 1, 0, 0),
        forms.Form("mask", False, 1, 0, 5),
        forms.Form("gaps", False, 1, 0, 17),
    ]
    for form in impossible:
        with pytest.raises(InputError, match="cannot have its form"):
            forms.unpack(form.pack(), shapes[:1], "file")
    with pytest.raises(InputError, match="cut"):
        forms.unpack(packed[:-1], shapes, "file")
