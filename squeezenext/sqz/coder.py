"""An adaptive binary range coder that codes many bits at once, in integer arithmetic.

A range coder (G. N. N. Martin, 1979) narrows an interval by the probability of each bit. One coder
in Python takes a microsecond or more for a bit, and a network has millions of bits. Here `lanes`
independent coders run side by side in numpy: bit i of a call goes to lane i. Probabilities come
from `Contexts`, counts that encoder and decoder keep alike and update after each call. All
arithmetic is in integers, so every machine decodes the same.

The interval of a lane has 48 bits; when it falls below 32 bits, its upper 16 are written.
"""

import numpy as np

from squeezenext.errors import InputError

HALF = np.uint64(1 << 15)  # an even chance, in 65,536ths
_ONE = np.uint64(16)  # number of bits of a probability
# Counts are halved here, so no probability is below 1 in 4096. That keeps `bound` and the rest of
# the interval above 2^20, so that one shift by a word always suffices.
_LIMIT = 4096
_FLOOR = np.uint64(1 << 32)
_WORD = np.uint64(16)


class Contexts:
    """Counts of zeros and ones in each of `number` contexts, as the probability of a one.

    The estimate is Krichevsky and Trofimov's: (ones + 1/2) / (bits + 1). `seen` is the number of
    bits counted.
    """

    def __init__(self, number: int):
        self.seen = 0
        self._number = number
        self._counts = np.ones(2 * number, np.uint64)  # twice the zeros + 1, then the ones
        self._ones = np.full(number, HALF, np.uint64)

    def ones(self, contexts: np.ndarray) -> np.ndarray:
        """Returns the probability of a one in each of `contexts`, uint64 in 65,536ths."""
        return self._ones[contexts]

    def learn(self, contexts: np.ndarray, bits: np.ndarray) -> None:
        """Counts `bits`, bool, one in each of `contexts`."""
        self.seen += len(bits)
        places = contexts + self._number * bits
        new = np.bincount(places, minlength=2 * self._number).view(np.uint64)
        self._counts += new + new
        zeros, ones = self._counts[: self._number], self._counts[self._number :]
        total = zeros + ones
        while total.max() > _LIMIT:
            full = np.tile(total > _LIMIT, 2)
            self._counts[full] = (self._counts[full] + np.uint64(1)) >> np.uint64(1)
            total = zeros + ones
        self._ones = (ones << _ONE) // total


class Encoder:
    """Writes bits; `code` has the signature of `Decoder.code`, so that one function serves both."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        self._low = np.zeros(lanes, np.uint64)
        self._range = np.full(lanes, (1 << 48) - 1, np.uint64)
        self._digits: list[np.ndarray] = []  # 16 bits each, with a carry above them
        self._owners: list[np.ndarray] = []

    def code(self, ones: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Writes `bits`, bool; `ones` is the probability of a one for each, in 65,536ths."""
        count = len(ones)
        low, width = self._low[:count], self._range[:count]
        bound = (width >> _WORD) * ones
        low += bound * ~bits
        width -= bound
        np.copyto(width, bound, where=bits)
        self._shift((width < _FLOOR).nonzero()[0])
        return bits

    def _shift(self, lanes: np.ndarray) -> None:
        low = self._low[lanes]
        self._digits.append(low >> np.uint64(32))
        self._owners.append(lanes)
        self._low[lanes] = (low & (_FLOOR - np.uint64(1))) << _WORD
        self._range[lanes] <<= _WORD

    def finish(self) -> bytes:
        """Returns the lengths of all lanes, then their bytes without trailing zeros."""
        self._choose_ends()
        self._shift(np.arange(self.lanes))
        owners, digits = np.concatenate(self._owners), np.concatenate(self._digits)
        digits = digits[np.argsort(owners, kind="stable")].astype(np.int64)
        parts = np.split(digits, np.cumsum(np.bincount(owners, minlength=self.lanes))[:-1])
        streams = [_carried(part).astype(">u2").tobytes().rstrip(b"\0") for part in parts]
        lengths = b"".join(_varint(len(stream)) for stream in streams)
        return lengths + b"".join(streams)

    def _choose_ends(self) -> None:
        """Moves `low` to the number in its interval that ends in the most zero bytes."""
        for shift in (np.uint64(32), np.uint64(40)):
            unit = np.uint64(1) << shift
            rounded = (self._low + unit - np.uint64(1)) >> shift << shift
            fits = rounded - self._low < self._range
            self._range -= np.where(fits, rounded - self._low, np.uint64(0))
            self._low = np.where(fits, rounded, self._low)


def _carried(digits: np.ndarray) -> np.ndarray:
    """Adds the carry of each digit to the digit before."""
    while (over := digits[1:] >> 16).any():
        digits[1:] &= 0xFFFF
        digits[:-1] += over
    return digits


def _varint(number: int) -> bytes:
    """Returns seven bits in each byte, the low ones first; a top bit means that more follow."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


class Decoder:
    """Reads what an `Encoder` of as many lanes wrote; `source` names the file in messages.

    Raises InputError if the lengths of the lanes do not add up.
    """

    def __init__(self, data: bytes, lanes: int, source: str):
        self.lanes = lanes
        self._source = source
        lengths, start = self._lengths(data)
        # The words of each lane, followed by a zero that is read again and again.
        padded = [
            data[end - length : end] + b"\0" * (2 + length % 2)
            for end, length in zip(start + np.cumsum(lengths), lengths, strict=True)
        ]
        self._words = np.frombuffer(b"".join(padded), ">u2").astype(np.uint64)
        words = (np.array(lengths) + 3) // 2
        self._end = np.cumsum(words) - 1
        self._next = self._end + 1 - words
        self._range = np.full(lanes, (1 << 48) - 1, np.uint64)
        self._value = np.zeros(lanes, np.uint64)
        for _ in range(3):
            self._read(np.arange(lanes))

    def _lengths(self, data: bytes) -> tuple[list[int], int]:
        lengths, start = [], 0
        for _ in range(self.lanes):
            length = 0
            for place, byte in enumerate(data[start : start + 5]):
                length |= (byte & 127) << 7 * place
                if byte < 128:
                    break
            else:
                raise self._damaged()
            lengths.append(length)
            start += place + 1
        if start + sum(lengths) != len(data):
            raise self._damaged()
        return lengths, start

    def _damaged(self) -> InputError:
        return InputError(f"{self._source} is damaged: its coded data do not end where they must.")

    def _read(self, lanes: np.ndarray) -> None:
        places = self._next[lanes]
        words = self._words[np.minimum(places, self._end[lanes])]
        self._value[lanes] = self._value[lanes] << _WORD | words
        self._next[lanes] = places + 1

    def code(self, ones: np.ndarray, bits: None = None) -> np.ndarray:
        """Returns the next bits, bool; `ones` must be those that the encoder was given."""
        del bits
        count = len(ones)
        value, width = self._value[:count], self._range[:count]
        bound = width >> _WORD
        bound *= ones
        found = value < bound
        # Where value < bound the difference wraps around to a huge number.
        np.minimum(value, value - bound, out=value)
        width -= bound
        np.copyto(width, bound, where=found)
        small = (width < _FLOOR).nonzero()[0]
        if small.size:
            width[small] <<= _WORD
            self._read(small)
        return found

    def check(self) -> None:
        """Raises InputError if more was read than there is; contexts.py calls it often."""
        # An interval is three words wide, so up to three words beyond the last may be read.
        if (self._next - self._end).max() > 3:
            raise self._damaged()

    def finish(self) -> None:
        """Raises InputError unless everything was read, and not more."""
        self.check()
        if (self._next < self._end).any():
            raise self._damaged()


class Meter:
    """Replaces an `Encoder` to measure how many bits would be needed."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        self.bits = 0.0

    def code(self, ones: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Adds the information content of `bits`."""
        chances = np.where(bits, ones, 65536 - ones.astype(np.int64)) / 65536
        self.bits -= float(np.log2(chances).sum())
        return bits
