"""The log of a training run: lines on standard error, which the chief also keeps in train.log."""

import logging
import sys
from pathlib import Path

LOG = logging.getLogger("squeezenext")


class _File(logging.FileHandler):
    """A log file. A full disk loses lines but must not end a run."""

    def handleError(self, record):
        """Ignores the error, which the standard handler would print."""
        del record


def log_to(path: Path | None) -> None:
    """Sends the log to standard error and, if `path` is given, to a file as well."""
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        handlers.append(_File(path, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


def log_end(reason: str) -> None:
    """Writes why a run ends to the log file alone; the command prints it on standard error."""
    record = LOG.makeRecord(LOG.name, logging.ERROR, "", 0, f"error: {reason}", (), None)
    for handler in LOG.handlers:
        if isinstance(handler, _File):
            handler.handle(record)
