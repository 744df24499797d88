"""Disturbs training in every known way and compares the results with an undisturbed run.

    python scripts/faults/train.py [--kills 50] [--every 8] [--workers 2,3] [--folder DIR]

The disturbances, in turn:
  disk: a write, fsync or rename fails because the disk is full, with nothing or half of the file
  written; the process ends at one of these calls or at a removal (`train_disk.at_call`); files are
  limited in size; a byte flips in each file of the newest checkpoint;
  process: SIGKILL at random moments, half of them inside a save;
  numbers: NaN on each replica of 2 and 4 devices and of 2 processes;
  workers: each in turn is killed, stopped, started twice, reads a damaged record, or stalls in its
  input; all are paused, have no room on the disk, or meet NaN.
After each of them the same command is run again and must end with the `weights_sha256` of the
undisturbed run. A failure is printed at once, a table at the end. Exit code 0: all equal; 1: one
differs.
"""

import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.faults import train_disk as fault_train_disk
from scripts.faults import train_inputs as fault_train_inputs
from scripts.faults import train_workers as fault_train_workers
from scripts.faults.train_bench import LONG, Bench, Different, check, last_words, weights
from scripts.faults.train_workers import Group
from squeezenext import cli as command_line
from squeezenext.errors import SomeInputsFailed

SPREAD_SECONDS = 8.0  # after the start of a run, in which it is killed


def kills(bench: Bench, count: int, chance: random.Random) -> tuple[int, str]:
    """Kills runs at random moments, one run after the other."""
    whole = bench.undisturbed(LONG)
    done = runs = saving = 0
    while done < count:
        model_dir = bench.empty("killed")
        arguments = bench.arguments(model_dir, LONG)
        while not (model_dir / "final.json").exists():
            process = bench.start(arguments)
            if done < count and _alive_until(process, model_dir, chance, saves=done % 2 == 1):
                saving += any((model_dir / "checkpoints").glob(".step-*"))
                process.kill()
                done += 1
            process.join()
            if process.exitcode not in (0, -signal.SIGKILL):
                raise Different(f"killed {done} times: {process.exitcode}, {last_words(process)}")
        check(f"run {runs} with kills", whole, weights(model_dir))
        runs += 1
    return done, f"{saving} inside a save, in {runs} runs"


def _alive_until(process, model_dir: Path, chance: random.Random, saves: bool) -> bool:
    """Waits for a random moment and says whether the process still runs."""
    before = _size(model_dir / "train.log")
    while process.exitcode is None and _size(model_dir / "train.log") == before:
        time.sleep(0.01)
    process.join(chance.uniform(0, SPREAD_SECONDS))
    while saves and process.exitcode is None:
        if any((model_dir / "checkpoints").glob(".step-*")):
            break
        time.sleep(0.0005)
    return process.exitcode is None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class Table:
    """The table of all faults: kind, number of cases, outcome, minutes."""

    def __init__(self):
        self._rows = ["| fault | cases | outcome | minutes |", "|---|---|---|---|"]
        self.failed = 0

    def add(self, name: str, work: Callable[[], int | tuple[int, object]]) -> None:
        """Runs `work`, which returns the number of cases, or (that number, a remark)."""
        started = time.monotonic()
        try:
            found = work()
            cases, note = found if isinstance(found, tuple) else (found, "")
            outcome = f"as undisturbed{f', {note}' if note else ''}"
        except Exception as error:
            self.failed += 1
            cases, outcome = "", "FAILED"
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        minutes = (time.monotonic() - started) / 60
        self._rows.append(f"| {name} | {cases} | {outcome} | {minutes:.1f} |")
        print(self._rows[-1], file=sys.stderr, flush=True)

    def __str__(self) -> str:
        return "\n".join(self._rows)


def all_faults(bench: Bench, table: Table, kill_count: int, every: int, counts: list[int]) -> None:
    chance = random.Random(0)
    disk, workers = fault_train_disk, fault_train_workers
    if every:
        name = "a write, fsync or rename fails; it or a removal is the last"
        table.add(name, lambda: disk.inside_saves(bench, every))
        table.add("files limited to 16 kB", lambda: disk.limited(bench))
        table.add("a flipped byte in each file", lambda: disk.flips(bench, chance))
    if kill_count:
        table.add("SIGKILL at random moments", lambda: kills(bench, kill_count, chance))
    if counts:
        table.add("NaN on each replica: 2, 4 devices, 2 processes", lambda: workers.planted(bench))
    for count in counts:
        _group_faults(bench, table, count, chance)


def _group_faults(bench: Bench, table: Table, count: int, chance: random.Random) -> None:
    workers = fault_train_workers
    groups: list[Group] = []

    def make() -> int:
        groups.append(Group(bench, count))
        return 1

    def lost() -> tuple[int, str]:
        cases, slowest = workers.lost(bench, groups[0], chance)
        return cases, f"the others name it and leave within {slowest:.0f} s"

    table.add(f"{count} workers left alone", make)
    if groups:
        table.add(f"{count} workers, each killed and each stopped", lost)
        table.add(
            f"{count} workers, each started twice", lambda: workers.started_twice(bench, groups[0])
        )
        table.add(f"{count} workers, all paused", lambda: workers.paused(bench, groups[0]))
        name = f"{count} workers, each with a damaged record"
        table.add(name, lambda: fault_train_inputs.damaged(bench, groups[0], chance))
        name = f"{count} workers, each stuck"
        table.add(name, lambda: fault_train_inputs.stuck(bench, groups[0]))
        table.add(f"{count} workers without room", lambda: workers.without_room(bench, groups[0]))
        table.add(f"{count} workers and NaN", lambda: workers.not_finite(bench, groups[0]))


def main() -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_integer("kills", 50, "SIGKILLs at random moments.", 0, **at)
    flags.DEFINE_integer(
        "every", 8, "Interval between the disturbed writes, fsyncs, ...; 0: none.", 0, **at
    )
    flags.DEFINE_list("workers", ["2", "3"], "Sizes of the groups of workers.", **at)
    flags.DEFINE_string("folder", None, "Folder to work in; default: a temporary one.", **at)

    def command(values, _):
        table = Table()
        counts = [int(text) for text in values["workers"].value]
        with tempfile.TemporaryDirectory(dir=values["folder"].value) as folder:
            bench = Bench(Path(folder))
            try:
                all_faults(bench, table, values["kills"].value, values["every"].value, counts)
            finally:
                bench.close()
        print(table)
        if table.failed:
            raise SomeInputsFailed(f"{table.failed} kinds of faults did not end as they should.")

    return command_line.run(command, values, __doc__)


if __name__ == "__main__":
    sys.exit(main())
