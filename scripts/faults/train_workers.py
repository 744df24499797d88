"""Faults of several workers: killed, stopped, paused, started twice, a full disk, NaN."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.faults import train_disk as fault_train_disk
from scripts.faults.train_bench import Bench, Different, check, last_words, newest, weights
from squeezenext.model import checkpoint

LEAVE_SECONDS = 30
PAUSE_SECONDS = 20  # longer than a worker may be silent
EPOCHS = 60


class Group:
    """Runs of several workers on this machine."""

    def __init__(self, bench: Bench, count: int):
        from tests import tiny

        self._bench, self.count, self.configs = bench, count, tiny.tf_configs
        more = ("--batch_size", str(8 * count), "--set", "training.synchronized_batch_norm=False")
        self._more = more
        whole = self.arguments(bench.empty(f"workers-{count}"))
        self.finish(whole, "undisturbed")
        self.whole = weights(bench.folder / f"workers-{count}")

    def arguments(self, model_dir: Path, *more: str) -> list[str]:
        options = (*self._more, *more)
        return self._bench.arguments(model_dir, EPOCHS, *options, network="squeezenext")

    def start(self, arguments: list[str], fault=None) -> list:
        configs = self.configs(self.count)
        return [self._bench.start(arguments, fault, config=config) for config in configs]

    def finish(self, arguments: list[str], what: str) -> None:
        for index, process in enumerate(self.start(arguments)):
            process.join(600)
            if process.exitcode != 0:
                told = last_words(process)
                raise Different(f"{what}: worker {index} ended with {process.exitcode}: {told}")

    def resumed(self, arguments: list[str], what: str) -> None:
        """Starts all workers again and compares the weights."""
        self.finish(arguments, what)
        model_dir = Path(arguments[arguments.index("--model_dir") + 1])
        check(what, self.whole, weights(model_dir))

    def begun(self, model_dir: Path, what: str, checkpoints: int = 2) -> tuple[list[str], list]:
        """Starts a run and returns once it has saved a number of checkpoints."""
        arguments = self.arguments(model_dir)
        processes = self.start(arguments)
        while len(checkpoint.steps(model_dir / "checkpoints")) < checkpoints:
            if ended := [process for process in processes if process.exitcode is not None]:
                raise Different(f"{what}: a worker ended before its time: {last_words(ended[0])}")
            time.sleep(0.05)
        return arguments, processes


def lost(bench: Bench, group: Group, chance: random.Random) -> tuple[int, float]:
    """Kills and stops each worker in turn; a kill is followed by damage to the checkpoint.

    Returns:
      The number of faults, and the longest that any other worker took to leave, in seconds.
    """
    slowest, done = 0.0, 0
    for kind in (signal.SIGKILL, signal.SIGSTOP):
        for culprit in range(group.count):
            what = f"{kind.name} of worker {culprit} of {group.count}"
            model_dir = bench.empty("lost")
            arguments, processes = group.begun(model_dir, what)
            time.sleep(chance.uniform(0, 1))
            os.kill(processes[culprit].pid, kind)
            slowest = max(slowest, _leaving(processes, culprit, what))
            processes[culprit].kill()
            processes[culprit].join()
            if kind == signal.SIGKILL:
                fault_train_disk.flip(newest(model_dir) / "state.npz", chance)
            group.resumed(arguments, what)
            done += 1
    return done, slowest


def _leaving(processes: list, culprit: int, what: str) -> float:
    """Waits until the other workers have left and returns the seconds that it took."""
    sent, slowest = time.monotonic(), 0.0
    for index, process in enumerate(processes):
        if index == culprit:
            continue
        process.join(10 * LEAVE_SECONDS)
        took = time.monotonic() - sent
        slowest = max(slowest, took)
        told = last_words(process)
        named = f"orker {culprit} (127" in told.splitlines()[-1]
        if process.exitcode != 75 or not named or took > LEAVE_SECONDS:
            raise Different(
                f"{what}: worker {index} left after {took:.0f} s with {process.exitcode}: {told}"
            )
    return slowest


def started_twice(bench: Bench, group: Group) -> int:
    """Starts each worker a second time beside a healthy run, which must not notice."""
    model_dir = bench.empty("twice")
    arguments, processes = group.begun(model_dir, "started twice")
    for index, config in enumerate(group.configs(group.count)):
        second = bench.start(arguments, config=config)
        second.join(LEAVE_SECONDS)
        if second.exitcode != 75:
            raise Different(f"a second worker {index} ended with {second.exitcode}.")
    for process in processes:
        process.join()
        if process.exitcode != 0:
            raise Different(f"started twice: {last_words(process)}")
    check("started twice", group.whole, weights(model_dir))
    return group.count


def paused(bench: Bench, group: Group) -> int:
    """Pauses all workers: they then train on, or TensorFlow's heartbeat ends all of them."""
    model_dir = bench.empty("paused")
    arguments, processes = group.begun(model_dir, "paused")
    for kind in (signal.SIGSTOP, signal.SIGCONT):
        for process in processes:
            os.kill(process.pid, kind)
        time.sleep(PAUSE_SECONDS if kind == signal.SIGSTOP else 0)
    for index, process in enumerate(processes):
        process.join()
        told = last_words(process)
        if process.exitcode not in (0, 75) or "has not answered" in told:
            raise Different(f"paused: worker {index} ended with {process.exitcode}: {told}")
    group.resumed(arguments, "paused")
    return 1


def without_room(bench: Bench, group: Group) -> int:
    """Fills the disk: all workers train to the end and leave with 75; nobody is blamed."""
    model_dir = bench.empty("room")
    arguments = group.arguments(model_dir)
    processes = group.start(arguments, fault_train_disk.no_room)
    steps = EPOCHS * 64 // (8 * group.count)  # of 64 images, 8 a worker
    for index, process in enumerate(processes):
        process.join()
        told = last_words(process)
        if process.exitcode != 75 or f"Step {steps} cannot be saved" not in told:
            raise Different(f"without room: worker {index}, {process.exitcode}: {told}")
    group.resumed(arguments, "without room")
    return 1


def not_finite(bench: Bench, group: Group) -> int:
    """Makes a gradient not finite: all workers leave with 1 and do not blame each other."""
    wild = ("--set", "training.learning_rate=1e30", "--set", "training.warmup_epochs=0.0")
    processes = group.start(group.arguments(bench.empty("nan"), *wild))
    for index, process in enumerate(processes):
        process.join()
        told = last_words(process)
        if process.exitcode != 1 or "is not finite" not in told.splitlines()[-1]:
            raise Different(f"NaN: worker {index} ended with {process.exitcode}: {told}")
    return 1


def planted(bench: Bench) -> int:
    """Plants NaN on each replica of 2 and 4 devices and of 2 processes, see nan.py."""
    from tests import tiny

    replicas, folder = 0, bench.empty("planted")
    folder.mkdir()
    tiny.shard(folder / "train-00000-of-00001", 40)
    for count, configs in ((2, [""]), (4, [""]), (2, tiny.tf_configs(2))):
        line = [sys.executable, "-m", "scripts.faults.nan", f"--folder={folder}"]
        line.append(f"--devices={count if configs == [''] else 0}")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
        processes = [
            subprocess.Popen(line, env=tiny.environment(TF_CONFIG=config), **pipes)
            for config in configs
        ]
        for process in processes:
            output, errors = process.communicate(timeout=600)
            if process.returncode != 0:
                raise Different(f"NaN, {count} replicas: {errors[-2000:]}")
            found = json.loads(output)
            if found["replicas"] != count or not found["unharmed"] or not found["scale_fell"]:
                raise Different(f"NaN, {count} replicas: {output}")
        replicas += count
    return replicas
