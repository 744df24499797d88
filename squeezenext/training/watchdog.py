"""Who of the workers has died, stopped or got stuck; the others leave and say so.

A collective waits for ever for a worker that is gone. TensorFlow's own time limit costs a thread
a collective and second (CommunicationOptions.timeout_seconds), and its errors name nobody. So
each worker overwrites a small file in the shared model directory every second, with a number that
grows, and reads the others'. A file of fixed length takes no more room on a disk that is full.
Clocks are not compared: a worker is lost when its number has not changed for `LOST_SECONDS` of
the reader's own time, in which it was not stopped itself.
"""

import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from squeezenext.training.cluster import Cluster

FOLDER = ".workers"
BEAT_SECONDS = 1.0
STOPPED_SECONDS = 5.0  # between two looks: this process did not run
LOST_SECONDS = 15.0  # TensorFlow's own heartbeat takes 7; all shall be gone within 30
STALL_SECONDS = 900.0  # without a finished call, save or evaluation step; the first call compiles
START_SECONDS = 600.0  # until all have come
TELL_SECONDS = 30.0  # until the log says for whom one waits
PART_SECONDS = 10.0
_FILE_BYTES = 1024
_REASON_CHARACTERS = 300


@dataclasses.dataclass
class _Peer:
    """What is known of another worker; `changed` is this process's clock."""

    beat: int | None = None
    changed: float = 0.0
    seen: bool = False
    calls: int = 0
    fed: int = 0
    state: str = "on"
    reason: str = ""


class Watchdog:
    """Beats for this worker and watches the others, in a thread of its own.

    Args:
      directory: the model directory, which all workers share.
      cluster: the workers.
      leave: called in the thread with one sentence that names the culprit; ends the process.
      tell: called with what a log should hold.
      clock: for tests.
    """

    def __init__(
        self,
        directory: Path,
        cluster: Cluster,
        leave: Callable[[str], None],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._folder = directory / FOLDER
        self._cluster = cluster
        self._leave = leave
        self._tell = tell
        self._clock = clock
        self._mine = {"beat": 0, "calls": 0, "fed": 0, "state": "on", "reason": ""}
        self._mine |= {"host": socket.gethostname(), "process": os.getpid()}
        others = (i for i in range(len(cluster.workers)) if i != cluster.index)
        self._started = self._moved = self._looked = clock()
        self._joined: float | None = None
        self._told: set[str] = set()
        self._mute = False
        self._fed: Callable[[], int] = lambda: 0
        self._peers = {i: self._first_look(i) for i in others}
        self._ended = threading.Event()
        self._writing = threading.Lock()

    def _first_look(self, index: int) -> _Peer:
        """A file may be left from an earlier start: only a number that grows counts."""
        found = self._read(index)
        return _Peer(found["beat"] if found else None, self._started)

    def start(self) -> None:
        """Begins to beat and watch."""
        self._folder.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def feed(self, count: Callable[[], int]) -> None:
        """Sets what tells how many micro-batches this worker's input has delivered."""
        self._fed = count

    def joined(self) -> None:
        """Says that all workers have met: from now on each must be seen."""
        self._joined = self._moved = self._clock()

    def progress(self) -> None:
        """Says that this worker has finished a call."""
        self._mine["calls"] += 1
        self._moved = self._clock()

    def part(self) -> None:
        """Says that the last collective is done, and waits a while for all to say so.

        A worker that ends while another still reads from it would be that one's fault.
        """
        self._ended.set()
        self._mine["state"] = "done"
        self.beat()
        limit = self._clock() + PART_SECONDS
        while self._clock() < limit and any(peer.state == "on" for peer in self._peers.values()):
            time.sleep(0.05)
            self.look()

    def wait(self, seconds: float) -> None:
        """Gives the thread time to find the culprit and to end the process."""
        self._ended.wait(seconds)

    def left(self, reason: str) -> None:
        """Tells the others why this worker leaves."""
        if self._mine["state"] == "on":
            self._ended.set()
            self._mine |= {"state": "left", "reason": reason[:_REASON_CHARACTERS]}
            self.beat()

    def beat(self) -> None:
        """Overwrites this worker's file."""
        with self._writing:
            self._mine["beat"] += 1
            self._mine["fed"] = self._fed()
            path = self._folder / f"{self._cluster.index}.json"
            text = json.dumps(self._mine).ljust(_FILE_BYTES)
            try:
                # Closed each time: a network file system shows a file's content at its closing.
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
                try:
                    os.pwrite(descriptor, text.encode(), 0)
                    os.ftruncate(descriptor, len(text))
                finally:
                    os.close(descriptor)
                self._mute = False
            except OSError as error:  # the others will name this worker, if they can write
                self._mute = True
                self._tell_once(f"{path} cannot be written: {error.strerror}.")

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)

    def look(self) -> str | None:
        """Reads the others' files; returns what is wrong, in a sentence without its end."""
        now = self._clock()
        self._forgive(now - self._looked)
        self._looked = now
        for index, peer in self._peers.items():
            found = self._read(index)
            if found and found["beat"] != peer.beat:
                peer.beat, peer.changed, peer.seen = found["beat"], now, True
                peer.calls, peer.fed = found["calls"], found["fed"]
                peer.state, peer.reason = found["state"], found["reason"]
        if self._mute:  # perhaps nobody can write
            return None
        verdicts = (self._verdict(index, peer, now) for index, peer in self._peers.items())
        return next((verdict for verdict in verdicts if verdict), self._stalled(now))

    def _forgive(self, gap: float) -> None:
        """A process that was stopped itself, perhaps with all the others, has seen nothing."""
        if gap <= STOPPED_SECONDS:
            return
        self._started += gap
        self._moved += gap
        self._joined = None if self._joined is None else self._joined + gap
        for peer in self._peers.values():
            peer.changed += gap

    def _verdict(self, index: int, peer: _Peer, now: float) -> str | None:
        name = self._cluster.name(index)
        if peer.seen and peer.state == "left":
            return f"{name} has left: {peer.reason}"
        if peer.state == "done":
            return None
        if peer.seen and now - peer.changed > LOST_SECONDS:
            return (
                f"{name} has not answered for {now - peer.changed:.0f} s: its process is dead or "
                "stopped, or its machine is gone"
            )
        if not peer.seen and self._joined is not None and now - self._joined > LOST_SECONDS:
            return (
                f"{name} trains but {self._folder} shows no sign of it: --model_dir must be on "
                "storage that all workers share"
            )
        if not peer.seen and self._joined is None:
            return self._late(name, now - self._started)
        return None

    def _late(self, name: str, waited: float) -> str | None:
        if waited > TELL_SECONDS:
            self._tell_once(f"Waiting for {name}.")
        return f"{name} has not come within {waited:.0f} s" if waited > START_SECONDS else None

    def _stalled(self, now: float) -> str | None:
        """A process can beat and yet be stuck: the one that has done the least is behind.

        All sit in the same call then, as each waits for the others' gradients. Where one's input
        got stuck, it has delivered fewer micro-batches than the others'.
        """
        if self._joined is None or now - self._moved <= STALL_SECONDS:
            return None
        done = {index: (peer.calls, peer.fed) for index, peer in self._peers.items()}
        done[self._cluster.index] = self._mine["calls"], self._fed()
        behind = [i for i in sorted(done) if done[i] == min(done.values())]
        waited = f"for {now - self._moved:.0f} s"
        if len(behind) == len(done):
            return f"no worker has got on {waited}"
        names = " and ".join(self._cluster.name(i) for i in behind)
        return f"{names} got stuck: nobody has got on {waited}"

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.beat()
            wrong = self.look()
            if wrong and not self._ended.is_set():
                self._mine |= {"state": "left", "reason": wrong[:_REASON_CHARACTERS]}
                self.beat()
                self._leave(wrong)
            self._ended.wait(BEAT_SECONDS)

    def _read(self, index: int) -> dict | None:
        try:
            found = json.loads((self._folder / f"{index}.json").read_text("utf-8"))
            return found if set(self._mine) <= set(found) else None
        except (OSError, ValueError, TypeError):
            return None
