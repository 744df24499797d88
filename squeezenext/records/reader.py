"""Records of a split, read by number, and which of them is at fault where TensorFlow fails."""

import collections
import concurrent.futures
import contextlib
import os
import re
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from squeezenext.errors import InputError
from squeezenext.records import dataset, tfrecord
from squeezenext.records.bad_records import BadRecords
from squeezenext.records.example import RecordError
from squeezenext.records.manifest import Split

SCHEMA = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "image/height": tf.io.FixedLenFeature([], tf.int64, 0),
    "image/width": tf.io.FixedLenFeature([], tf.int64, 0),
}
_READS = 8  # records read at once: on a file server each takes a few round trips
_LATEST = 64  # micro-batches whose numbers are remembered, more than are under way at once


class Reader:
    """Reads records of a split by number, with their checksums.

    While `bad` is None, a damaged record is an error; else it is skipped and counted there. The
    next whole record of the split replaces it, so that the content is a function of the number
    alone: batches are full, a resumed run is exact, and all workers read the same.
    """

    def __init__(self, split: Split):
        self.split = split
        self.index = dataset.index(split)
        self._names = [str(shard.path) for shard in split.shards]
        self._first = np.cumsum([0, *(shard.examples for shard in split.shards)])
        self.bad: BadRecords | None = None
        self.fault: InputError | None = None  # TensorFlow passes on only its text
        self._pool = concurrent.futures.ThreadPoolExecutor(_READS, "reader")
        self._latest: collections.deque[np.ndarray] = collections.deque(maxlen=_LATEST)

    def leave_out(self, report: Callable[[str], None], listed: Iterable[int] = ()) -> None:
        """Skips damaged records from now on, those `listed` by an earlier run at once.

        Listed records are read once: those that were repaired meanwhile are used again.

        Args:
          report: takes a sentence about each of the first few.
          listed: numbers of the records that an earlier run skipped.

        Raises:
          InputError: there are too many.
        """
        self.bad = BadRecords(self.split.examples, self._read_one, report)
        self.bad.look_at(listed)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the serialised examples of these record numbers, [n] objects of bytes."""
        self._latest.append(np.array(numbers))
        payloads = np.empty(len(numbers), object)

        def fill(places: np.ndarray) -> None:
            for place in places:
                number = int(numbers[place])
                payloads[place] = self._read(number) if number >= 0 else b""

        shares = np.array_split(np.arange(len(numbers)), min(_READS, len(numbers)))
        try:
            list(self._pool.map(fill, shares))
        except InputError as error:
            self.fault = error
            raise
        return payloads

    def undecodable(self) -> InputError | None:
        """Looks for a record that TensorFlow cannot take among those that were read last."""
        for number in np.unique(np.concatenate([[], *self._latest])).astype(int):
            if number < 0:
                continue
            stand_in, payload = self._whole(number)
            if reason := _fault_of(payload):
                shard = int(self.index[stand_in][0])
                place = stand_in - int(self._first[shard])
                return InputError(
                    f"{self._names[shard]}: record {place} cannot be used: {reason}; write it anew."
                )
        return None

    def _read(self, number: int) -> bytes:
        return self._whole(number)[1]

    def _whole(self, number: int) -> tuple[int, bytes]:
        """Returns the number of the record that is read for this one, and its payload."""
        if self.bad is None:
            return number, self._read_one(number)
        for place in range(number, number + self.split.examples):
            place %= self.split.examples
            if place not in self.bad:
                try:
                    return place, self._read_one(place)
                except RecordError as error:
                    self.bad.add(place, error)
        raise InputError(f"{self._names[0]} and its like hold no whole record; copy them again.")

    def _read_one(self, number: int) -> bytes:
        shard, offset, length = (int(value) for value in self.index[number])
        name = self._names[shard]
        try:
            descriptor = os.open(name, os.O_RDONLY)
        except OSError as error:
            raise InputError(
                f"{name} cannot be read ({error.strerror}); mend that and run the command again."
            ) from error
        try:
            return tfrecord.read(descriptor, offset, length, name, number - int(self._first[shard]))
        finally:
            os.close(descriptor)


def _fault_of(payload: bytes) -> str:
    """Returns why an example cannot be trained on, in TensorFlow's words; "" if it can."""
    try:
        parsed = tf.io.parse_single_example(payload, SCHEMA)
        real = tuple(tf.io.decode_jpeg(parsed["image/encoded"], channels=3).shape[:2])
    except tf.errors.OpError as error:
        return re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*?\]", "", error.message.splitlines()[0])
    if not tf.io.is_jpeg(parsed["image/encoded"]):  # decode_jpeg takes others, too, crops do not
        return "its image is no JPEG"
    told = int(parsed["image/height"]), int(parsed["image/width"])
    return f"its image is {real}, not {told} pixels" if min(told) > 0 and told != real else ""


@contextlib.contextmanager
def faults_named(*readers: Reader):
    """Turns TensorFlow's error about a bad record of one of the readers into one sentence.

    Raises:
      InputError: a record is damaged, its image cannot be decoded, or its label is none of the
        network's.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if faults := [reader.fault for reader in readers if reader.fault]:
            raise faults[0] from error
        if found := re.search(r"the label of a record is not in 1\.\.\d+", error.message):
            folder = readers[0].split.shards[0].path.parent
            raise InputError(f"{folder}: {found[0]}.") from error
        if isinstance(error, tf.errors.InvalidArgumentError):
            for reader in readers:
                if fault := reader.undecodable():
                    raise fault from error
        raise
