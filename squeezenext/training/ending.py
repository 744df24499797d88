"""How a process is ended where it stands, whatever hangs."""

import os
import threading
from collections.abc import Callable
from typing import NoReturn

LAST_SECONDS = 1.0  # for each of the last words


def end(code: int, sentence: str, before: Callable[[], None]) -> NoReturn:
    """Ends the process from any thread: its main thread may sit in a call that never ends.

    Args:
      code: the exit code.
      sentence: for standard error, whose reader may have gone or stopped.
      before: tells others; it may raise, and hang with the file server.
    """
    try:
        for tell in (before, lambda: os.write(2, f"error: {sentence}\n".encode())):
            thread = threading.Thread(target=_quietly, args=(tell,), daemon=True)
            thread.start()
            thread.join(LAST_SECONDS)
    finally:  # nor can a thread be started while Python itself ends
        os._exit(code)


def _quietly(tell: Callable[[], object]) -> None:
    try:
        tell()
    except Exception:  # the process ends all the same, and there is nobody left to tell
        return
