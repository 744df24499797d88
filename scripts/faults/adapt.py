"""Kills adapt while it trains, while it exports and at random moments; compares the results.

    python scripts/faults/adapt.py PHOTOS [--kills 5] [--minutes 1] [--folder DIR]

After each SIGKILL the same command is run again, with --deterministic, and must leave the files of
an undisturbed run, byte for byte. Exit code 0: it did; 1: a file differs.
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.faults import forks
from squeezenext import cli as command_line
from squeezenext.errors import InputError, SomeInputsFailed

COMPARED = ("*.json", "*.tflite", "MODEL_CARD.md", "exported/*", "records/manifest.json")
Fault = Callable[[Path], None] | None


class Bench:
    """Runs adapt, each time in a new folder and in a process forked after importing TensorFlow.

    Args:
      folder: a folder to work in.
      arguments: adapt's arguments without --model_dir.
      prepare: called first in each process.
    """

    def __init__(self, folder: Path, arguments: list[str], prepare: Callable[[], None] | None):
        forks.begin("squeezenext.train.job", "squeezenext.adapt")
        self._folder, self._prepare = folder, prepare
        self._arguments = ["adapt", *arguments, "--deterministic"]

    def place(self, name: str) -> Path:
        """Returns the model directory of a run; the card holds its name, the same for all."""
        return self._folder / name / "mine"

    def run(self, name: str, fault: Fault = None, seconds: float | None = None) -> int:
        """Runs the command and returns its exit code, negative if it was killed.

        Args:
          name: name of the run.
          fault: called in its process with the model directory.
          seconds: time after which it is killed.
        """
        place = self.place(name)
        place.parent.mkdir(exist_ok=True)
        arguments = [*self._arguments, "--model_dir", str(place)]
        told = place.parent / "errors"
        process = forks.CONTEXT.Process(
            target=_adapt, args=(arguments, place, told, self._prepare, fault)
        )
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        return process.exitcode

    def finish(self, name: str) -> dict[str, str]:
        """Runs the command to its end and returns the hashes of its files.

        Raises:
          SomeInputsFailed: it fails.
        """
        if code := self.run(name):
            words = (self.place(name).parent / "errors").read_text().splitlines()[-20:]
            raise SomeInputsFailed("\n".join([f"{name}: exit code {code}:", *words]))
        return left(self.place(name))

    def follow(self, name: str) -> None:
        """Gives a run the plan of the undisturbed one; another measured speed would change it."""
        place = self.place(name)
        place.mkdir(parents=True)
        shutil.copy(self.place("undisturbed") / "adapt.json", place)


def _adapt(arguments: list[str], place: Path, told: Path, prepare, fault: Fault) -> None:
    """Runs adapt in this forked process."""
    with open(told, "w") as file:
        os.dup2(file.fileno(), 2)
    from squeezenext import adapt

    if prepare:
        prepare()
    if fault:
        fault(place)
    os._exit(adapt.main(arguments))


def left(place: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file that does not contain times."""
    found = {path for pattern in COMPARED for path in place.glob(pattern)}
    return {
        path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(found)
        if not path.name.startswith(".")
    }


def in_training(place: Path) -> None:
    """Makes the process kill itself in the first step after a checkpoint."""
    from squeezenext.model import checkpoint
    from squeezenext.train.loop import Loop

    train = Loop.train

    def killed(self, *arguments):
        if checkpoint.steps(place / "checkpoints"):
            os.kill(os.getpid(), signal.SIGKILL)
        return train(self, *arguments)

    Loop.train = killed


def in_export(place: Path) -> None:
    """Makes the process kill itself when the second file is written, before its renaming."""
    from squeezenext import files

    put = files.put

    def killed(temporary: Path, path: Path) -> None:
        if path == place / "exported" / "model-int8.tflite":
            os.kill(os.getpid(), signal.SIGKILL)
        put(temporary, path)

    files.put = killed


def both(bench: Bench, whole: dict[str, str]) -> None:
    """Kills one run while it trains, and again while it exports.

    Raises:
      SomeInputsFailed: it does not get that far, or its files differ from `whole`.
    """
    bench.follow("killed")
    place = bench.place("killed")
    for fault, there, absent in (
        (in_training, "checkpoints", "final.json"),
        (in_export, "exported/model-float32.tflite", "exported/model-int8.tflite"),
    ):
        code = bench.run("killed", fault)
        if code != -signal.SIGKILL or not (place / there).exists() or (place / absent).exists():
            raise SomeInputsFailed(f"{fault.__name__}: not killed there, exit code {code}.")
    check("killed", whole, bench.finish("killed"))


def check(name: str, whole: dict[str, str], found: dict[str, str]) -> None:
    """Compares the files of two runs.

    Raises:
      SomeInputsFailed: a file is missing, superfluous or different.
    """
    other = sorted(path for path in whole | found if whole.get(path) != found.get(path))
    if other:
        raise SomeInputsFailed(f"{name}: not as undisturbed: {', '.join(other)}.")


def at_random(bench: Bench, whole: dict[str, str], kills: int, seconds: float) -> None:
    """Kills one run at random moments within `seconds` of each start."""
    chance = random.Random(0)
    bench.follow("random")
    for _ in range(kills):
        print(f"Killed: {bench.run('random', None, chance.uniform(0, seconds))}", file=sys.stderr)
    check("random", whole, bench.finish("random"))


def main() -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_integer("kills", 5, "Kills at random moments.", 0, **at)
    flags.DEFINE_float("minutes", 1.0, "Value of adapt's --minutes.", **at)
    flags.DEFINE_string("folder", None, "Folder to work in; default: a temporary one.", **at)

    def command(values, positional):
        if len(positional) != 1:
            raise InputError("Give one folder of photographs.")
        arguments = [positional[0], "--minutes", str(values["minutes"].value)]
        with tempfile.TemporaryDirectory(dir=values["folder"].value) as folder:
            bench = Bench(Path(folder), arguments, None)
            started = time.monotonic()
            whole = bench.finish("undisturbed")
            seconds = time.monotonic() - started
            both(bench, whole)
            if values["kills"].value:
                at_random(bench, whole, values["kills"].value, seconds)
        print(f"As undisturbed: {', '.join(whole)}.")

    return command_line.run(command, values, __doc__, positional=True)


if __name__ == "__main__":
    sys.exit(main())
