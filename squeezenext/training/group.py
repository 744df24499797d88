"""What a worker knows of itself and the others, and what follows from it."""

import collections
import dataclasses
from collections.abc import Callable
from pathlib import Path

from squeezenext.errors import EXIT_CODES, InputError, RunAgain
from squeezenext.training.beats import Beat
from squeezenext.training.cluster import Cluster

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
