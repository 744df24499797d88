"""An adaptive binary range coder that takes many decisions at once, in integers only.

A range coder (G. N. N. Martin, 1979) narrows an interval by each decision's probability. One coder
in Python takes a microsecond and more a decision, and a network has millions of them; here
`lanes` independent coders step side by side in numpy, decision i of a call in lane i. Probabilities
come from `Contexts`: counts of what has been seen, kept by both sides and brought up to date after
each call. Everything is integer arithmetic, so that every machine decodes the same.

A lane's interval is 48 bits wide and loses its upper 16 whenever it falls below 32.
"""

import numpy as np

from squeezenext.errors import InputError

HALF = np.uint64(1 << 15)  # an even chance, in 65,536ths
_ONE = np.uint64(16)  # bits of a probability
# Counts are halved here: no decision is more certain than 1 in 4096, which keeps `bound` and the
# rest of the interval above 2^20, so that one shift by a word always suffices.
_LIMIT = 4096
_FLOOR = np.uint64(1 << 32)
_WORD = np.uint64(16)


class Contexts:
    """What has been counted in each of `number` contexts, as the probability of a one.

    The estimate is Krichevsky and Trofimov's: (ones + 1/2) / (decisions + 1). `seen` counts the
    decisions learnt from.
    """

    def __init__(self, number: int):
        self.seen = 0
        self._number = number
        self._counts = np.ones(2 * number, np.uint64)  # twice the zeros + 1, then the ones
        self._ones = np.full(number, HALF, np.uint64)

    def ones(self, contexts: np.ndarray) -> np.ndarray:
        """Returns the probability of a one in each of `contexts`, in 65,536ths, uint64."""
        return self._ones[contexts]

    def learn(self, contexts: np.ndarray, bits: np.ndarray) -> None:
        """Counts decisions, bool, taken in `contexts`."""
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
    """Writes decisions; `code` has the form of `Decoder.code`, so that one model serves both."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        self._low = np.zeros(lanes, np.uint64)
        self._range = np.full(lanes, (1 << 48) - 1, np.uint64)
        self._digits: list[np.ndarray] = []  # 16 bits each and a carry above them
        self._owners: list[np.ndarray] = []

    def code(self, ones: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Writes `bits`, bool, of which each is a one with probability `ones` in 65,536ths."""
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
        """Returns the lanes' lengths, then their bytes; trailing zeros are left out."""
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
    """Adds each digit's carry to the digit before."""
    while (over := digits[1:] >> 16).any():
        digits[1:] &= 0xFFFF
        digits[:-1] += over
    return digits


def _varint(number: int) -> bytes:
    """Seven bits a byte, the low ones first; the top bit says that more follow."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


class Decoder:
    """Reads what `Encoder` wrote.

    Args:
      data: what `finish` returned.
      lanes: as the encoder had.
      source: named in messages.

    Raises:
      InputError: the lanes' lengths do not add up.
    """

    def __init__(self, data: bytes, lanes: int, source: str):
        self.lanes = lanes
        self._source = source
        lengths, start = self._lengths(data)
        # Each lane's words in turn, behind each a zero to be read for ever.
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
        lengths, place = [], 0
        for _ in range(self.lanes):
            length = shift = 0
            while True:
                if place >= len(data) or shift > 28:
                    raise self._damaged()
                byte = data[place]
                place += 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            lengths.append(length)
        if place + sum(lengths) != len(data):
            raise self._damaged()
        return lengths, place

    def _damaged(self) -> InputError:
        return InputError(f"{self._source} is damaged: its coded data do not end where they must.")

    def _read(self, lanes: np.ndarray) -> None:
        places = self._next[lanes]
        words = self._words[np.minimum(places, self._end[lanes])]
        self._value[lanes] = self._value[lanes] << _WORD | words
        self._next[lanes] = places + 1

    def code(self, ones: np.ndarray, bits: None = None) -> np.ndarray:
        """Returns the next decisions, bool; `ones` as the encoder was given them."""
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
        """Raises InputError if more has been read than is there; `kernel_coding` asks often."""
        # An interval is three words wide, so that many may lie behind the last one written.
        if (self._next - self._end).max() > 3:
            raise self._damaged()

    def finish(self) -> None:
        """Checks that all has been read and not more.

        Raises:
          InputError: it has not, so the data are not what was written.
        """
        self.check()
        if (self._next < self._end).any():
            raise self._damaged()


class Meter:
    """Stands in for an `Encoder` to learn how many bits a model would need."""

    def __init__(self, lanes: int):
        self.lanes = lanes
        self.bits = 0.0

    def code(self, ones: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Adds the information of `bits`."""
        chances = np.where(bits, ones, 65536 - ones.astype(np.int64)) / 65536
        self.bits -= float(np.log2(chances).sum())
        return bits
