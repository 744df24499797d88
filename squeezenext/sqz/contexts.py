"""The context models of a kernel: which weights are not zero, their signs and their codes.

Each function both writes, given an `Encoder` and the arrays, and reads, given a `Decoder` and
None. A kernel [height, width, in, out] is coded plane by plane, a plane being its in x out matrix
at one position of the filter, so that the neighbours above and to the left in the same filter are
known. Which contexts pay was measured on the published network: docs/compression.md has the table.
"""

import numpy as np

from squeezenext.sqz.coder import HALF, Contexts, Decoder, Encoder

Coder = Encoder | Decoder
_FIRST_BATCH = 64  # bits before the first update of the counts
_UPDATE = 2048  # weights between two updates of the filters' densities
_PRIOR = 16  # weights of the kernel's density that are added to each filter's count
_BUCKETS = 15  # number of steps of the expected density
_STEP = 4  # their width, in eighths of a doubling of the odds
_SHARES = 8  # share of nonzero weights at earlier positions: none known, or in sixths
_UNIT = 1 << 12  # a density of 1
MASKS, SIGNS = _BUCKETS * 4 * _SHARES, 3 * 3 * 5  # numbers of contexts
# floor(8 log2 n), computed in integers, since floats may round differently on other machines.
_LOG = np.array([0] + [(n**8).bit_length() - 1 for n in range(1, _UNIT + 1)])


def _bits(coder: Coder, chances: Contexts, contexts: np.ndarray, known) -> np.ndarray:
    """Codes one bit in each of `contexts` and updates the counts; returns the bits, bool."""
    found = np.zeros(len(contexts), bool)
    start = 0
    while start < len(contexts):
        # The first batches are small, since the counts change most there.
        part = slice(start, start + min(coder.lanes, max(chances.seen, _FIRST_BATCH)))
        ones = chances.ones(contexts[part])
        found[part] = coder.code(ones, None if known is None else known[part])
        chances.learn(contexts[part], found[part])
        start = part.stop
        _check(coder, known)
    return found


def _check(coder: Coder, known) -> None:
    """Stops reading a damaged file as soon as its data end."""
    if known is None:
        coder.check()


def positions(
    coder: Coder, shape: tuple[int, int, int, int], known, chances: Contexts | None = None
) -> np.ndarray:
    """Codes which weights of a [height, width, in, out] kernel are not zero.

    `known`, None for a decoder, and the result are bool [height x width, in x out].
    `chances` are the counts to go on with, of `MASKS` contexts; None begins anew.
    """
    height, width, inputs, outputs = shape
    found = np.zeros((height * width, inputs * outputs), bool)
    chances = chances or Contexts(MASKS)
    filters = np.tile(np.arange(outputs), inputs)
    density = _Density(outputs)
    earlier = np.zeros(inputs * outputs, np.int64)  # number of earlier planes with a weight
    for plane in range(height * width):
        neighbours = _neighbours(found, earlier, plane, width)
        before = earlier.reshape(inputs, outputs).sum(1)
        channels = np.repeat(density.odds(before, outputs * plane), outputs)
        for start in range(0, inputs * outputs, _UPDATE):
            part = slice(start, start + _UPDATE)
            odds = density.filters()[filters[part]] + channels[part]
            bucket = np.clip(odds // _STEP + _BUCKETS // 2, 0, _BUCKETS - 1)
            contexts = bucket * (4 * _SHARES) + neighbours[part]
            bits = _bits(coder, chances, contexts, None if known is None else known[plane, part])
            found[plane, part] = bits
            density.count(filters[part], bits)
        earlier += found[plane]
    return found


def _neighbours(found: np.ndarray, earlier: np.ndarray, plane: int, width: int) -> np.ndarray:
    """Returns the context from earlier positions of the same filter and channel, 0..31."""
    if not plane:
        return np.zeros(found.shape[1], np.int64)
    left = found[plane - 1] if plane % width else 0
    above = found[plane - width] if plane >= width else 0
    share = 1 + earlier * (_SHARES - 2) // plane
    return left + 2 * above + 4 * share


class _Density:
    """The density of each filter (output channel) so far, relative to the whole kernel."""

    def __init__(self, outputs: int):
        self._ones = np.zeros(outputs, np.int64)
        self._seen = np.zeros(outputs, np.int64)

    def count(self, filters: np.ndarray, bits: np.ndarray) -> None:
        outputs = len(self._seen)
        self._seen += np.bincount(filters, minlength=outputs)
        self._ones += np.bincount(filters[bits], minlength=outputs)

    def odds(self, ones: np.ndarray, seen) -> np.ndarray:
        """Returns the log odds of `ones` in `seen`, minus those of the whole kernel."""
        usual = (self._ones.sum() + 1) * _UNIT // (self._seen.sum() + 2)
        share = (ones * _UNIT + _PRIOR * usual) // (seen + _PRIOR)
        return _LOG[share] - _LOG[_UNIT - share] - (_LOG[usual] - _LOG[_UNIT - usual])

    def filters(self) -> np.ndarray:
        return self.odds(self._ones, self._seen)


def signs(
    coder: Coder,
    shape: tuple[int, int, int, int],
    there: np.ndarray,
    known,
    chances: Contexts | None = None,
) -> np.ndarray:
    """Codes the signs of the weights that are not zero; `there` is the result of `positions`.

    `known`, None for a decoder, and the result are int8 of the shape of `there`: -1, 0 or 1.
    `chances` are the counts to go on with, of `SIGNS` contexts; None begins anew.
    """
    width = shape[1]
    found = np.zeros(there.shape, np.int8)
    chances = chances or Contexts(SIGNS)
    sums = np.zeros(there.shape[1], np.int64)
    for plane in range(len(there)):
        places = np.flatnonzero(there[plane])
        left = found[plane - 1, places] if plane % width else 0
        above = found[plane - width, places] if plane >= width else 0
        total = np.clip(sums[places], -2, 2)
        contexts = ((left + 1) * 3 + above + 1) * 5 + total + 2
        wanted = None if known is None else known[plane, places] > 0
        positive = _bits(coder, chances, contexts, wanted)
        found[plane, places] = np.where(positive, 1, -1)
        sums += found[plane]
    return found


def symbols(
    coder: Coder,
    families: np.ndarray,
    depths: tuple[int, ...],
    known,
    chances: Contexts | None = None,
) -> np.ndarray:
    """Codes numbers bit by bit from the top, each bit in the context of the bits above it.

    Args:
      coder: a decoder if `known` is None.
      families: index of each number's statistics, integers below len(depths).
      depths: number of bits of the numbers of each family.
      known: integers below 2 ** depth; the result is the same.
      chances: the counts to go on with, of 2 ** max(depths) contexts for each family; None begins
        anew.
    """
    size = 1 << max(depths)
    chances = chances or Contexts(len(depths) * size)
    found = np.zeros(len(families), np.int64)
    start = 0
    while start < len(found):
        part = slice(start, start + min(coder.lanes, max(chances.seen // 4, _FIRST_BATCH)))
        found[part] = _tree(coder, chances, families[part], depths, size, known, part)
        start = part.stop
        _check(coder, known)
    return found


def _tree(coder, chances, families, depths, size, known, part) -> np.ndarray:
    depth = np.array(depths)[families]
    nodes = np.ones(len(families), np.int64)
    base = families * size
    taken, given = [], []
    for level in range(max(depths)):
        # Where numbers of two depths meet, the shorter ones are done earlier.
        now = slice(None) if level < min(depths) else np.flatnonzero(depth > level)
        contexts = base[now] + nodes[now]
        wanted = None
        if known is not None:
            wanted = (known[part][now] >> (depth[now] - 1 - level) & 1).astype(bool)
        bits = coder.code(chances.ones(contexts), wanted)
        nodes[now] += nodes[now] + bits
        taken.append(contexts)
        given.append(bits)
    if taken:
        chances.learn(np.concatenate(taken), np.concatenate(given))
    return nodes - (1 << depth)


def plain(coder: Coder, widths: np.ndarray, known) -> np.ndarray:
    """Codes numbers of `widths` bits each, up to 63, all of whose bits are equally likely.

    `known` and the result are integers below 2 ** width.
    """
    found = np.zeros(len(widths), np.int64)
    for start in range(0, len(widths), coder.lanes):
        part = slice(start, start + coder.lanes)
        for bit in reversed(range(int(widths[part].max()))):
            now = start + np.flatnonzero(widths[part] > bit)
            wanted = None if known is None else known[now] >> bit & 1 == 1
            bits = coder.code(np.full(len(now), HALF), wanted)
            found[now] += bits.astype(np.int64) << bit
        _check(coder, known)
    return found
