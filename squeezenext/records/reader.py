"""Records of a split, read by number and with their checksums; no TensorFlow."""

import collections
import concurrent.futures
import hashlib
import os
import resource
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from squeezenext import files
from squeezenext.errors import InputError
from squeezenext.records import example, tfrecord
from squeezenext.records.bad_records import BadRecords
from squeezenext.records.dataset import Split
from squeezenext.records.example import RecordError

# Records are read at random by (shard, offset, length): an exact global shuffle needs no buffer.
INDEX_DTYPE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<i8")])
_READS = 8  # records read at once
_SLOW_READS = 64  # the same where a read takes long: a file server's takes a few round trips
_SLOW = 1e-3  # seconds for a record; a local one takes 0.1 ms
_KEPT_FILES = 400  # most shards that stay open
_READ_AHEAD = 1024  # records asked for at once where all are read
_LATEST = 64  # micro-batches whose numbers are remembered, more than are under way at once


class Reader:
    """Reads a split's records, one or many at once.

    While `bad` is None, a damaged record is an error; else it is skipped and counted there. The
    next whole record of the split replaces it, so that the content is a function of the number
    alone: batches are full, a resumed run is exact, and all workers read the same.
    """

    def __init__(self, split: Split):
        self.split = split
        self.index = index(split)
        self._first = np.cumsum([0, *(shard.examples for shard in split.shards)])
        self.bad: BadRecords | None = None
        self.fault: InputError | None = None  # TensorFlow passes on only its text
        self._pool = concurrent.futures.ThreadPoolExecutor(_SLOW_READS, "reader")
        self._reads = _READS
        # A quarter of the files that the process may open; there are other readers.
        self._room = min(_KEPT_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._lock = threading.Lock()
        self._open: dict[int, int] = {}  # descriptors of the shards that stay open
        self._replaced: list[int] = []  # descriptors that other threads may still use
        weakref.finalize(self, _close, self._open, self._replaced)
        self._latest: collections.deque[np.ndarray] = collections.deque(maxlen=_LATEST)

    def location(self, number: int) -> tuple[Path, int]:
        """Returns a record's shard, and the record's number in it."""
        shard = int(self.index[number]["shard"])
        return self.split.shards[shard].path, number - int(self._first[shard])

    def read_one(self, number: int) -> bytes:
        """Returns the payload of a record, damaged or not; raises as `tfrecord.read`."""
        path, own_number = self.location(number)
        shard, offset, length = (int(value) for value in self.index[number])
        if (kept := self._open.get(shard)) is None and len(self._open) < self._room:
            kept = self._keep_open(shard)
        if kept is not None:
            try:
                return tfrecord.read(kept, offset, length, str(path), own_number)
            except InputError:
                if not _was_replaced(kept, path):
                    raise
                self._replaced.append(self._open.pop(shard, kept))
        with files.open_file(path) as file:
            return tfrecord.read(file.fileno(), offset, length, str(path), own_number)

    def _keep_open(self, shard: int) -> int | None:
        """Opens a shard for all later reads: on a file server that takes further round trips.

        Returns None where enough shards are open.
        """
        with self._lock:
            if shard not in self._open and len(self._open) < self._room:
                with files.open_file(self.split.shards[shard].path) as file:
                    self._open[shard] = os.dup(file.fileno())
            return self._open.get(shard)

    def skip_damaged(self, report: Callable[[str], None], listed: Iterable[int] = ()) -> None:
        """Skips damaged records from now on; arguments and errors as in `BadRecords`.

        Records that an earlier run has `listed` are read once: those that were repaired meanwhile
        are used again.
        """
        self.bad = BadRecords(self.split.examples, self.read_one, report)
        self.bad.look_at(listed)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the serialised examples of these record numbers, [n] objects of bytes."""
        self._latest.append(np.array(numbers))
        payloads = np.empty(len(numbers), object)

        def fill(indices: np.ndarray) -> None:
            for index in indices:
                number = int(numbers[index])
                payloads[index] = self.payload(number) if number >= 0 else b""

        shares = np.array_split(np.arange(len(numbers)), min(self._reads, len(numbers)))
        started = time.monotonic()
        try:
            list(self._pool.map(fill, shares))
        except InputError as error:
            self.fault = error
            raise
        each = (time.monotonic() - started) / len(shares[0])
        self._reads = _READS if each < _SLOW else _SLOW_READS
        return payloads

    def payload(self, number: int) -> bytes:
        """Returns the payload that stands for a record, as `read`."""
        return self.whole(number)[1]

    def whole(self, number: int) -> tuple[int, bytes]:
        """Returns the number of the record that is read for this one, and its payload."""
        if self.bad is None:
            return number, self.read_one(number)
        for following in range(number, number + self.split.examples):
            candidate = following % self.split.examples
            if candidate not in self.bad:
                try:
                    return candidate, self.read_one(candidate)
                except RecordError as error:
                    self.bad.add(candidate, error)
        first = self.split.shards[0].path
        raise InputError(f"{first} and its like hold no whole record; copy them again.")

    def latest(self) -> np.ndarray:
        """Returns the record numbers that `read` was given last, those of 64 calls."""
        return np.unique(np.concatenate([[], *self._latest])).astype(int)

    def labels(self, classes: int, report_progress: Callable[[], None] | None = None) -> np.ndarray:
        """Returns each example's class, [examples] int64 in 0..classes - 1; reads all records.

        `report_progress` is called after each record.
        """
        name = f"A record of {self.split.shards[0].path.parent}" if self.split.shards else ""

        def label(number: int) -> int:
            return example.image_and_class(self.payload(number), classes, name)[1]

        found: list[int] = []
        for start in range(0, self.split.examples, _READ_AHEAD):
            some = range(start, min(start + _READ_AHEAD, self.split.examples))
            for each in self._pool.map(label, some):
                found.append(each)
                if report_progress:
                    report_progress()
        return np.array(found, np.int64)


def _was_replaced(descriptor: int, path: Path) -> bool:
    """Returns whether the path has another file by now, or its server has lost the old one."""
    try:
        return not os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return True


def _close(kept: dict[int, int], replaced: list[int]) -> None:
    for descriptor in {*kept.values(), *replaced}:
        os.close(descriptor)


def index(split: Split) -> np.ndarray:
    """Returns the position of every record of the split, in shard order.

    It comes from a file beside the shards (`train.index`) or, without one, from walking the shards.

    Returns:
      [examples] of `INDEX_DTYPE`: index in `split.shards`, first byte, length with the framing.

    Raises:
      RecordError: a shard is damaged or holds another number of records than promised.
    """
    starts = None if split.walked else _from_sidecar(split)
    if starts is None:
        starts = split.walked or tfrecord.walk_all([shard.path for shard in split.shards])
        for shard, offsets in zip(split.shards, starts, strict=True):
            if len(offsets) - 1 != shard.examples:
                raise RecordError(
                    f"{shard.path} holds {len(offsets) - 1} records, the manifest says "
                    f"{shard.examples}; copy or convert this shard again."
                )
    table = np.empty(split.examples, INDEX_DTYPE)
    table["shard"] = np.repeat(np.arange(len(starts)), [len(offsets) - 1 for offsets in starts])
    table["offset"] = np.concatenate([offsets[:-1] for offsets in starts] or [[]])
    table["length"] = np.concatenate([np.diff(offsets) for offsets in starts] or [[]])
    return table


def _from_sidecar(split: Split) -> tuple[np.ndarray, ...] | None:
    """Returns [examples + 1] offsets a shard from the sidecar, or None if it does not fit."""
    try:
        data = split.sidecar.path.read_bytes() if split.sidecar else b""
    except OSError:
        return None
    if not data or len(data) != 8 * split.examples:
        return None
    if hashlib.sha256(data).hexdigest() != split.sidecar.sha256:
        return None
    ends = np.cumsum([shard.examples for shard in split.shards])
    parts = zip(np.split(np.frombuffer(data, "<i8"), ends[:-1]), split.shards, strict=True)
    starts = tuple(np.append(part, shard.bytes) for part, shard in parts)
    fits = all(offsets[0] == 0 and (np.diff(offsets) >= 0).all() for offsets in starts)
    return starts if fits else None
