"""Records of a split, read by number and with their checksums; no TensorFlow."""

import collections
import concurrent.futures
import hashlib
import os
from collections.abc import Callable, Iterable

import numpy as np

from squeezenext import files
from squeezenext.errors import InputError, RunAgain
from squeezenext.records import example, stores, tfrecord
from squeezenext.records.bad_records import BadRecords
from squeezenext.records.dataset import Split
from squeezenext.records.example import RecordError

# Records are read at random by (shard, offset, length): an exact global shuffle needs no buffer.
INDEX_DTYPE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<i8")])
READS = 64  # records read at once, as each read from a file server takes a few round trips
_READ_AHEAD = 1024  # records asked for at once where all are read
_LATEST = 4096  # records whose numbers are remembered, more than are under way at once


class Reader:
    """Reads a split's records, one or many at once.

    While `bad` is None, a damaged record is an error; else it is skipped and counted there. The
    next whole record of the split replaces it, so that the content is a function of the number
    alone: batches are full, a resumed run is exact, and all workers read the same.

    Of shards in a store, `stores.Copies` are read, into which records are brought before.
    """

    def __init__(self, split: Split, reads: int = READS):
        self.split = split
        self._copies = _copies(split)
        self._files = self._copies.paths if self._copies else [s.path for s in split.shards]
        self.paths = [os.fsencode(path) for path in self._files]  # as TensorFlow takes them
        self.index = index(split)
        self._first = np.cumsum([0, *(shard.examples for shard in split.shards)])
        self.bad: BadRecords | None = None
        self.fault: Exception | None = None  # TensorFlow passes on only its text
        self.reads = reads
        self._pool = concurrent.futures.ThreadPoolExecutor(reads, "reader")
        self._latest: collections.deque[int] = collections.deque(maxlen=_LATEST)

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Returns [n, 4] int64: numbers of records, their shards, first bytes and lengths."""
        self._latest.extend(numbers[numbers >= 0].tolist())
        self.bring(numbers[numbers >= 0])
        rows = self.index[numbers]
        return np.stack([numbers, *(rows[name] for name in rows.dtype.names)], -1)

    def bring(self, numbers: np.ndarray, anew: bool = False) -> None:
        """Copies records from a store to this machine; raises as `stores.ranges`."""
        try:
            if self._copies:
                self._copies.bring(self.index[numbers], anew)
        except (InputError, RunAgain, OSError) as error:
            self.fault = error
            raise

    def location(self, number: int) -> tuple[stores.AnyPath, int]:
        """Returns a record's shard, and the record's number in it."""
        shard = int(self.index[number]["shard"])
        return self.split.shards[shard].path, number - int(self._first[shard])

    def read_one(self, number: int) -> bytes:
        """Returns the payload of a record, damaged or not; raises as `tfrecord.read`."""
        # Of a store those that follow come with it, for those who read in order.
        self.bring(np.arange(number, min(number + self.reads, self.split.examples)))
        try:
            return self._read_here(number)
        except RecordError:
            if self._copies is None:
                raise
        self.bring(np.array([number]), anew=True)  # the copy may be damaged, as by a power cut
        return self._read_here(number)

    def _read_here(self, number: int) -> bytes:
        path, own_number = self.location(number)
        shard, offset, length = (int(value) for value in self.index[number])
        with files.open_file(self._files[shard]) as file:
            return tfrecord.read(file.fileno(), offset, length, str(path), own_number)

    def skip_damaged(self, report: Callable[[str], None], listed: Iterable[int] = ()) -> None:
        """Skips damaged records from now on; arguments and errors as in `BadRecords`.

        Records that an earlier run has `listed` are read once: those that were repaired meanwhile
        are used again.
        """
        self.bad = BadRecords(self.split.examples, self.read_one, report)
        self.bad.look_at(listed)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the serialised examples of these record numbers, [n] objects of bytes.

        Numbers below 0 give empty ones.
        """
        payloads = np.empty(len(numbers), object)
        try:
            some = [int(number) for number in numbers]
            payloads[:] = list(self._pool.map(lambda n: self.payload(n) if n >= 0 else b"", some))
        except InputError as error:
            self.fault = error
            raise
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

    def latest(self) -> list[int]:
        """Returns the record numbers that `places` was given last, the newest first."""
        return list(dict.fromkeys(reversed(self._latest)))

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
            self.bring(np.array(some))
            for each in self._pool.map(label, some):
                found.append(each)
                if report_progress:
                    report_progress()
        return np.array(found, np.int64)


def _copies(split: Split) -> stores.Copies | None:
    shards = [shard.path for shard in split.shards if isinstance(shard.path, stores.Address)]
    sizes = [shard.bytes for shard in split.shards]
    return stores.Copies(shards, sizes, split.shards_sha256()) if shards else None


def index(split: Split) -> np.ndarray:
    """Returns the position of every record of the split, in shard order.

    It comes from a file beside the shards (`train.index`) or, without one, from walking the shards.

    Returns:
      [examples] of `INDEX_DTYPE`: index in `split.shards`, first byte, length with the framing.

    Raises:
      RecordError: a shard is damaged or holds another number of records than promised.
    """
    starts = None if split.walked else _from_sidecar(split)
    if starts is None and any(isinstance(shard.path, stores.Address) for shard in split.shards):
        raise InputError(
            f"{split.shards[0].path.parent} has no complete {split.name}.index; copy it again."
        )
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
