"""Who of the workers has died, stopped or got stuck; the others leave and say so.

A collective waits for ever for a worker that is gone. TensorFlow's own time limit costs a thread
a collective and second (CommunicationOptions.timeout_seconds), and its errors name nobody. So
each worker overwrites a small file in the shared model directory every second, with a number that
grows, and reads the others'. Clocks are not compared: a worker is lost when its number has not
changed for `group.LOST_SECONDS` of the reader's own time, in which it was not stopped itself.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from squeezenext.errors import EXIT_CODES, RunAgain
from squeezenext.training.beats import FOLDER, Beat, Beats
from squeezenext.training.cluster import Cluster
from squeezenext.training.group import Group, Peer, Verdict

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
