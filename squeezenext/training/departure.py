"""How a process leaves its job: who is told why, and with which exit code."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from squeezenext.errors import EXIT_CODES, RunAgain
from squeezenext.training import history
from squeezenext.training.cluster import Cluster
from squeezenext.training.history import LOG
from squeezenext.training.signals import StopSignals
from squeezenext.training.watchdog import LOST_SECONDS, Watchdog

_INTERRUPTED = "interrupted"
# What a collective ends with when one of its workers is gone (TensorFlow 2.21). The first two are
# of the connection; the others may also be this worker's own.
_DISCONNECTED = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError)
_WORKER_GONE = (
    *_DISCONNECTED,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


@contextlib.contextmanager
def watched(
    model_dir: Path, cluster: Cluster | None, signals: StopSignals
) -> Iterator[Watchdog | None]:
    """Beats and watches inside the block; puts the reason of a fault into train.log.

    Raises:
      RunAgain: a worker is gone, and nobody knows which.
    """
    watchdog = Watchdog(model_dir, cluster, _leave, LOG.warning) if cluster else None

    def leaving() -> None:
        if watchdog:
            watchdog.left(_INTERRUPTED)
        history.note(_INTERRUPTED)

    signals.on_leaving(leaving)
    try:
        if watchdog:
            watchdog.start()
        yield watchdog
    except BaseException as error:
        if watchdog and isinstance(error, _WORKER_GONE):
            # TensorFlow notices first; the watchdog ends this process as soon as it has a name.
            watchdog.wait(2 * LOST_SECONDS - 5)
            if isinstance(error, _DISCONNECTED):
                watchdog.left(f"it has lost the others ({error.message.splitlines()[0]})")
                _leave(f"a worker is gone ({error.message.splitlines()[0]})")
        reason = _reason(error)
        if watchdog:
            watchdog.left(reason.rstrip("."))
        history.note(reason)
        raise


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED
    return str(error) if isinstance(error, tuple(EXIT_CODES)) else repr(error)


def _leave(reason: str) -> None:
    """Ends the process: its main thread may sit in a collective that never ends."""
    sentence = f"{reason[0].upper()}{reason[1:]}; end what is left and start all workers again."
    history.note(sentence)
    os.write(2, f"error: {sentence}\n".encode())
    os._exit(EXIT_CODES[RunAgain])
