"""Runs a command and measures the peak memory of it and its children."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext.errors import InputError


def run(line: list[str], **options) -> tuple[int, str]:
    """Runs a command; returns the peak memory of it and its children, and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as out:
        process = subprocess.Popen(line, stdout=out, stderr=log, env=environment, **options)
        watcher = _Memory(process.pid)
        code = process.wait()
        if code:
            log.seek(0)
            raise InputError(f"{' '.join(line)[:200]} failed: {log.read().decode()[-2000:]}")
        out.seek(0)
        return watcher.stop(), out.read().decode()


class _Memory(threading.Thread):
    """Samples the resident memory of a process and its children."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._peak, self._end = pid, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._end.wait(0.05):
            self._peak = max(self._peak, _resident(self._pid))

    def stop(self) -> int:
        self._end.set()
        self.join()
        return self._peak


def _resident(pid: int) -> int:
    """Pages that several processes share count once for each: the figure errs upwards."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGESIZE") + sum(map(_resident, children))
