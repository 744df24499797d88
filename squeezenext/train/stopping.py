"""How a training process ends: by a signal, by an error, or by the fault of another worker."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from squeezenext import cli
from squeezenext.errors import EXIT_CODES, RunAgain
from squeezenext.train import log
from squeezenext.train.cluster import Cluster
from squeezenext.train.log import LOG
from squeezenext.train.watchdog import Verdict, Watchdog

KINDS = (signal.SIGTERM, signal.SIGINT)
UNWIND_SECONDS = 2.0  # for Python to leave in order before the process is ended
LAST_SECONDS = 1.0  # for each of the last messages
_INTERRUPTED = Verdict("interrupted")
# In the text of any error with which TensorFlow's own heartbeat ends a run, even after a pause of
# all workers, for which none is to blame.
_TENSORFLOW_HEARTBEAT = "CoordinationService"


class StopSignals:
    """Handles SIGTERM and SIGINT inside a `with` block.

    The first signal lets a run save and leave, the second ends it at once. Python calls its
    handlers only between two of its own instructions, so not while TensorFlow computes a long step
    or waits for another worker. A thread, woken by the interpreter's wake-up descriptor, ends the
    process if the handler does not get its turn.

    Attributes:
      came: a signal has come, and the run should save and leave.
    """

    def __init__(self):
        self.came = False
        self._deferred = False
        self._leave: Callable[[], None] = lambda: None
        self._before: dict[int, Any] = {}
        self._received = 0

    def on_leaving(self, call: Callable[[], None]) -> None:
        """Sets the function that is called before the process is ended."""
        self._leave = call

    def defer(self) -> None:
        """From now on the first signal only sets `came`; until now it ended the process."""
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
        LOG.warning("%s: saving, then leaving.", signal.Signals(number).name)

    def _listen(self) -> None:
        """Ends the process at a signal that Python does not unwind in time."""
        with self._here:
            while content := self._here.recv(64):
                self._received += sum(number in KINDS for number in content)
                if self._received > 1 or (self._received and not self._deferred):
                    break
            else:
                return
        if self._ended.wait(UNWIND_SECONDS):
            return
        sentence = "Interrupted; run the same command again to go on."
        end_process(EXIT_CODES[RunAgain], sentence, self._leave)


def end_process(code: int, sentence: str, before: Callable[[], None]) -> NoReturn:
    """Ends the process with `os._exit`, even if its main thread is blocked in native code.

    Standard error may be closed or stopped; `before`, which informs others, may raise or hang.
    """
    try:
        for call in (before, lambda: os.write(2, f"error: {sentence}\n".encode())):
            thread = threading.Thread(target=_suppress, args=(call,), daemon=True)
            thread.start()
            thread.join(LAST_SECONDS)
    finally:  # no thread can be started while Python itself ends
        os._exit(code)


def _suppress(call: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):  # the process ends, and nobody is left to inform
        call()


@contextlib.contextmanager
def watched(
    model_dir: Path, cluster: Cluster | None, lost_seconds: float, signals: StopSignals
) -> Iterator[Watchdog | None]:
    """Watches the other workers inside the block; informs them and the log of an error in it.

    Yields:
      The watchdog, or None if this process trains alone.

    Raises:
      RunAgain: a worker is gone, and nobody knows which.
    """
    watchdog = Watchdog(model_dir, cluster, lost_seconds, _end, LOG.warning) if cluster else None

    def leave(why: Verdict = _INTERRUPTED) -> None:
        if watchdog:
            watchdog.leave(why.sentence.rstrip("."), why.code)
        log.log_end(why.sentence)

    signals.on_leaving(leave)
    try:
        if watchdog:
            watchdog.start()
        yield watchdog
    except BaseException as error:
        if watchdog:
            _blame(watchdog, error)
        leave(_verdict(error))
        raise


def _blame(watchdog: Watchdog, error: BaseException) -> None:
    """Ends the process if an error of TensorFlow's is the fault of another worker.

    TensorFlow often notices before the watchdog, which gets the time to find the culprit. If it
    finds none, an error of the connection still ends the process; others are this worker's own.
    """
    import tensorflow as tf

    faults = tf.errors
    # The errors of a collective when a worker is gone (TensorFlow 2.21).
    disconnected = (faults.UnavailableError, faults.DeadlineExceededError)
    own = (faults.FailedPreconditionError, faults.InternalError)  # or another worker's
    heartbeat = isinstance(error, faults.OpError) and _TENSORFLOW_HEARTBEAT in error.message
    lost = heartbeat or isinstance(error, disconnected)
    if not lost and not isinstance(error, (faults.AbortedError, faults.CancelledError, *own)):
        return
    watchdog.wait_for_verdict()
    if lost:
        reason = error.message.splitlines()[0]
        watchdog.leave(f"it has lost the others ({reason})", EXIT_CODES[RunAgain])
        _end(Verdict(f"a worker is gone ({reason})"))


def _verdict(error: BaseException) -> Verdict:
    """Returns the command's message and exit code, with which the other workers leave, too."""
    if isinstance(error, Exception):
        return Verdict(*cli.sentence(error))
    return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else Verdict(repr(error), 1)


def _end(why: Verdict) -> NoReturn:
    """Ends the process for the reason that a watchdog has found."""
    again = "end what is left and start all workers again"
    if why.code != EXIT_CODES[RunAgain]:
        again = f"mend that, then {again}"
    sentence = f"{why.sentence[0].upper()}{why.sentence[1:]}; {again}."
    end_process(why.code, sentence, lambda: log.log_end(sentence))
