"""Opens damaged and hostile model directories by every way that a command opens them.

    python scripts/faults/fuzz_model_dirs.py [--cases 20000] [--seed 0]

Each case damages one file of a small trained model: its bytes, a field of its JSON, or what it is
(a link to a file of the user's, to /dev/zero, a pipe, a folder, 5 GB of nothing). Prediction,
evaluation, export and training must each use the directory or refuse it in a sentence, within two
seconds and a gigabyte, and touch no file outside of it. Exit code 0: no fault; 1: a fault.
"""

import contextlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.faults.damage import damage
from squeezenext import cli, labels
from squeezenext.errors import InputError, NotKept, RunAgain, SomeInputsFailed
from squeezenext.model import card, checkpoint, loading
from squeezenext.model import directory as model_directory
from squeezenext.predict.predictor import Predictor

SECONDS, HOPELESS, BYTES = 2.0, 20, 1 << 30
VALUES = (
    None, True, -1, 0, 0.5, 1e308, float("nan"), 1 << 40, 16_000, "", "x", "x\ntouch PWNED\n:",
    "\x1b[2J", "../../secret", "/dev/zero", "n" * 100_000, [], [[[]]], {}, {"type": "Config"},
)  # fmt: skip


def make(folder: Path) -> None:
    """Makes a model directory with each kind of file."""
    from squeezenext.train import log
    from tests import tiny

    tiny.model_directory(folder, tiny.SQUEEZENEXT)
    figures = {"top1": 0.5, "top5": 1.0, "loss": 1.0, "examples": 9}
    split = {"split": "test", "images": {"train": 9}, "network": figures, "files": {}}
    final = {"step": 0, "epoch": 1.0, "examples_seen": 9, **figures}
    for name, document in {
        model_directory.FINAL: final, model_directory.SCORES: split,
        model_directory.CALIBRATION: {"temperature": 1.5, "examples": 9, "shards_sha256": "0"},
    }.items():  # fmt: skip
        (folder / name).write_text(json.dumps(document))
    (folder / model_directory.HISTORY).write_text("step,epoch\n1,1.0\n")
    log.log_to(folder / model_directory.LOG)
    logging.getLogger("squeezenext").info("made")
    log.log_to(None)


def spoil(path: Path, secret: Path, rng: random.Random) -> str:
    """Damages a file, or puts something else in its place; returns what was done."""
    content = path.read_bytes()
    kind = rng.choice(("bytes", "field", "field", "field", "link", "hard link", "zero", "pipe",
                       "folder", "large", "empty", "absent"))  # fmt: skip
    if kind == "field" and path.suffix != ".json":
        kind = "bytes"
    if kind == "bytes":
        path.write_bytes(damage(content, rng))
        return kind
    if kind == "field":
        document = _with_other_field(json.loads(content), rng)
        if path.name == "META.json" and isinstance(document, dict):
            document["sha256"] = checkpoint._meta_sha256(document)
        path.write_text(json.dumps(document))
        return kind
    path.unlink()
    match kind:
        case "link":
            path.symlink_to(secret)
        case "hard link":
            os.link(secret, path)
        case "zero":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "large":
            with path.open("wb") as file:
                file.truncate(5 << 30)
        case "empty":
            path.touch()
    return kind


def _with_other_field(document, rng: random.Random):
    """Returns a document in which one value, at any depth, is another."""
    if isinstance(document, dict | list) and document and rng.random() < 0.85:
        copy = dict(document) if isinstance(document, dict) else list(document)
        key = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
        copy[key] = _with_other_field(copy[key], rng)
        return copy
    return rng.choice(VALUES)


IMAGE = Image.fromarray(np.zeros((40, 40, 3), np.uint8))


def _predict(folder: Path) -> None:
    Predictor(folder).predict(IMAGE)


def _export(folder: Path) -> None:
    loading.litert(loading.load(folder))
    card.write(folder)


def _train(folder: Path) -> None:
    """Does what training does before its first step."""
    from squeezenext.train import command, log
    from tests import tiny

    classes = [labels.Label(f"n{i}", f"class {i}") for i in (1, 2, 3)]
    with command.locked(folder):
        try:
            log.log_to(folder / model_directory.LOG)
            model_directory.write(folder, tiny.SQUEEZENEXT, classes)
            checkpoint.newest(folder / model_directory.CHECKPOINTS, log.LOG.warning)
        finally:
            log.log_to(None)


WAYS: dict[str, Callable[[Path], None]] = {
    "predict": _predict, "evaluate": loading.load, "export": _export, "train": _train,
}  # fmt: skip


def try_one(way: Callable[[Path], None], folder: Path) -> str:
    """Opens a directory; returns "used" or "refused".

    Raises:
      RuntimeError: something else happened, or it took too long.
    """
    started = time.process_time()  # other programs run beside this one
    try:
        way(folder)
        outcome = "used"
    except (InputError, NotKept, RunAgain) as error:
        outcome = "refused"
        if not cli.sentence(error)[0].strip():
            raise RuntimeError("It is refused without a sentence.") from error
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    if (seconds := time.process_time() - started) > SECONDS:
        raise RuntimeError(f"It took {seconds:.1f} s.")
    return outcome


def cases(count: int, seed: int, work: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yields (description, directory, home) of each case; they are made anew for each."""
    whole, home = work / "whole", work / "home"
    whole.mkdir()
    make(whole)
    home.mkdir()
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        folder = work / "model"
        shutil.copytree(whole, folder)
        (home / ".bashrc").write_text("the user's\n")
        name = names[number % len(names)]
        yield f"case {number}: {name}, {spoil(folder / name, home / '.bashrc', rng)}", folder, home
        shutil.rmtree(folder)


def fuzz(count: int, seed: int) -> Counter[str]:
    """Tries all cases; returns how often each way used and refused a directory.

    Raises:
      SomeInputsFailed: a case failed.
    """
    outcomes: Counter[str] = Counter()
    signal.signal(signal.SIGALRM, _stop)
    with tempfile.TemporaryDirectory() as work, open(os.devnull, "w") as devnull:
        for case, folder, home in cases(count, seed, Path(work)):
            for name, way in WAYS.items():
                signal.alarm(HOPELESS)
                try:
                    with contextlib.redirect_stderr(devnull):
                        outcomes[f"{name} {try_one(way, folder)}"] += 1
                except RuntimeError as error:
                    raise SomeInputsFailed(f"{case}, {name}: {error}") from error
                finally:
                    signal.alarm(0)
                if _touched(home):
                    raise SomeInputsFailed(f"{case}, {name}: a file of the user's was touched.")
    return outcomes


def _stop(*_: object) -> None:
    raise RuntimeError(f"It was stopped after {HOPELESS} s.")


def _touched(home: Path) -> bool:
    found = {path.name: path.read_text() for path in home.iterdir()}
    return found != {".bashrc": "the user's\n"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    values = flags.FlagValues()
    flags.DEFINE_integer("cases", 20_000, "Number of directories.", 1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of the damage.", flag_values=values)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        for outcome, count in sorted(fuzz(values["cases"].value, values["seed"].value).items()):
            cli.say(f"{count:6} {outcome}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        cli.say(f"{peak >> 20} MB at most")
        if peak > BYTES:
            raise SomeInputsFailed("That is more than a gigabyte.")

    return cli.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
