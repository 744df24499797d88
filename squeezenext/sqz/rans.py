"""Codes the kernels of a network of whole numbers: rANS with static tables.

rANS (J. Duda, arXiv 1311.2540) keeps one state of 32 bits, from which it decodes a value by a
multiplication and a look-up. A kernel's values are coded filter by filter. Where a kernel has
several positions, the neighbours of a weight in its filter choose the table. docs/compression.md
has the format, and why this coder was chosen.
"""

import itertools
import math
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from squeezenext.errors import InputError
from squeezenext.sqz import kernels as forms
from squeezenext.sqz.kernels import Shape

_BITS = 12  # of a frequency
_TOTAL = 1 << _BITS
_LEAST = 1 << 16  # least state; below, a word of 16 bits is read
_STATE = struct.Struct("<I")
MAX_STEP = 8
_TABLES = (1, 3, 5, 7, 9, 11)  # numbers of tables that are tried
# The frequencies that a byte stands for: four bits of exponent, four below a leading one.
_SHARES = np.array([b if b < 16 else (16 + b % 16) << b // 16 - 1 for b in range(256)])
_CODES = int(np.searchsorted(_SHARES, _TOTAL))
_MOST = 5 * 128  # greatest expectation, see `_expected`


class Form(NamedTuple):
    """The tables by which a kernel is coded.

    Attributes:
      values: its values, int8, about the most frequent first.
      shares: byte of each value's frequency but the first's, uint8 [tables, values - 1].
      step: logarithm of the width of a table's range of expectations.
    """

    values: np.ndarray
    shares: np.ndarray
    step: int

    @property
    def size(self) -> tuple[int, int, int]:
        """The numbers of values and tables, and the step."""
        return len(self.values), len(self.shares), self.step

    def frequencies(self) -> np.ndarray:
        """Returns the frequencies of the values, of 4,096, int64 [tables, values]."""
        others = _SHARES[self.shares]
        return np.column_stack([_TOTAL - others.sum(1), others])

    def contexts(self, expected: np.ndarray) -> np.ndarray:
        """Returns the index of the table for each value that `_expected` gave."""
        half = len(self.shares) << self.step >> 1
        return (expected + half >> self.step).clip(0, len(self.shares) - 1)


def most_in_tables(shape: Shape) -> int:
    """Returns the most values that the tables of a kernel can have, all together."""
    weights, one_position = math.prod(shape), math.prod(shape[:-2]) == 1
    return min(weights, 255) * (1 if one_position else _TABLES[-1])


def _expected(found: np.ndarray, plane: int, width: int) -> np.ndarray:
    """Returns twice the sum of the neighbours left and above, less the one between, [..., inputs].

    Args:
      found: int [..., planes, inputs], of which those before `plane` are known.
      plane: a position of the kernel.
      width: the kernel's.
    """
    expected = np.zeros_like(found[..., 0, :])
    if plane % width:
        expected += 2 * found[..., plane - 1, :]
    if plane >= width:
        expected += 2 * found[..., plane - width, :]
    if plane % width and plane >= width:
        expected -= found[..., plane - width - 1, :]
    return expected


def _by_filter(kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel as [filters, planes, inputs] int64."""
    height, width, inputs, filters = kernel.shape
    return np.moveaxis(kernel, -1, 0).reshape(filters, height * width, inputs).astype(np.int64)


def _all_expected(flat: np.ndarray, width: int) -> np.ndarray:
    """Returns `_expected` of every weight, in the order of coding."""
    planes = range(flat.shape[1])
    return np.stack([_expected(flat, plane, width) for plane in planes], 1).ravel()


def _choose(values: np.ndarray, symbols: np.ndarray, expected: np.ndarray) -> tuple[Form, float]:
    """Returns the form that takes the fewest bytes, and the number of these bytes."""
    wide = 2 * _MOST + 1
    joint = np.bincount((expected + _MOST) * len(values) + symbols, minlength=wide * len(values))
    joint = joint.reshape(wide, len(values))
    best, least = None, math.inf
    steps = range(MAX_STEP + 1) if expected.any() else (0,)
    for tables, step in itertools.product(_TABLES if expected.any() else (1,), steps):
        form = Form(values, np.zeros((tables, len(values) - 1), np.uint8), step)
        counts = np.zeros((tables, len(values)), np.int64)
        np.add.at(counts, form.contexts(np.arange(-_MOST, _MOST + 1)), joint)
        form = form._replace(shares=_rounded(counts))
        used = np.where(counts > 0, form.frequencies(), _TOTAL)
        size = (counts * (_BITS - np.log2(used))).sum() / 8 + len(values) + form.shares.size
        if size < least:
            best, least = form, size
    return best, least


def _rounded(counts: np.ndarray) -> np.ndarray:
    """Returns the bytes of frequencies in proportion to `counts`, [tables, values - 1]."""
    wanted = counts[:, 1:] * _TOTAL / np.maximum(counts.sum(1, keepdims=True), 1)
    codes = np.searchsorted((_SHARES[: _CODES - 1] + _SHARES[1:_CODES]) / 2, wanted, "right")
    codes = np.maximum(codes, counts[:, 1:] > 0)
    for row in codes:
        while _SHARES[row].sum() >= _TOTAL:  # something must be left for the first value
            row[row.argmax()] -= 1
    return codes.astype(np.uint8)


def write(
    kernels: Sequence[np.ndarray], biases: np.ndarray
) -> tuple[bytes, list[tuple[int, int, int]], list[int]]:
    """Returns the coded bytes, and of each layer `Form.size` and about how many bytes it takes.

    Args:
      kernels: int8 [height, width, in / groups, out] in network order.
      biases: int16, of all layers.
    """
    found, sizes, starts, shares = [], [], [], []
    for kernel in kernels:
        flat = _by_filter(kernel)
        values, symbols, counts = np.unique(flat, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        symbols, expected = np.argsort(order)[symbols.ravel()], _all_expected(flat, kernel.shape[1])
        form, size = _choose(values[order].astype(np.int8), symbols, expected)
        frequencies, places = form.frequencies(), (form.contexts(expected), symbols)
        starts.append((np.cumsum(frequencies, 1) - frequencies)[places])
        shares.append(frequencies[places])
        found.append(form)
        sizes.append(round(size))
    books = b"".join(form.values.tobytes() + form.shares.tobytes() for form in found)
    words = _encode(np.concatenate(starts), np.concatenate(shares))
    return books + biases.astype("<i2").tobytes() + words, [form.size for form in found], sizes


def _encode(starts: np.ndarray, shares: np.ndarray) -> bytes:
    """Returns the last state and the words, in the order of decoding, which is the reverse."""
    state, words = _LEAST, []
    for start, share in zip(starts[::-1].tolist(), shares[::-1].tolist(), strict=True):
        if state >= share << 32 - _BITS:
            words.append(state & 0xFFFF)
            state >>= 16
        high, low = divmod(state, share)
        state = (high << _BITS) + low + start
    return _STATE.pack(state) + np.array(words[::-1], "<u2").tobytes()


def read(
    data: bytes, shapes: Sequence[Shape], sizes: Sequence[tuple[int, int, int]], source: str
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns int8 kernels and int16 biases; the inverse of `write`.

    Args:
      data: the coded bytes.
      shapes: shapes of the kernels.
      sizes: `Form.size` of each.
      source: the file's name in messages.

    Raises:
      InputError: the data are not of these shapes.
    """
    if not all(values and tables and step <= MAX_STEP for values, tables, step in sizes):
        raise forms.damaged_values(source)
    count = sum(shape[-1] for shape in shapes)
    books = sum(values + tables * (values - 1) for values, tables, _ in sizes)
    start = books + 2 * count
    if len(data) < start + _STATE.size or (len(data) - start) % 2:
        raise InputError(f"{source} is cut inside its numbers.")
    decoder = _Decoder(data[start:])
    kernels, start = [], 0
    for shape, (values, tables, step) in zip(shapes, sizes, strict=True):
        end = start + values + tables * (values - 1)
        shares = np.frombuffer(data[start + values : end], np.uint8).reshape(tables, values - 1)
        form = Form(np.frombuffer(data, np.int8, values, start), shares, step)
        if (form.frequencies()[:, 0] < 1).any():
            raise forms.damaged_values(source)
        kernels.append(decoder.kernel(form, shape))
        start = end
    if not decoder.ended:
        raise InputError(f"{source} is damaged: its coded data do not end where they must.")
    return kernels, np.frombuffer(data, "<i2", count, books)


class _Decoder:
    """Reads what `_encode` wrote."""

    def __init__(self, data: bytes):
        (self._state,) = _STATE.unpack_from(data)
        words = np.frombuffer(data, "<u2", offset=_STATE.size).tolist()
        self._left = len(words)
        self._words = itertools.chain(words, itertools.repeat(0))

    @property
    def ended(self) -> bool:
        """Whether everything was read, and no more."""
        return self._state == _LEAST and not self._left

    def kernel(self, form: Form, shape: Shape) -> np.ndarray:
        """Returns the next kernel, int8."""
        height, width, inputs, filters = shape
        # For every slot of each table: its value, that value's frequency, and the slot's place.
        lists = [_slots(row) for row in form.frequencies()]
        found = np.zeros((filters, height * width, inputs), np.int64)
        for one in found:
            for plane in range(len(one)):
                contexts = form.contexts(_expected(one, plane, width)).tolist()
                one[plane] = form.values[self._symbols(lists, contexts)]
        return np.moveaxis(found.reshape(filters, height, width, inputs), 0, -1).astype(np.int8)

    def _symbols(self, lists: Sequence, contexts: Iterable[int]) -> list[int]:
        found, state = [], self._state
        for context in contexts:
            symbols, shares, places = lists[context]
            slot = state & _TOTAL - 1
            found.append(symbols[slot])
            state = shares[slot] * (state >> _BITS) + places[slot]
            if state < _LEAST:
                state = state << 16 | next(self._words)
                self._left -= 1
        self._state = state
        return found


def _slots(frequencies: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    symbols = np.repeat(np.arange(len(frequencies)), frequencies)
    starts = np.cumsum(frequencies) - frequencies
    places = np.arange(_TOTAL) - starts[symbols]
    return symbols.tolist(), frequencies[symbols].tolist(), places.tolist()
