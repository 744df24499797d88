"""Records of a split, read by number, and which of them is at fault where TensorFlow fails."""

import collections
import concurrent.futures
import contextlib
import re
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from squeezenext.errors import InputError
from squeezenext.records import example
from squeezenext.records.bad_records import BadRecords
from squeezenext.records.dataset import Records
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


class Reader(Records):
    """Reads micro-batches of a split's records.

    While `bad` is None, a damaged record is an error; else it is skipped and counted there. The
    next whole record of the split replaces it, so that the content is a function of the number
    alone: batches are full, a resumed run is exact, and all workers read the same.
    """

    def __init__(self, split: Split):
        super().__init__(split)
        self.bad: BadRecords | None = None
        self.fault: InputError | None = None  # TensorFlow passes on only its text
        self._pool = concurrent.futures.ThreadPoolExecutor(_READS, "reader")
        self._latest: collections.deque[np.ndarray] = collections.deque(maxlen=_LATEST)

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
                path, own_number = self.location(stand_in)
                file = example.file_name(payload)
                return InputError(
                    f"{path}: record {own_number}{f' ({file})' if file else ''} cannot be used: "
                    f"{reason}; write it anew."
                )
        return None

    def payload(self, number: int) -> bytes:
        """Returns the payload that stands for a record, as `read`."""
        return self._whole(number)[1]

    def _whole(self, number: int) -> tuple[int, bytes]:
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


def _fault_of(payload: bytes) -> str:
    """Returns why an example cannot be trained on, in TensorFlow's words; "" if it can."""
    try:
        parsed = tf.io.parse_single_example(payload, SCHEMA)
        real = tuple(tf.io.decode_jpeg(parsed["image/encoded"], channels=3).shape[:2])
    except tf.errors.OpError as error:
        return re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*?\]", "", error.message.splitlines()[0])
    if not tf.io.is_jpeg(parsed["image/encoded"]):  # decode_jpeg takes others, too, crops do not
        return "its image is no JPEG"
    stated = int(parsed["image/height"]), int(parsed["image/width"])
    other = min(stated) > 0 and stated != real
    return f"its image is {real}, not {stated} pixels" if other else ""


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
        if match := re.search(r"the label of a record is not in 1\.\.\d+", error.message):
            folder = readers[0].split.shards[0].path.parent
            raise InputError(f"{folder}: {match[0]}.") from error
        if isinstance(error, tf.errors.InvalidArgumentError):
            for reader in readers:
                if fault := reader.undecodable():
                    raise fault from error
        raise
