"""The small file that each worker overwrites every second, for the others to read."""

import dataclasses
import json
import os
import secrets
import socket
from pathlib import Path

FOLDER = ".workers"
_FILE_BYTES = 1024
_REASON_CHARACTERS = 300


def _start() -> str:
    """Names this start: in a container a process that is started anew has its old number."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"


@dataclasses.dataclass
class Beat:
    """What a worker says of itself.

    Attributes:
      beat: grows with each.
      start: another one at each start of the worker.
      calls: finished calls, saves and steps of evaluation.
      fed: micro-batches that its input has delivered.
      devices: that it trains on; 0: not known yet.
      state: "on"; "done" after its last collective; "left".
      reason: why it has left, in a sentence without its end.
      code: its exit code then.
    """

    beat: int = 0
    start: str = dataclasses.field(default_factory=_start)
    calls: int = 0
    fed: int = 0
    devices: int = 0
    state: str = "on"
    reason: str = ""
    code: int = 0

    def leave(self, reason: str, code: int) -> None:
        """Says why and how this worker leaves."""
        self.state, self.reason, self.code = "left", reason[:_REASON_CHARACTERS], code


_KINDS = {field.name: field.type for field in dataclasses.fields(Beat)}


class Beats:
    """The files of all workers in a folder that they share; this worker writes its own."""

    def __init__(self, folder: Path, index: int):
        self.folder = folder
        self.path = self._path(index)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index}.json"

    def write(self, mine: Beat) -> None:
        """Overwrites this worker's file; of a fixed length, it takes no room on a full disk.

        Raises:
          OSError: it cannot be written.
        """
        text = json.dumps(dataclasses.asdict(mine)).ljust(_FILE_BYTES)
        # Closed each time: a network file system shows a file's content at its closing.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, text.encode(), 0)
            os.ftruncate(descriptor, len(text))
        finally:
            os.close(descriptor)

    def read(self, index: int) -> Beat | None:
        """Returns what a worker has said last; None: nothing that can be read."""
        try:
            found = json.loads(self._path(index).read_text("utf-8"))
            kinds = {name: type(value) for name, value in found.items()}
        except (OSError, ValueError, AttributeError):
            return None
        return Beat(**found) if kinds == _KINDS else None
