"""Damages the content of files, as disks, networks and people do, for the fuzz_*.py beside it."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from squeezenext.errors import SomeInputsFailed
from tests.foreign_files import varint

HUGE = (0, 1, 127, 128, 255, 1 << 15, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)


def damage(data: bytes, rng: random.Random) -> bytes:
    """Returns the content with one to four faults of random kinds."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(FAULTS)(data, rng)
    return data


def tally(
    name: str,
    content: bytes,
    cases: int,
    seed: int,
    attempt: Callable[[bytes], str],
    keep: Callable[[bytes], Path],
) -> Counter[str]:
    """Counts the outcomes of `attempt` on damaged copies of a file.

    Raises:
      SomeInputsFailed: an attempt raised RuntimeError; `keep` has written its copy.
    """
    outcomes: Counter[str] = Counter()
    for number in range(cases):
        data = damage(content, random.Random(f"{seed} {name} {number}"))
        try:
            outcomes[attempt(data)] += 1
        except RuntimeError as error:
            raise SomeInputsFailed(
                f"{name}, seed {seed}, case {number}, kept as {keep(data)}: {error}"
            ) from error
    return outcomes


def _place(data: bytes, rng: random.Random) -> int:
    """Returns a position; a third of them are among the first hundred bytes, the headers."""
    end = len(data) if rng.random() < 0.67 else min(len(data), 100)
    return rng.randrange(end + 1)


def _cut(data, rng):
    return data[: _place(data, rng)]


def _flip(data, rng):
    out = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 8))):
        out[min(_place(data, rng), len(out) - 1)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _replace(data, rng):
    place, count = _place(data, rng), rng.choice((1, 2, 4, 8, 64))
    value = rng.choice((b"\xff", b"\0", rng.randbytes(1))) * count
    return data[:place] + value + data[place + count :]


def _number(data, rng):
    place, size, value = _place(data, rng), rng.choice((1, 2, 4, 8)), rng.choice(HUGE)
    content = (value % (1 << 8 * size)).to_bytes(size, "little")
    return data[:place] + content + data[place + size :]


def _digits(data, rng):
    """Replaces a number in text; in other files inserts a varint."""
    place, value = _place(data, rng), rng.choice(HUGE)
    end = place
    while end < len(data) and data[end : end + 1].isdigit():
        end += 1
    text = str(rng.choice((-value, value))).encode() if end > place else varint(value)
    return data[:place] + text + data[max(end, place + 1) :]


def _insert(data, rng):
    place = _place(data, rng)
    size = rng.choice((1, 4, 100, 1_000_000) if rng.random() < 0.02 else (1, 4, 100))
    return data[:place] + rng.randbytes(size) + data[place:]


def _remove(data, rng):
    place = _place(data, rng)
    return data[:place] + data[place + rng.choice((1, 2, 4, 100)) :]


def _swap(data, rng):
    first, second = sorted((_place(data, rng), _place(data, rng)))
    third = min(len(data), second + second - first)
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _lines(data, rng):
    """Swaps, doubles or removes words or lines."""
    mark = rng.choice((b"\n", b" ", b"="))
    parts = data.split(mark)
    one, two = rng.randrange(len(parts)), rng.randrange(len(parts))
    kind = rng.randrange(3)
    if kind == 0:
        parts[one], parts[two] = parts[two], parts[one]
    elif kind == 1:
        parts.insert(one, parts[two])
    else:
        del parts[one]
    return mark.join(parts)


def _random(data, rng):
    return rng.randbytes(rng.choice((0, 1, 10, 1000, len(data))))


FAULTS: tuple[Callable, ...] = (
    _cut, _flip, _flip, _replace, _number, _digits, _insert, _remove, _swap, _lines, _random,
)  # fmt: skip
