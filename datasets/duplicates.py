"""Images that lie in two splits, byte for byte: what is trained on must not be tested on.

Each image's length and the CRC32C of its middle are known from writing it; only images that
agree in both are read again and compared by their bytes. That costs 12 bytes an image.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from squeezenext import records
from squeezenext.errors import InputError
from squeezenext.records import tfrecord

from .shards import Written

MAX_COMPARED = 1_000  # pairs; each is two reads. A source with more has been told enough


@dataclasses.dataclass(frozen=True)
class Twin:
    """An image of a later split whose very bytes an earlier split has."""

    file: str
    same_as: str


def find(output: Path, written: dict[str, list[Written]]) -> list[Twin]:
    """Returns the images of later splits that an earlier split holds too; 1,000 at most."""
    tables = {name: _table(results) for name, results in written.items()}
    twins: dict[str, Twin] = {}
    for earlier, later in itertools.combinations(written, 2):
        for first, second in _candidates(tables[earlier], tables[later]):
            name, image = _image(output, written[earlier], first)
            other, twin = _image(output, written[later], second)
            if image == twin:
                file = f"{later}/{other}"
                twins.setdefault(file, Twin(file, f"{earlier}/{name}"))
            if len(twins) == MAX_COMPARED:
                return list(twins.values())
    return list(twins.values())


def _table(results: list[Written]) -> np.ndarray:
    """Returns length and CRC of each image as one number: uint64 [examples]."""
    table = np.concatenate([result.table for result in results])
    return table["size"].astype(np.uint64) << np.uint64(32) | table["crc"]


def _candidates(earlier: np.ndarray, later: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields (place in `earlier`, place in `later`) of equal numbers, one for each of `later`."""
    order = np.argsort(earlier, kind="stable")
    places = np.searchsorted(earlier, later, sorter=order)
    found = np.flatnonzero(places < len(earlier))
    found = found[earlier[order[places[found]]] == later[found]]
    for place in found.tolist():
        yield int(order[places[place]]), place


def _image(output: Path, results: list[Written], number: int) -> tuple[str, bytes]:
    """Returns name and bytes of a split's image."""
    for result in results:
        if number < result.examples:
            break
        number -= result.examples
    start = int(result.table["offset"][number])
    ends = np.append(result.table["offset"], result.bytes)
    try:
        descriptor = os.open(output / result.file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(
            f"{output / result.file} cannot be read ({error.strerror}); run the command again."
        ) from error
    try:
        length = int(ends[number + 1]) - start
        payload = tfrecord.read(descriptor, start, length, result.file, number)
    finally:
        os.close(descriptor)
    return result.names[number], records.decode_example(payload)["image/encoded"][0]
