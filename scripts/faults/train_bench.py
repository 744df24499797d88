"""Common parts of the training's fault benches: data, commands, processes, the comparison."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.faults import forks
from squeezenext.errors import SomeInputsFailed
from squeezenext.model import checkpoint

SHORT, LONG = 3, 40  # epochs of a run that is disturbed at a given call, at a random moment
FINISH_SECONDS = 600.0


class Different(SomeInputsFailed):
    """The end of a disturbed run differs from that of the undisturbed one."""


class Bench:
    """The data, the commands and the results of runs in `folder`.

    Their processes are forked from a server that has imported TensorFlow, which saves most of the
    time.
    """

    def __init__(self, folder: Path):
        from tests import tiny

        forks.begin("squeezenext.train.job", "squeezenext.train")
        self.folder = folder
        self._started: list = []
        self._whole: dict[int, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        tiny.shard(folder / "records", 64)
        for name in ("SQUEEZENET", "SQUEEZENEXT"):
            text = f"from tests.tiny import {name} as CONFIG\n"
            (folder / f"{name.lower()}.py").write_text(text)

    def empty(self, name: str) -> Path:
        """Returns the path of a folder after removing its content."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.folder / name

    def arguments(
        self, model_dir: Path, epochs: int, *more: str, network: str = "squeezenet"
    ) -> list[str]:
        """Returns the command line of a run that saves after every call."""
        records = str(self.folder / "records")
        return [
            *("train", "--deterministic", "--precision", "float32", "--checkpoint_minutes", "0"),
            *("--configuration", str(self.folder / f"{network}.py")),
            *("--training_file_pattern", records, "--validation_file_pattern", records),
            *("--num_epochs", str(epochs), "--model_dir", str(model_dir)),
            *("--evaluate_every_epochs", "10" if epochs > SHORT else "1", *more),
        ]

    def start(self, arguments: list[str], fault: Callable | None = None, *given, config: str = ""):
        """Starts a run, in which `fault(*given)` is called first; `config` is its TF_CONFIG."""
        errors = self.folder / f"errors-{len(self._started)}"
        process = forks.CONTEXT.Process(
            target=_train, args=(arguments, config, errors, fault, *given)
        )
        process.start()
        process.errors = errors
        self._started.append(process)
        return process

    def finish(self, arguments: list[str], what: str) -> str:
        """Runs to the end and returns the hash of the weights.

        Raises:
          Different: it does not come to its end.
        """
        process = self.start(arguments)
        process.join(FINISH_SECONDS)
        if process.exitcode != 0:
            raise Different(
                f"{what}: the next run ended with {process.exitcode}: {last_words(process)}"
            )
        return weights(Path(arguments[arguments.index("--model_dir") + 1]))

    def undisturbed(self, epochs: int) -> str:
        """Returns the final hash of an undisturbed run of so many epochs."""
        if epochs not in self._whole:
            model_dir = self.folder / f"undisturbed-{epochs}"
            self._whole[epochs] = self.finish(self.arguments(model_dir, epochs), "undisturbed")
        return self._whole[epochs]

    def close(self) -> None:
        """Kills the processes that are left, stopped ones too."""
        for process in self._started:
            process.kill()


def _train(arguments: list[str], config: str, errors: Path, fault: Callable | None, *given) -> None:
    """Trains in this forked process."""
    with open(errors, "w") as file:
        os.dup2(file.fileno(), 2)
    os.environ.pop("TF_CONFIG", None)
    if config:
        os.environ["TF_CONFIG"] = config
    if fault:
        fault(*given)
    from squeezenext import train

    os._exit(train.main(arguments))


def last_words(process) -> str:
    """Returns the last lines of a process's standard error."""
    return "\n".join(process.errors.read_text().splitlines()[-20:])


def weights(model_dir: Path) -> str:
    """Returns the hash of the final weights."""
    return json.loads((model_dir / "final.json").read_text())["weights_sha256"]


def check(what: str, expected: str, found: str) -> None:
    """Compares the hashes of the weights.

    Raises:
      Different: they are not those of the undisturbed run.
    """
    if expected != found:
        raise Different(f"{what}: weights {found[:12]}, not {expected[:12]} as undisturbed.")


def newest(model_dir: Path) -> Path:
    """Returns the folder of the newest checkpoint."""
    step = checkpoint.steps(model_dir / "checkpoints")[-1]
    return model_dir / "checkpoints" / f"step-{step:08d}"
