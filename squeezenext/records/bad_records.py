"""Damaged records that training passes over: counted, listed by name, and not too many."""

import csv
import io
import threading
from collections.abc import Callable
from pathlib import Path

from squeezenext.atomic import write_file
from squeezenext.errors import InputError

FILE = "bad_records.csv"
COLUMNS = ("number", "fault")
# A bad sector damages a record or two. One in a thousand is a whole shard of ImageNet's 1,024:
# that is a copy gone wrong, to be copied again. Of small sets a few may be worth leaving out.
MAX_SHARE = 0.001
MAX_OF_FEW = 10
_TOLD = 10  # by name in the log; the file lists all


class BadRecords:
    """The records of a split that cannot be read. Several threads may add to it.

    Args:
      examples: in the split.
      report: is told of the first few.
      path: where they are listed, so that a run that goes on remembers them; None: nowhere.
    """

    def __init__(self, examples: int, report: Callable[[str], None], path: Path | None):
        self._examples, self._report, self._path = examples, report, path
        self._lock = threading.Lock()
        self._faults = _read(path) if path else {}

    def __len__(self) -> int:
        return len(self._faults)

    def __contains__(self, number: int) -> bool:
        return number in self._faults

    @property
    def limit(self) -> int:
        return max(MAX_OF_FEW, int(MAX_SHARE * self._examples))

    def add(self, number: int, fault: InputError) -> None:
        """Notes that record `number` of the split is damaged.

        Raises:
          InputError: there are too many.
        """
        with self._lock:
            if number in self._faults:
                return
            if len(self._faults) >= self.limit:
                raise InputError(
                    f"More than {self.limit} of {self._examples} records are damaged, too many to "
                    f"leave out; this one is the latest: {fault}"
                ) from fault
            self._faults[number] = str(fault)
            if len(self._faults) <= _TOLD:
                self._report(f"Left out: {fault}")
            self._write()

    def _write(self) -> None:
        """Lists all; a disk that is full must not end the run: the next one is written with it."""
        if self._path:
            try:
                write_file(self._path, lambda file: file.write_text(self._csv(), "utf-8"))
            except OSError as error:
                self._report(f"{self._path} cannot be written: {error.strerror}.")

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(self._faults.items()))
        return text.getvalue()


def _read(path: Path) -> dict[int, str]:
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if any(tuple(row) != COLUMNS or not row["number"].isdigit() for row in rows):
        raise InputError(f"{path} is damaged; remove it.")
    return {int(row["number"]): row["fault"] for row in rows}
