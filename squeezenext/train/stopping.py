"""SIGTERM and SIGINT: the first lets a run save and leave, the second ends it at once."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from squeezenext.errors import EXIT_CODES, RunAgain

# How a process is ended where it stands, whatever hangs.


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


KINDS = (signal.SIGTERM, signal.SIGINT)
_LOG = logging.getLogger("squeezenext")
UNWIND_SECONDS = 2.0  # for Python to leave in order, before the process is ended where it stands


class StopSignals:
    """Heeds both signals inside a `with` block.

    Python calls its handlers only between two of its own instructions, so not while TensorFlow
    computes a long step or waits for another worker. A thread of its own, woken by the
    interpreter's wake-up descriptor, ends the process where the handler does not get its turn.

    Attributes:
      came: a signal has come, and the run should save and leave.
    """

    def __init__(self):
        self.came = False
        self._deferred = False
        self._leave: Callable[[], None] = lambda: None
        self._before: dict[int, Any] = {}
        self._heard = 0

    def on_leaving(self, call: Callable[[], None]) -> None:
        """Sets what is still to be done before the process is ended where it stands."""
        self._leave = call

    def defer(self) -> None:
        """From now on the first signal only sets `came`; until then it ends the process."""
        self._deferred = True

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread handle signals
        self._ended = threading.Event()
        self._here, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        self._before = {kind: signal.signal(kind, self._handle) for kind in KINDS}
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        if not self._before:
            return
        self._ended.set()
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._woken.close()

    def _handle(self, number, frame) -> None:
        """Called by Python in the main thread."""
        del frame
        if not self._deferred or self.came:
            raise KeyboardInterrupt
        self.came = True
        _LOG.info("%s: saving, then leaving.", signal.Signals(number).name)

    def _listen(self) -> None:
        with self._here:
            while content := self._here.recv(64):
                self._heard += sum(number in KINDS for number in content)
                if self._heard > 1 or (self._heard and not self._deferred):
                    break
            else:
                return
        if self._ended.wait(UNWIND_SECONDS):
            return
        sentence = "Interrupted; run the same command again to go on."
        end(EXIT_CODES[RunAgain], sentence, self._leave)
