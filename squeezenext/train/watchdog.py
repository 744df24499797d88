"""Who of the workers has died, stopped or got stuck; the others leave and say so.

A collective waits for ever for a worker that is gone. TensorFlow's own time limit costs a thread
a collective and second (CommunicationOptions.timeout_seconds), and its errors name nobody. So
each worker overwrites a small file in the shared model directory every second, with a number that
grows, and reads the others'. Clocks are not compared: a worker is lost when its number has not
changed for `group.LOST_SECONDS` of the reader's own time, in which it was not stopped itself.
"""

import collections
import contextlib
import dataclasses
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import tensorflow as tf

from squeezenext import cli
from squeezenext.errors import EXIT_CODES, InputError, RunAgain
from squeezenext.train import log, stopping
from squeezenext.train.cluster import Cluster
from squeezenext.train.log import LOG
from squeezenext.train.stopping import StopSignals

# The small file that each worker overwrites every second, for the others to read.


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


# What a worker knows of itself and the others, and what follows from it.


LOST_SECONDS = 15.0  # TensorFlow's own heartbeat takes 7; all shall be gone within 30
STALL_SECONDS = 900.0  # without a finished call, save or evaluation step; the first call compiles
START_SECONDS = 600.0  # until all have come, and then until TensorFlow has connected them
TELL_SECONDS = 30.0  # until the log says for what one waits


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Why this worker must leave, in a sentence without its end, and with which exit code."""

    sentence: str
    code: int = EXIT_CODES[RunAgain]


@dataclasses.dataclass
class Peer:
    """What another worker has said last, and when by this process's clock.

    A file may be left from an earlier start: only one that changes is a sign of life (`seen`).
    """

    said: Beat | None
    changed: float
    seen: bool = False
    anew: bool = False

    def take(self, found: Beat, now: float) -> None:
        """Takes up what its file says now."""
        before = (self.said.start, self.said.beat) if self.said else None
        if (found.start, found.beat) != before:
            self.anew |= self.seen and found.start != self.said.start
            self.said, self.changed, self.seen = found, now, True

    @property
    def state(self) -> str:
        return self.said.state if self.seen else "on"


@dataclasses.dataclass
class Group:
    """The workers as one of them sees them; times are by its clock.

    Attributes:
      cluster: who they are.
      mine: what this one says.
      peers: the others, by their number.
      folder: with the files of all, for messages.
      started: when this one began to look.
      moved: when it has got on last.
      met: since when all others have been seen.
      joined: since when TensorFlow has connected them.
    """

    cluster: Cluster
    mine: Beat
    peers: dict[int, Peer]
    folder: Path
    started: float
    moved: float
    met: float | None = None
    joined: float | None = None

    @property
    def all_seen(self) -> bool:
        return all(peer.seen for peer in self.peers.values())

    def forgive(self, gap: float) -> None:
        """A process that was stopped itself, perhaps with all the others, has seen nothing."""
        self.started += gap
        self.moved += gap
        self.met = None if self.met is None else self.met + gap
        self.joined = None if self.joined is None else self.joined + gap
        for peer in self.peers.values():
            peer.changed += gap

    def verdict(self, now: float, tell: Callable[[str], None]) -> Verdict | None:
        """Says whether this worker must leave; `tell` is called with what a log should hold."""
        if self.met is None and self.all_seen:
            self.met = now
        for index, peer in self.peers.items():
            name = self.cluster.name(index)
            one = self._of(name, peer, now) if peer.seen else self._unseen(name, now, tell)
            if one:
                return one
        if self.joined is not None:
            return self._stalled(now)
        return (self._unlike() or self._apart(now, tell)) if self.met is not None else None

    def _of(self, name: str, peer: Peer, now: float) -> Verdict | None:
        if peer.state == "left":
            return Verdict(f"{name} has left: {peer.said.reason}", peer.said.code)
        if peer.anew:
            return Verdict(f"{name} was started anew, which those that run cannot take up")
        if peer.state == "on" and now - peer.changed > LOST_SECONDS:
            return Verdict(
                f"{name} has not answered for {now - peer.changed:.0f} s: its process is dead or "
                "stopped, or its machine is gone"
            )
        return None

    def _unseen(self, name: str, now: float, tell: Callable[[str], None]) -> Verdict | None:
        if self.joined is not None:
            if now - self.joined <= LOST_SECONDS:
                return None
            return Verdict(
                f"{name} trains but {self.folder} shows no sign of it: --model_dir must be on "
                "storage that all workers share",
                EXIT_CODES[InputError],
            )
        waited = now - self.started
        if waited > TELL_SECONDS:
            tell(f"Waiting for {name}.")
        late = waited > START_SECONDS
        return Verdict(f"{name} has not come within {waited:.0f} s") if late else None

    def _unlike(self) -> Verdict | None:
        """TensorFlow takes for granted that all have as many devices, and waits where not."""
        counts = {index: peer.said.devices for index, peer in self.peers.items()}
        counts[self.cluster.index] = self.mine.devices
        usual, _ = collections.Counter(counts[i] for i in sorted(counts)).most_common(1)[0]
        odd = [i for i in sorted(counts) if counts[i] != usual]
        if not odd or 0 in counts.values():
            return None
        return Verdict(
            f"{self.cluster.name(odd[0])} has {counts[odd[0]]} devices, others have {usual}: mend "
            f"that, or give --devices {min(counts.values())} to all",
            EXIT_CODES[InputError],
        )

    def _apart(self, now: float, tell: Callable[[str], None]) -> Verdict | None:
        """All are alive, and TensorFlow has not brought them together."""
        waited = now - self.met
        what = "each must reach the others' host:port, and no other process may hold its own"
        if waited > TELL_SECONDS:
            tell(f"All workers are there, but TensorFlow has not connected them: {what}.")
        if waited <= START_SECONDS:
            return None
        return Verdict(f"TensorFlow has not connected the workers within {waited:.0f} s: {what}")

    def _stalled(self, now: float) -> Verdict | None:
        """A process can beat and yet be stuck: the one that has done the least is behind.

        All sit in the same call then, as each waits for the others' gradients. Where one's input
        got stuck, it has delivered fewer micro-batches than the others'.
        """
        if now - self.moved <= STALL_SECONDS:
            return None
        said = {index: peer.said for index, peer in self.peers.items() if peer.said}
        said[self.cluster.index] = self.mine
        done = {index: (beat.calls, beat.fed) for index, beat in said.items()}
        behind = [i for i in sorted(done) if done[i] == min(done.values())]
        waited = f"for {now - self.moved:.0f} s"
        if len(behind) == len(done):
            return Verdict(f"no worker has got on {waited}")
        names = " and ".join(self.cluster.name(i) for i in behind)
        return Verdict(f"{names} got stuck: nobody has got on {waited}")


BEAT_SECONDS = 1.0
STOPPED_SECONDS = 5.0  # between two looks: this process did not run
PART_SECONDS = 10.0
LINGER_SECONDS = 60.0  # for the others to come, some of which import TensorFlow for longer


class Watchdog:
    """Beats for this worker and watches the others, in a thread of its own.

    Args:
      directory: the model directory, which all workers share.
      cluster: the workers.
      leave: called in the thread with a verdict that names the culprit; ends the process.
      tell: called with what a log should hold.
      clock: for tests.
    """

    def __init__(
        self,
        directory: Path,
        cluster: Cluster,
        leave: Callable[[Verdict], None],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._beats = Beats(directory / FOLDER, cluster.index)
        self._leave = leave
        self._tell = tell
        self._clock = clock
        self._mine = Beat()
        self._looked = now = clock()
        others = (i for i in range(len(cluster.workers)) if i != cluster.index)
        peers = {i: Peer(self._beats.read(i), now) for i in others}
        self._group = Group(cluster, self._mine, peers, self._beats.folder, now, now)
        self._told: set[str] = set()
        self._mute = False
        self._fed: Callable[[], int] = lambda: 0
        self._ended = threading.Event()
        self._writing = threading.Lock()

    def start(self) -> None:
        """Begins to beat and watch."""
        self._beats.folder.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def feed(self, count: Callable[[], int]) -> None:
        """Sets what tells how many micro-batches this worker's input has delivered."""
        self._fed = count

    def joining(self, devices: int) -> None:
        """Says on how many devices this worker is about to join the others."""
        self._mine.devices = devices

    def joined(self) -> None:
        """Says that all workers have met: from now on each must be seen."""
        self._group.joined = self._group.moved = self._clock()

    def progress(self) -> None:
        """Says that this worker has finished a call."""
        self._mine.calls += 1
        self._group.moved = self._clock()

    def part(self) -> None:
        """Says that the last collective is done, and waits a while for all to say so.

        A worker that ends while another still reads from it would be that one's fault.
        """
        self._ended.set()
        self._mine.state = "done"
        self.beat()
        peers, limit = self._group.peers.values(), self._clock() + PART_SECONDS
        while self._clock() < limit and any(peer.state == "on" for peer in peers):
            time.sleep(0.05)
            self.look()

    def wait(self, seconds: float) -> None:
        """Gives the thread time to find the culprit and to end the process."""
        self._ended.wait(seconds)

    def left(self, reason: str, code: int) -> None:
        """Tells the others why this worker leaves; with its exit code they leave, too."""
        if self._mine.state == "on":
            self._ended.set()
            self._mine.leave(reason, code)
            self.beat()
            if self._group.joined is None and code != EXIT_CODES[RunAgain]:
                self._linger(reason)

    def _linger(self, reason: str) -> None:
        """Waits for those that come later: a file that does not change is an earlier start's."""
        limit = self._clock() + LINGER_SECONDS
        self.look()
        if not self._group.all_seen:
            self._tell(f"{reason}; telling the other workers, for {LINGER_SECONDS:.0f} s at most.")
        while self._clock() < limit and not self._group.all_seen:
            time.sleep(BEAT_SECONDS)
            self.beat()
            self.look()
        self.beat()  # whoever has been seen has looked at this file before

    def beat(self) -> None:
        """Overwrites this worker's file."""
        with self._writing:
            self._mine.beat += 1
            self._mine.fed = self._fed()
            try:
                self._beats.write(self._mine)
                self._mute = False
            except OSError as error:  # the others will name this worker, if they can write
                self._mute = True
                self._tell_once(f"{self._beats.path} cannot be written: {error.strerror}.")

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)

    def look(self) -> Verdict | None:
        """Reads the others' files; returns what is wrong."""
        now, peers = self._clock(), self._group.peers
        gap, self._looked = now - self._looked, now
        if self._mute or gap > STOPPED_SECONDS:
            self._group.forgive(gap)
        for index, peer in peers.items():
            if found := self._beats.read(index):
                peer.take(found, now)
        if self._mute:  # perhaps nobody can write, and this worker will be the first who can again
            for peer in peers.values():
                peer.changed = now
            return None
        return self._group.verdict(now, self._tell_once)

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.beat()
            wrong = self.look()
            if wrong and not self._ended.is_set():
                self._mine.leave(wrong.sentence, wrong.code)
                self.beat()
                self._leave(wrong)
            self._ended.wait(BEAT_SECONDS)


# How a process leaves its job: who is told why, and with which exit code.


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
        log.note(why.sentence)

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
    stopping.end(why.code, sentence, lambda: log.note(sentence))
