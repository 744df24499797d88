"""The log of a training run: lines on standard error, which the chief also keeps in train.log."""

import logging
import os
import sys
from pathlib import Path

from squeezenext import files
from squeezenext.cli import printable

LOG = logging.getLogger("squeezenext")
PROGRESS = logging.INFO + 5  # level of what is shown even where technical lines are not


class _Printable(logging.Formatter):
    """Escapes control characters, which a file's or a record's name can hold."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        return printable(super().format(record))


class _File(logging.FileHandler):
    """A log file. A full disk loses lines but must not end a run."""

    def _open(self):
        descriptor = files.open_own(self.baseFilename, os.O_APPEND)
        return open(
            descriptor, "a", encoding=self.encoding, errors="backslashreplace", newline="\n"
        )

    def handleError(self, record):
        """Ignores the error, which the standard handler would print."""
        del record


def log_to(path: Path | None, brief: bool = False) -> None:
    """Sends the log to standard error and, if `path` is given, to a file as well.

    If `brief`, standard error gets only warnings and the progress.
    """
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        handler.close()
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(PROGRESS if brief else logging.INFO)
    handlers: list[logging.Handler] = [console]
    if path is not None:
        handlers.append(_File(path, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(_Printable("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


def log_end(reason: str) -> None:
    """Writes why a run ends to the log file alone; the command prints it on standard error."""
    record = LOG.makeRecord(LOG.name, logging.ERROR, "", 0, f"error: {reason}", (), None)
    for handler in LOG.handlers:
        if isinstance(handler, _File):
            handler.handle(record)
