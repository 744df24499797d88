"""How a process leaves its job: who is told why, and with which exit code."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import tensorflow as tf

from squeezenext import cli
from squeezenext.errors import EXIT_CODES, RunAgain
from squeezenext.training import ending, history
from squeezenext.training.cluster import Cluster
from squeezenext.training.group import LOST_SECONDS, Verdict
from squeezenext.training.history import LOG
from squeezenext.training.signals import StopSignals
from squeezenext.training.watchdog import Watchdog

_INTERRUPTED = Verdict("interrupted", EXIT_CODES[RunAgain])
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
# In the text of what TensorFlow's own heartbeat ends a run with, whatever the kind of the error:
# also after a pause of all workers, for which none is to blame.
_HEARTBEAT = "CoordinationService"


@contextlib.contextmanager
def watched(
    model_dir: Path, cluster: Cluster | None, signals: StopSignals
) -> Iterator[Watchdog | None]:
    """Beats and watches inside the block; puts the reason of a fault into train.log.

    Raises:
      RunAgain: a worker is gone, and nobody knows which.
    """
    watchdog = Watchdog(model_dir, cluster, _leave, LOG.warning) if cluster else None

    def leaving(why: Verdict = _INTERRUPTED) -> None:
        if watchdog:
            watchdog.left(why.sentence.rstrip("."), why.code)
        history.note(why.sentence)

    signals.on_leaving(leaving)
    try:
        if watchdog:
            watchdog.start()
        yield watchdog
    except BaseException as error:
        if watchdog and _is_of_others(error):
            # TensorFlow notices first; the watchdog ends this process as soon as it has a name.
            watchdog.wait(2 * LOST_SECONDS - 5)
            if isinstance(error, _DISCONNECTED) or _HEARTBEAT in error.message:
                lost = error.message.splitlines()[0]
                watchdog.left(f"it has lost the others ({lost})", EXIT_CODES[RunAgain])
                _leave(Verdict(f"a worker is gone ({lost})"))
        leaving(_verdict(error))
        raise


def _is_of_others(error: BaseException) -> bool:
    """Says whether a worker that is gone may be what has ended this one's call."""
    told = isinstance(error, tf.errors.OpError) and _HEARTBEAT in error.message
    return told or isinstance(error, _WORKER_GONE)


def _verdict(error: BaseException) -> Verdict:
    """What the command will say and end with: a fault of one worker is the fault of all."""
    if isinstance(error, Exception):
        return Verdict(*cli.sentence(error))
    return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else Verdict(repr(error), 1)


def _leave(why: Verdict) -> NoReturn:
    """Ends the process: its main thread may sit in a collective that never ends."""
    again = "end what is left and start all workers again"
    if why.code != EXIT_CODES[RunAgain]:
        again = f"mend that, then {again}"
    sentence = f"{why.sentence[0].upper()}{why.sentence[1:]}; {again}."
    ending.end(why.code, sentence, lambda: history.note(sentence))
