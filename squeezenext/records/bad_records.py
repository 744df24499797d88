"""Damaged records that training skips: counted, listed in a file, limited in number.

Each worker skips the records that it cannot read itself. Whenever the run is saved, the workers
exchange their lists, and the chief writes one file in which each record stands once.
"""

import csv
import io
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from squeezenext.errors import InputError
from squeezenext.files import read_text, write_text
from squeezenext.records.example import RecordError

FILE = "bad_records.csv"
COLUMNS = ("number", "fault")
# A bad sector damages a record or two. One in a thousand is a whole shard of ImageNet's 1,024:
# that is a copy gone wrong, to be copied again. In a small set ten may be worth skipping.
MAX_SHARE = 0.001
MAX_OF_FEW = 10
_MAX_LOGGED = 10  # by name; the file lists all


class BadRecords:
    """The records of a split that cannot be read. Several threads may add to it.

    Args:
      examples: number of examples in the split.
      read: reads a record by its number; raises RecordError if it is damaged.
      report: receives a sentence about each of the first ten.
    """

    def __init__(self, examples: int, read: Callable[[int], object], report: Callable[[str], None]):
        self._examples, self._read, self._report = examples, read, report
        self._lock = threading.Lock()
        self._faults: dict[int, str] = {}
        self._elsewhere: dict[int, str] = {}  # whole here, but another worker cannot read them
        self._written: str | None = None

    def __len__(self) -> int:
        return len(self._faults) + len(self._elsewhere)

    def __contains__(self, number: int) -> bool:
        return number in self._faults

    @property
    def limit(self) -> int:
        """The largest number of records that may be skipped."""
        return max(MAX_OF_FEW, int(MAX_SHARE * self._examples))

    @property
    def numbers(self) -> list[int]:
        """Numbers of the records that this process cannot read, in order."""
        with self._lock:
            return sorted(self._faults)

    def add(self, number: int, fault: InputError) -> None:
        """Notes that record `number` of the split is damaged; InputError if it is one too many."""
        with self._lock:
            if number in self._faults:
                return
            self._elsewhere.pop(number, None)
            self._check_room(str(fault))
            self._faults[number] = str(fault)
            if len(self._faults) <= _MAX_LOGGED:
                self._report(f"Skipped: {fault}")

    def look_at(self, numbers: Iterable[int]) -> list[int]:
        """Reads records that an earlier run has listed, or another worker has met.

        Returns the numbers of those that are whole here. The others are skipped from now on.

        Raises:
          InputError: there are too many, or a shard cannot be read at all.
        """
        whole = []
        for number in sorted(set(numbers) - self._faults.keys()):
            if number >= self._examples:  # the list of other data
                continue
            try:
                self._read(number)
                whole.append(number)
            except RecordError as error:
                self.add(number, error)
        return whole

    def merge(self, met: Iterable[int]) -> None:
        """Counts the records that any worker has met; raises as `look_at`."""
        for number in self.look_at(set(met) - self._elsewhere.keys()):
            with self._lock:
                fault = f"record {number} of the split is whole here, but not to another worker"
                self._check_room(fault)
                self._elsewhere[number] = fault

    def _check_room(self, latest: str) -> None:
        if len(self) >= self.limit:
            raise InputError(
                f"More than {self.limit} of {self._examples} records are damaged, too many to "
                f"skip; this one is the latest: {latest}"
            )

    def write(self, path: Path) -> None:
        """Writes the list; without damaged records there is no file. Raises OSError."""
        with self._lock:
            rows = sorted((self._faults | self._elsewhere).items())
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
        if text.getvalue() == self._written:
            return
        if rows:
            write_text(path, text.getvalue())
        else:
            path.unlink(missing_ok=True)
        self._written = text.getvalue()


def listed(path: Path) -> list[int]:
    """Returns the numbers of the records that `BadRecords.write` has listed; none without a file.

    Raises:
      InputError: the file is another one, or cannot be read.
    """
    if not path.exists():
        return []
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
        if tuple(rows[0]) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
            raise ValueError("its columns are others")
        numbers = [int(row[0]) for row in rows[1:]]
        if min(numbers, default=0) < 0:
            raise ValueError(f"there is no record {min(numbers)}")
    except InputError:
        raise
    except (ValueError, IndexError, csv.Error) as error:
        raise InputError(
            f"{path} is no list of bad records ({error}); remove it: training finds them anew."
        ) from error
    return numbers
