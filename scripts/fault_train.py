"""Disturbs training in every way known and compares what comes out with an undisturbed run.

    python scripts/fault_train.py [--kills 50] [--every 4] [--workers 2,3] [--folder DIR]

In turn: SIGKILL at random moments; every so-many-th write, fsync and rename fails (disk full) or
is the last thing the process does (before it, after it); a limit on the size of files; a flipped
byte in each file of the newest checkpoint; several workers of which each is killed and each is
stopped. After each the same command is run again, and must end with the `weights_sha256` of the
undisturbed run. Exit code 0: so it was; 1: it was not, and the first difference is told.

The processes of one worker are forked from one that has imported TensorFlow and done nothing with
it, which saves most of the time.
"""

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from squeezenext import checkpoint
from squeezenext import flags as command_line
from squeezenext.errors import SomeInputsFailed

FORKS = multiprocessing.get_context("forkserver")
MODES = ("disk full", "killed before", "killed after")
LEAVE_SECONDS = 30
KILLED = 137


class Different(SomeInputsFailed):
    """A disturbed run ended otherwise than the undisturbed one."""


class Bench:
    """The data, the commands, and what each leaves in `folder`."""

    def __init__(self, folder: Path):
        from tests import tiny

        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        tiny.shard(folder / "records", 64)
        for name in ("SQUEEZENET", "SQUEEZENEXT"):
            text = f"from tests.tiny import {name} as CONFIG\n"
            (folder / f"{name.lower()}.py").write_text(text)

    def arguments(self, model_dir: Path, epochs: int, network: str, *more: str) -> list[str]:
        records = str(self.folder / "records")
        return [
            *("train", "--deterministic", "--precision", "float32", "--checkpoint_minutes", "0"),
            *("--configuration", str(self.folder / f"{network}.py")),
            *("--training_file_pattern", records, "--validation_file_pattern", records),
            *("--num_epochs", str(epochs), "--model_dir", str(model_dir), *more),
        ]

    def start(self, arguments: list[str], fault: Callable | None = None, *given):
        """Starts a run of one worker; `fault(*given)` is called in it first."""
        process = FORKS.Process(target=_train, args=(arguments, fault, *given))
        process.start()
        return process

    def finish(self, arguments: list[str], what: str) -> str:
        """Runs to the end and returns the hash of the weights."""
        process = self.start(arguments)
        process.join()
        model_dir = Path(arguments[arguments.index("--model_dir") + 1])
        if process.exitcode != 0:
            raise Different(f"{what}: the next run ended with {process.exitcode}, see {model_dir}.")
        return weights(model_dir)


def _train(arguments: list[str], fault: Callable | None, *given) -> None:
    """In a process of its own."""
    model_dir = Path(arguments[arguments.index("--model_dir") + 1])
    model_dir.mkdir(parents=True, exist_ok=True)
    with open(model_dir / "stderr", "a") as file:
        os.dup2(file.fileno(), 2)
    if fault:
        fault(*given)
    from squeezenext import train

    os._exit(train.main(arguments))


def weights(model_dir: Path) -> str:
    return json.loads((model_dir / "final.json").read_text())["weights_sha256"]


def check(what: str, expected: str, found: str) -> None:
    if expected != found:
        raise Different(f"{what}: weights {found[:12]}, not {expected[:12]} as undisturbed.")


def kill(bench: Bench, kills: int, chance: random.Random) -> None:
    """SIGKILL at random moments, of runs one after the other."""
    whole = bench.finish(bench.arguments(bench.folder / "long", 100, "squeezenet"), "undisturbed")
    done = runs = 0
    while done < kills:
        model_dir = bench.folder / f"killed-{runs}"
        arguments = bench.arguments(model_dir, 100, "squeezenet")
        while not (model_dir / "final.json").exists():
            told = _size(model_dir / "train.log")
            process = bench.start(arguments)
            if done < kills:
                while process.is_alive() and _size(model_dir / "train.log") == told:
                    time.sleep(0.01)
                process.join(chance.uniform(0, 8))
                done += process.is_alive()
                process.kill()
            process.join()
            if process.exitcode not in (0, -signal.SIGKILL):
                raise Different(f"killed {done} times: exit code {process.exitcode}.")
        check(f"run {runs} with kills", whole, weights(model_dir))
        runs += 1
        shutil.rmtree(model_dir)
    print(f"SIGKILL at {done} random moments in {runs} runs: all end as undisturbed", flush=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def inside_saves(bench: Bench, every: int) -> None:
    """Faults at the calls by which a run changes the disk."""
    arguments = bench.arguments(bench.folder / "short", 3, "squeezenet")
    counted = bench.folder / "calls"
    process = bench.start(arguments, _at_call, -1, "count", str(counted))
    process.join()
    whole, calls = weights(bench.folder / "short"), counted.stat().st_size
    done = 0
    for mode in MODES:
        for number in range(1 + done % every, calls + 1, every):
            model_dir = bench.folder / "call"
            shutil.rmtree(model_dir, ignore_errors=True)
            arguments = bench.arguments(model_dir, 3, "squeezenet")
            what = f"{mode} at call {number} of {calls}"
            process = bench.start(arguments, _at_call, number, mode, os.devnull)
            process.join()
            if process.exitcode not in ((0, 75) if mode == "disk full" else (KILLED,)):
                raise Different(f"{what}: exit code {process.exitcode}, see {model_dir}.")
            check(what, whole, bench.finish(arguments, what))
            done += 1
    print(f"{done} faults at {calls} writes, fsyncs and renames: all as undisturbed", flush=True)
    model_dir = bench.folder / "limit"
    arguments = bench.arguments(model_dir, 3, "squeezenet")
    process = bench.start(arguments, _limit_files, 4096)
    process.join()
    if process.exitcode != 75:
        raise Different(f"files limited to 4 kB: exit code {process.exitcode}, see {model_dir}.")
    check("files limited to 4 kB", whole, bench.finish(arguments, "files limited to 4 kB"))
    print("files limited to 4 kB: left with 75, then as undisturbed", flush=True)


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _at_call(number: int, mode: str, counted: str) -> None:
    """Makes the `number`-th fsync, rename or write of arrays go wrong; `counted` grows by each."""
    import numpy as np

    calls = 0

    def faulty(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            with open(counted, "ab") as file:
                file.write(b".")
            if calls == number and mode == "disk full":
                raise OSError(errno.ENOSPC, "No space left on device")
            if calls == number and mode == "killed before":
                os._exit(KILLED)
            result = function(*arguments, **options)
            if calls == number and mode == "killed after":
                os._exit(KILLED)
            return result

        return call

    for module, name in ((os, "fsync"), (os, "replace"), (np, "savez")):
        setattr(module, name, faulty(getattr(module, name)))


def flip(bench: Bench, chance: random.Random, times: int = 3) -> None:
    """A byte of the newest checkpoint is another."""
    whole = weights(bench.folder / "short")
    start = bench.folder / "flip"
    bench.finish(bench.arguments(start, 2, "squeezenet"), "two epochs")
    newest = checkpoint.steps(start / "checkpoints")[-1]
    names = [path.name for path in (start / "checkpoints" / f"step-{newest:08d}").iterdir()]
    for name in names * times:
        model_dir = bench.folder / "flipped"
        shutil.rmtree(model_dir, ignore_errors=True)
        shutil.copytree(start, model_dir)
        path = model_dir / "checkpoints" / f"step-{newest:08d}" / name
        content = bytearray(path.read_bytes())
        place = chance.randrange(len(content))
        content[place] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        what = f"byte {place} of {name} flipped"
        check(what, whole, bench.finish(bench.arguments(model_dir, 3, "squeezenet"), what))
        if f"step-{newest:08d}" not in (model_dir / "train.log").read_text():
            raise Different(f"{what}: nobody has said so.")
    print(f"{times} flipped bytes in each of {sorted(names)}: named, as undisturbed", flush=True)


class Workers:
    """Several workers on this machine, as processes of their own."""

    def __init__(self, arguments: list[str], count: int):
        from tests import tiny

        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "squeezenext.train", *arguments[1:]],
                env=tiny.environment(TF_CONFIG=config),
                stderr=subprocess.PIPE,
                text=True,
            )
            for config in tiny.tf_configs(count)
        ]

    def finish(self, what: str) -> None:
        for index, process in enumerate(self.processes):
            errors = process.communicate(timeout=600)[1]
            if process.returncode != 0:
                raise Different(f"{what}: worker {index} ended with {process.returncode}: {errors}")


def workers(bench: Bench, count: int, chance: random.Random) -> None:
    """Each of `count` workers is killed, and each is stopped, in turn."""
    more = ("--batch_size", str(8 * count), "--set", "training.synchronized_batch_norm=False")
    arguments = bench.arguments(bench.folder / f"workers-{count}", 60, "squeezenext", *more)
    Workers(arguments, count).finish("undisturbed")
    whole = weights(bench.folder / f"workers-{count}")
    slowest = 0.0
    for kind in (signal.SIGKILL, signal.SIGSTOP):
        for culprit in range(count):
            what = f"{kind.name} of worker {culprit} of {count}"
            model_dir = bench.folder / "workers"
            shutil.rmtree(model_dir, ignore_errors=True)
            arguments = bench.arguments(model_dir, 60, "squeezenext", *more)
            group = Workers(arguments, count).processes
            while not checkpoint.steps(model_dir / "checkpoints"):
                if any(process.poll() is not None for process in group):
                    raise Different(f"{what}: a worker ended before its time.")
                time.sleep(0.05)
            time.sleep(chance.uniform(0, 1))
            group[culprit].send_signal(kind)
            sent = time.monotonic()
            for index, process in enumerate(group):
                if index == culprit:
                    continue
                errors = process.communicate(timeout=10 * LEAVE_SECONDS)[1]
                took = time.monotonic() - sent
                slowest = max(slowest, took)
                named = f"orker {culprit} (127" in errors.splitlines()[-1]
                if process.returncode != 75 or not named or took > LEAVE_SECONDS:
                    raise Different(
                        f"{what}: worker {index} left after {took:.0f} s with "
                        f"{process.returncode}: {errors[-2000:]}"
                    )
            group[culprit].kill()
            group[culprit].communicate()
            Workers(arguments, count).finish(what)
            check(what, whole, weights(model_dir))
    print(
        f"{count} workers, each killed and each stopped: the others name it and leave within "
        f"{slowest:.0f} s, and end as undisturbed",
        flush=True,
    )


def main() -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_integer("kills", 50, "SIGKILLs at random moments.", 0, **at)
    flags.DEFINE_integer("every", 4, "Of the writes, fsyncs and renames; 0: none.", 0, **at)
    flags.DEFINE_list("workers", ["2", "3"], "Numbers of workers.", **at)
    flags.DEFINE_integer("seed", 0, "Of the moments.", **at)
    flags.DEFINE_string("folder", None, "Where to work; default: a temporary one.", **at)

    def command(values, _):
        FORKS.set_forkserver_preload(["squeezenext.training.job", "squeezenext.train"])
        chance = random.Random(values["seed"].value)
        with tempfile.TemporaryDirectory(dir=values["folder"].value) as folder:
            bench = Bench(Path(folder))
            if values["every"].value:
                inside_saves(bench, values["every"].value)
                flip(bench, chance)
            if values["kills"].value:
                kill(bench, values["kills"].value, chance)
            for count in values["workers"].value:
                workers(bench, int(count), chance)

    return command_line.run(command, values, __doc__)


if __name__ == "__main__":
    sys.exit(main())
