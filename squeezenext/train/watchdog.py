"""Heartbeats: a worker that has died, stopped or stalled is named, and the others leave.

A collective waits for ever for a worker that is gone. TensorFlow's own time limit costs a thread
for each collective and second (CommunicationOptions.timeout_seconds), and its errors name nobody.
So each worker overwrites a small file in the shared model directory every second and reads those
of the others; in training the chief reads all, each other worker those of the chief and of the next
`NEIGHBOURS`. Clocks are not compared: a worker is lost if its heartbeat has not changed for
`--lost_seconds` on the reader's clock, time in which the reader itself was stopped left aside.

    state of a worker      until                            its fault
    running                it calls `finish` or `leave`     silence, or a second start
    done                   the end                          none: it needs no other worker
    left                   the end                          the one that its heartbeat names

    phase of the group     until                            what may be wrong
    gathering              every heartbeat has been seen    a worker does not come
    connecting             TensorFlow has connected all     other devices, a port, a firewall
    training               the end                          a stalled worker, storage not shared
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from squeezenext.errors import EXIT_CODES, InputError, RunAgain
from squeezenext.model import directory as model_directory
from squeezenext.train.cluster import Cluster, Heartbeat

HEARTBEAT_SECONDS = 1.0
STALL_SECONDS = 900.0  # without a finished call, save or evaluation step; the first call compiles
START_SECONDS = 600.0  # for all workers to come, and again for TensorFlow to connect them
LOG_SECONDS = 30.0  # until the log says what is waited for
STOPPED_SECONDS = 5.0  # between two checks: this process itself was stopped
FINISH_SECONDS = 10.0  # for the others to end their last collective
LINGER_SECONDS = 60.0  # for the others to come; some import TensorFlow for longer
NEIGHBOURS = 3  # workers that a worker watches in training, beside the chief
_VERDICT_SECONDS = 10.0  # for a verdict, beyond the silence that it needs
_REASON_CHARACTERS = 300


class Verdict(NamedTuple):
    """Why this worker must leave, a sentence without its full stop, and with which exit code."""

    sentence: str
    code: int = EXIT_CODES[RunAgain]


@dataclasses.dataclass
class Peer:
    """Another worker; times are by this process's clock."""

    name: str  # for messages
    path: Path  # its file
    last: Heartbeat | None  # the last heartbeat that was read
    changed: float  # when that one was read first
    seen: bool = False  # its heartbeat has changed; if not, it may be of an earlier start
    restarted: bool = False

    def read(self, now: float) -> None:
        """Reads its heartbeat."""
        found = Heartbeat.read(self.path)
        if found and (self.last is None or found != self.last):
            self.restarted |= self.seen and found.start != self.last.start
            self.last, self.changed, self.seen = found, now, True

    @property
    def is_over(self) -> bool:
        """Whether it needs no other worker any more."""
        return self.seen and self.last.state != "running"

    def fault(self, now: float, limit: float) -> Verdict | None:
        """Returns what is wrong with a worker that has been seen; `limit`: seconds of silence."""
        if self.last.state == "left":
            reason = self.last.reason
            told = reason if reason.startswith("worker ") else f"{self.name} has left: {reason}"
            return Verdict(told, self.last.code)
        if self.restarted:
            return Verdict(f"{self.name} was started anew, which a run in progress cannot take up")
        silent = now - self.changed
        if not self.is_over and silent > limit:
            return Verdict(
                f"{self.name} has not answered for {silent:.0f} s: its process is dead or stopped, "
                "or its machine is gone"
            )
        return None


class Watchdog:
    """Sends this worker's heartbeat and checks the others', in a thread of its own.

    Args:
      directory: the model directory, which all workers share.
      lost_seconds: silence after which a worker is taken for dead.
      end: ends the process; called in the thread with a verdict that names the culprit.
      clock: seconds; tests have their own.
    """

    def __init__(
        self,
        directory: Path,
        cluster: Cluster,
        lost_seconds: float,
        end: Callable[[Verdict], None],
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._cluster, self._end, self._warn, self._clock = cluster, end, warn, clock
        self._folder = directory / model_directory.WORKERS
        self._lost_seconds = lost_seconds
        self._own = Heartbeat()
        self._checked = self._progressed = self._phase_began = now = clock()
        self._phase, self._connected = "gathering", False  # see the head of the module
        paths = [self._folder / f"{i}.json" for i in range(len(cluster.workers))]
        self._path = paths[cluster.index]
        self._peers = {
            i: Peer(cluster.name(i), path, Heartbeat.read(path), now)
            for i, path in enumerate(paths)
            if i != cluster.index
        }
        self._batches: Callable[[], int] = lambda: 0
        self._warned: set[str] = set()
        self._can_write = True
        self._ended = threading.Event()
        self._writing = threading.Lock()

    def start(self) -> None:
        """Starts the thread."""
        self._folder.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.send()
            verdict = self.check()
            if verdict and not self._ended.is_set():
                self._set_left(*verdict)
                self._end(verdict)
            self._ended.wait(HEARTBEAT_SECONDS)

    # What this worker says of itself

    def count_batches(self, batches: Callable[[], int]) -> None:
        """Sets the function that returns the micro-batches delivered so far."""
        self._batches = batches

    def connecting(self, devices: str) -> None:
        """Call before TensorFlow connects the workers; `devices`: this worker's, as "8 GPUs"."""
        self._own.devices = devices

    def connected(self) -> None:
        """Call once TensorFlow has connected the workers."""
        self._progressed, self._connected = self._clock(), True

    def progress(self) -> None:
        """Call after each compiled call, save and evaluation step."""
        self._own.calls += 1
        self._progressed = self._clock()

    def finish(self) -> None:
        """Call after the last collective; waits a while until the workers it watches have, too.

        A worker that ends while another still reads from it would look like the culprit.
        """
        self._ended.set()
        self._own.state = "done"
        self.send()
        limit = self._clock() + FINISH_SECONDS
        while self._clock() < limit and any(not peer.is_over for peer in self._watched()):
            time.sleep(0.05)
            self.check()

    def leave(self, reason: str, code: int) -> None:
        """Tells the others why this worker ends; they leave with its exit code."""
        if self._own.state != "running":
            return
        self._ended.set()
        self._set_left(reason, code)
        if not self._connected and code != EXIT_CODES[RunAgain]:
            self._linger(reason)

    def _set_left(self, reason: str, code: int) -> None:
        own = self._own
        own.state, own.reason, own.code = "left", reason[:_REASON_CHARACTERS], code
        self.send()

    def _linger(self, reason: str) -> None:
        """Waits for those that come later: they take a file that does not change for an old one."""
        limit = self._clock() + LINGER_SECONDS
        self.check()
        if not self._all_seen:
            self._warn(f"{reason}; telling the other workers, for {LINGER_SECONDS:.0f} s at most.")
        while self._clock() < limit and not self._all_seen:
            time.sleep(HEARTBEAT_SECONDS)
            self.send()
            self.check()
        self.send()  # for a worker that was seen just now

    def wait_for_verdict(self) -> None:
        """Gives the thread time to find the culprit and to end the process."""
        self._ended.wait(self._lost_seconds + _VERDICT_SECONDS)

    def send(self) -> None:
        """Writes this worker's heartbeat."""
        with self._writing:
            self._own.count += 1
            self._own.batches = self._batches()
            try:
                self._own.write(self._path)
                self._can_write = True
            except (OSError, InputError) as error:  # the others will name this worker
                self._can_write = False
                reason = error.strerror if isinstance(error, OSError) else error
                self._warn_once(f"{self._path} cannot be written: {reason}.")

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text)

    # What this worker finds out about the others

    @property
    def _all_seen(self) -> bool:
        return all(peer.seen for peer in self._peers.values())

    def _watched(self) -> list[Peer]:
        """Returns the workers to read: all until TensorFlow has connected them, then a few.

        If all read all, 256 workers would open 65,000 files a second. So only the chief goes on
        reading all; when it leaves, everybody knows within a heartbeat.
        """
        own, count = self._cluster.index, len(self._cluster.workers)
        if not self._connected or own == 0:
            return list(self._peers.values())
        near = {0, *((own + step) % count for step in range(1, NEIGHBOURS + 1))}
        return [self._peers[index] for index in sorted(near - {own})]

    def check(self) -> Verdict | None:
        """Reads the others' heartbeats and returns what is wrong, if anything."""
        now, peers = self._clock(), self._peers.values()
        gap, self._checked = now - self._checked, now
        if not self._can_write or gap > STOPPED_SECONDS:
            # This process could not take part, and perhaps none could: nobody is to blame.
            self._phase_began += gap
            self._progressed += gap
            for peer in peers:
                peer.changed += gap
        for peer in self._watched():
            peer.read(now)
        if not self._can_write:  # this worker may be the first that can write again
            for peer in peers:
                peer.changed = now
            return None
        phase = "training" if self._connected else "connecting" if self._all_seen else "gathering"
        if phase != self._phase:
            self._phase, self._phase_began = phase, now
        waited = now - self._phase_began
        for peer in self._watched():
            if (
                verdict := peer.fault(now, self._lost_seconds)
                if peer.seen
                else self._unseen(peer.name, waited)
            ):
                return verdict
        if phase == "training":
            return self._stalled(now - self._progressed)
        return self._connection(waited) if phase == "connecting" else None

    def _unseen(self, name: str, waited: float) -> Verdict | None:
        if self._phase != "training":
            return self._late(waited, f"Waiting for {name}", f"{name} has not come")
        if waited <= self._lost_seconds:
            return None
        return Verdict(
            f"{name} trains but {self._folder} shows no sign of it: --model_dir must be on storage "
            "that all workers share",
            EXIT_CODES[InputError],
        )

    def _late(self, waited: float, notice: str, fault: str, advice: str = "") -> Verdict | None:
        """Logs that this worker waits for the others, and returns a verdict after long."""
        if waited > LOG_SECONDS:
            self._warn_once(f"{notice}{advice}.")
        return Verdict(f"{fault} within {waited:.0f} s{advice}") if waited > START_SECONDS else None

    def _heartbeats(self) -> dict[int, Heartbeat]:
        """Returns the latest heartbeat of all workers, by index."""
        found = {index: peer.last for index, peer in self._peers.items() if peer.last}
        return dict(sorted((found | {self._cluster.index: self._own}).items()))

    def _connection(self, waited: float) -> Verdict | None:
        """Says why TensorFlow may not connect the workers: it waits if their devices differ."""
        have = {index: each.devices for index, each in self._heartbeats().items()}
        usual, _ = collections.Counter(have.values()).most_common(1)[0]
        other = [index for index in have if have[index] != usual]
        if other and "" not in have.values():
            fewest = min(int(devices.split()[0]) for devices in have.values())
            kinds = {"CPU" in devices for devices in have.values()}
            remedy = "hide the GPUs of all" if len(kinds) > 1 else f"give --devices {fewest} to all"
            return Verdict(
                f"{self._cluster.name(other[0])} has {have[other[0]]}, others have {usual}: mend "
                f"that, or {remedy}",
                EXIT_CODES[InputError],
            )
        return self._late(
            waited,
            "All workers are there, but TensorFlow has not connected them",
            "TensorFlow has not connected the workers",
            ": each must reach the others' host:port, and no other process may hold its own",
        )

    def _stalled(self, waited: float) -> Verdict | None:
        """Names the workers that have done the least, if none has finished a call for long.

        A stalled process may still send heartbeats. All then wait in the same call for its
        gradients; if its input has stalled, it has delivered fewer micro-batches than the others'.
        """
        if waited <= STALL_SECONDS:
            return None
        for peer in self._peers.values():  # also those that are not watched
            peer.read(self._clock())
        done = {index: (each.calls, each.batches) for index, each in self._heartbeats().items()}
        behind = [index for index in done if done[index] == min(done.values())]
        if len(behind) == len(done):
            return Verdict(f"no worker has made progress for {waited:.0f} s")
        names = " and ".join(self._cluster.name(index) for index in behind)
        return Verdict(f"{names} stalled: no worker has made progress for {waited:.0f} s")
