"""Disk faults while a run saves: calls that fail or end the process, limits, flipped bytes."""

import errno
import json
import os
import random
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.faults.train_bench import SHORT, Bench, Different, check, last_words, newest

FULL = ("disk full", "disk full half-way")
KILLS = ("killed before", "killed half-way", "killed after")
KILLED = 137
FLIPS = 3  # in each file
LIMIT = 16 << 10  # bytes; a checkpoint has 27 kB, and AutoGraph writes 5 kB of source


def inside_saves(bench: Bench, every: int) -> int:
    """Disturbs the calls by which a run changes the disk, see `at_call`.

    Returns:
      The number of faults, each of which has happened.
    """
    whole, calls, done = bench.undisturbed(SHORT), bench.folder / "calls", 0
    for mode in (*FULL, *KILLS):
        arguments = bench.arguments(bench.empty("counted"), SHORT)
        _, count = _disturbed(bench, arguments, -1, mode, calls)
        for number in range(1 + done % every, count + 1, every):
            arguments = bench.arguments(bench.empty("call"), SHORT)
            what = f"{mode} at call {number} of {count}"
            process, made = _disturbed(bench, arguments, number, mode, calls)
            if made < number:
                raise Different(f"{what}: the run made {made} calls.")
            if process.exitcode not in ((0, 75) if mode in FULL else (KILLED,)):
                raise Different(f"{what}: exit code {process.exitcode}: {last_words(process)}")
            check(what, whole, bench.finish(arguments, what))
            done += 1
    return done


def _disturbed(bench: Bench, arguments: list[str], number: int, mode: str, calls: Path):
    """Runs with a fault and returns the process and the number of its calls."""
    calls.unlink(missing_ok=True)
    process = bench.start(arguments, at_call, number, mode, calls)
    process.join()
    return process, calls.stat().st_size


def at_call(number: int, mode: str, counted: Path) -> None:
    """Disturbs the `number`-th call that changes the disk; `counted` grows a byte by each.

    The calls are numpy's savez, Path.write_text and write_bytes, os.fsync and os.replace, and, if
    the process is killed, shutil.rmtree and Path.unlink (removing needs no room). TensorBoard's
    writer, the log, the lock and TensorFlow's own files are not among them.
    """
    import numpy as np

    from squeezenext.train import run

    run.MAX_CALL_STEPS = 1  # else the number of saves depends on the clock
    calls = 0
    write_bytes = Path.write_bytes

    def faulty(function: Callable, half: Callable):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            with open(counted, "ab") as file:
                file.write(b".")
            if calls != number:
                return function(*arguments, **options)
            if mode.endswith("half-way"):
                half(*arguments, **options)
            if mode in FULL:
                raise OSError(errno.ENOSPC, "No space left on device")
            if mode == "killed after":
                function(*arguments, **options)
            os._exit(KILLED)

        return call

    def nothing(*_, **__) -> None:
        return None

    np.savez = faulty(np.savez, lambda file, **state: file.write(b"PK\x03\x04 and then nothing"))
    Path.write_text = faulty(Path.write_text, lambda path, *_: write_bytes(path, b'{"sha'))
    Path.write_bytes = faulty(write_bytes, lambda path, content: write_bytes(path, content[:9]))
    for name in ("fsync", "replace"):
        setattr(os, name, faulty(getattr(os, name), nothing))
    if mode not in FULL:
        shutil.rmtree = faulty(shutil.rmtree, _remove_half)
        Path.unlink = faulty(Path.unlink, nothing)


def _remove_half(path: Path, **_) -> None:
    for file in sorted(Path(path).glob("*"))[:1]:
        os.unlink(file)


def limited(bench: Bench) -> int:
    """The kernel itself refuses to write more than some bytes of each file."""
    whole = bench.undisturbed(SHORT)
    arguments = bench.arguments(bench.empty("limit"), SHORT)
    process = bench.start(arguments, limit_files)
    process.join()
    if process.exitcode != 75:
        raise Different(f"files of 16 kB: exit code {process.exitcode}: {last_words(process)}")
    check("files of 16 kB", whole, bench.finish(arguments, "files of 16 kB"))
    return 1


def no_room() -> None:
    """Makes every write of a checkpoint or a heartbeat fail."""
    import numpy as np

    from squeezenext.train import cluster

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    np.savez = cluster.Heartbeat.write = full


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def flips(bench: Bench, chance: random.Random) -> int:
    """Flips a bit in each file of the newest checkpoint in turn.

    The run must go on from the checkpoint before, as it does where the newest is gone.
    """
    start, older = bench.empty("flip"), bench.empty("older")
    bench.finish(bench.arguments(start, SHORT - 1), "before the flip")
    shutil.copytree(start, older)
    shutil.rmtree(newest(older))
    whole = bench.finish(bench.arguments(older, SHORT), "from the checkpoint before")
    names = sorted(path.name for path in newest(start).iterdir())
    for name in names * FLIPS:
        model_dir = bench.empty("flipped")
        shutil.copytree(start, model_dir)
        folder = newest(model_dir)
        what = f"byte {flip(folder / name, chance)} of {name} flipped"
        arguments = bench.arguments(model_dir, SHORT)
        check(what, whole, bench.finish(arguments, what))
        if folder.name not in (model_dir / "train.log").read_text():
            raise Different(f"{what}: the log does not say so.")
    return FLIPS * len(names)


def flip(path: Path, chance: random.Random) -> int:
    """Flips a bit of a file such that JSON changes its meaning; returns the byte's position."""
    before = path.read_bytes()
    while True:
        content = bytearray(before)
        place = chance.randrange(len(content))
        content[place] ^= 1 << chance.randrange(8)
        if path.suffix != ".json" or _meaning(content) != _meaning(before):
            path.write_bytes(content)
            return place


def _meaning(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None
