"""Canonical Huffman codes of at most 15 bits, as Deep Compression uses them.

A table is the length of each symbol's code, four bits each; 0 means the symbol does not occur.
Codes of a length are consecutive, in the order of their symbols; the first bit is a byte's top bit.
An alphabet of one symbol takes no bits at all.
"""

import heapq

import numpy as np

from squeezenext.errors import InputError

LIMIT = 15
MAX_SYMBOLS = 1 << 12
_CHUNK = 1 << 15  # bytes decoded at once: some 10 MB of working memory


def lengths(counts: np.ndarray) -> np.ndarray:
    """Returns the code length of each symbol, by package-merge (Larmore and Hirschberg, 1990).

    Args:
      counts: [symbols] how often each occurs; at most `MAX_SYMBOLS` of them.

    Returns:
      [symbols] uint8, at most `LIMIT`, with the least total length; 0 where the count is 0.
    """
    used = [(int(count), (symbol,)) for symbol, count in enumerate(counts) if count]
    found = np.zeros(len(counts), np.uint8)
    if len(used) == 1:
        found[used[0][1]] = 1
        return found
    used.sort()
    merged = used
    for _ in range(LIMIT - 1):
        pairs = zip(merged[::2], merged[1::2], strict=False)
        packages = [(a[0] + b[0], a[1] + b[1]) for a, b in pairs]
        merged = list(heapq.merge(used, packages, key=lambda item: item[0]))
    for _, symbols in merged[: 2 * len(used) - 2]:
        np.add.at(found, list(symbols), 1)
    return found


def pack_table(table: np.ndarray) -> bytes:
    """Returns a table as bytes, two lengths each, the lower half first."""
    even = np.concatenate([table, np.zeros(len(table) % 2, np.uint8)])
    return (even[::2] | even[1::2] << 4).astype(np.uint8).tobytes()


def unpack_table(data: bytes, symbols: int, source: str) -> np.ndarray:
    """Reads what `pack_table` wrote.

    Raises:
      InputError: the lengths are not of a complete code.
    """
    pairs = np.frombuffer(data, np.uint8)
    table = np.stack([pairs & 15, pairs >> 4], 1).reshape(-1)[:symbols]
    used = table[table > 0].astype(np.int64)
    # Kraft's sum; a code that is not complete has windows that mean nothing.
    if len(used) > 1 and (1 << (LIMIT - used)).sum() != 1 << LIMIT:
        raise InputError(f"{source} is damaged: a Huffman table is not complete.")
    return table


def encode(symbols: np.ndarray, table: np.ndarray) -> bytes:
    """Returns the codes of `symbols`, the last byte filled with zeros."""
    if np.count_nonzero(table) <= 1:
        return b""
    codes = _codes(table)
    size = table.astype(np.int64)[symbols]
    ends = np.cumsum(size)
    bits = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    for place in range(LIMIT):
        now = size > place
        bits[ends[now] - 1 - place] = codes[symbols[now]] >> place & 1
    return np.packbits(bits).tobytes()


def _codes(table: np.ndarray) -> np.ndarray:
    """Returns each symbol's code as an integer."""
    order = np.lexsort((np.arange(len(table)), table))
    order = order[table[order] > 0]
    size = table[order].astype(np.int64)
    codes = np.zeros(len(table), np.int64)
    # On a line of 2^15 windows the codes lie side by side, the short and wide ones first.
    starts = np.concatenate([[0], np.cumsum(1 << (LIMIT - size))[:-1]])
    codes[order] = starts >> (LIMIT - size)
    return codes


def decode(data: bytes, count: int, table: np.ndarray, source: str) -> np.ndarray:
    """Reads `count` symbols from exactly `data`.

    Raises:
      InputError: the data end too early or too late, or `table` is of no symbol.
    """
    used = np.flatnonzero(table)
    if count and not len(used):
        raise _damaged(source)
    if len(used) <= 1 or not count:
        if data:
            raise _damaged(source)
        return np.full(count, used[0] if count else 0, np.int64)
    if count > 8 * len(data):
        raise _damaged(source)
    order = used[np.argsort(table[used], kind="stable")]
    size = table[order].astype(np.int64)
    meaning = np.repeat(order, 1 << (LIMIT - size))
    found, place = [], 0
    while count and place < 8 * len(data):
        start = place // 8
        windows = _windows(data[start : start + _CHUNK + 2])
        steps = table[meaning[windows]]
        places, place = _follow(steps, place - 8 * start, count)
        found.append(meaning[windows[places]])
        count -= len(places)
        place += 8 * start
    if count or (place + 7) // 8 != len(data):
        raise _damaged(source)
    return np.concatenate(found)


def _windows(data: bytes) -> np.ndarray:
    """Returns the 15 bits that begin at each bit of at most `_CHUNK` bytes; zeros come after."""
    padded = np.frombuffer(data + b"\0\0", np.uint8).astype(np.int64)
    count = min(len(data), _CHUNK)
    three = padded[:count] << 16 | padded[1 : count + 1] << 8 | padded[2 : count + 2]
    shifts = 24 - LIMIT - np.arange(8)
    return (three[:, np.newaxis] >> shifts & (1 << LIMIT) - 1).reshape(-1)


def _follow(steps: np.ndarray, place: int, count: int) -> tuple[list[int], int]:
    """Returns the places at which at most `count` codes begin, and where the next one does."""
    following = (np.arange(len(steps)) + steps).tolist()
    places, end = [], len(following)
    while place < end and len(places) < count:
        places.append(place)
        place = following[place]
    return places, place


def _damaged(source: str) -> InputError:
    return InputError(f"{source} is damaged: its Huffman codes do not end where they must.")
