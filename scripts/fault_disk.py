"""Faults of the disk: calls that fail or are the process's last, limits, and a full disk.

Each is tried on a conversion of its own; the next run must end with the undisturbed bytes.
"""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets import commit, space, writer
from scripts import fault_setup

CALLS = ("writev", "fsync", "replace")  # all by which a conversion changes the disk
MODES = ("disk full", "input/output error", "killed before", "killed half-way")


def at_every_call(source: Path, output: Path, whole: fault_setup.Hashes, every: int) -> None:
    calls = fault_setup.forked(lambda: _count(source, output))
    done = 0
    for mode in MODES:
        for number in range(1, calls + 1, every):
            shutil.rmtree(output, ignore_errors=True)
            what = f"{mode} at call {number} of {calls}"
            code = fault_setup.forked(lambda n=number, m=mode: _with_fault(source, output, n, m))
            if code == 0:
                raise fault_setup.Different(f"{what}: the fault was not noticed.")
            fault_setup.check(what, output, whole, finished=False)
            if fault_setup.forked(lambda: fault_setup.plainly(source, output)) != 0:
                raise fault_setup.Different(f"{what}: the second run failed.")
            fault_setup.check(what, output, whole, finished=True)
            done += 1
    print(f"{done} faults at {calls} writes, fsyncs and renames: all as undisturbed", flush=True)


def _count(source: Path, output: Path) -> int:
    counter = iter(range(1, 10_000))
    last = [0]

    def counted(_name: str, call: Callable, *arguments):
        last[0] = next(counter)
        return call(*arguments)

    _replace_calls(counted)
    return last[0] if fault_setup.plainly(source, output) == 0 else 99


def _with_fault(source: Path, output: Path, number: int, mode: str) -> int:
    counter = iter(range(1, 10_000))

    def faulty(name: str, call: Callable, *arguments):
        if next(counter) != number:
            return call(*arguments)
        if mode.startswith("killed"):
            if mode == "killed half-way" and name == "writev":
                os.write(arguments[0], bytes(arguments[1][0])[: len(arguments[1][0]) // 2])
            elif mode == "killed half-way":
                call(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC if mode == "disk full" else errno.EIO, mode)

    _replace_calls(faulty)
    return fault_setup.plainly(source, output)


def _replace_calls(wrapper: Callable) -> None:
    """Puts `wrapper(name, call, *arguments)` before the operating system's calls."""
    for name in CALLS:
        call = getattr(os, name)
        setattr(os, name, lambda *args, n=name, c=call: wrapper(n, c, *args))
    writer._GATHER_BYTES = 8_000  # several writes a shard


def too_large(source: Path, output: Path, whole: fault_setup.Hashes) -> None:
    """RLIMIT_FSIZE stands for a disk that fills up while a file is written."""
    largest = max(path.stat().st_size for path in (output.parent / "whole").iterdir())
    sizes = (0, 1, 1_000, largest // 2, largest - 1)
    for size in sizes:
        shutil.rmtree(output, ignore_errors=True)
        if (code := fault_setup.forked(lambda s=size: _limited(source, output, s))) != 75:
            raise fault_setup.Different(f"files of at most {size} bytes: exit code {code}, not 75.")
        fault_setup.check(f"limit {size}", output, whole, finished=False)
        fault_setup.forked(lambda: fault_setup.plainly(source, output))
        fault_setup.check(f"limit {size}", output, whole, finished=True)
    print(f"{len(sizes)} limits on the size of files: all as undisturbed", flush=True)


def _limited(source: Path, output: Path, size: int) -> int:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return fault_setup.plainly(source, output)


def full(source: Path, output: Path, whole: fault_setup.Hashes) -> None:
    """Fills a file system of its own, so the kernel itself says that there is no space left."""
    output.mkdir()
    size = 2 * sum(path.stat().st_size for path in (output.parent / "whole").iterdir())
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", output]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        print("0 full disks: only root may mount one", flush=True)
        return
    try:
        lefts = (0, 8_192, size // 8, size // 4)
        for left in lefts:
            _fill_up(source, output, whole, left)
    finally:
        subprocess.run(["umount", output], check=True)
    print(f"{len(lefts)} full disks: all as undisturbed", flush=True)


def _fill_up(source: Path, output: Path, whole: fault_setup.Hashes, left: int) -> None:
    """Lets another program take all but `left` bytes right after the converter's own look."""
    filler = output / ".filler"

    def fill(*_) -> None:
        filler.write_bytes(bytes(space.free(output) - left))

    def filled() -> int:
        space.check = fill
        return fault_setup.plainly(source, output)

    if (code := fault_setup.forked(filled)) != 75:
        raise fault_setup.Different(f"a disk with {left} bytes left: exit code {code}, not 75.")
    fault_setup.check(f"{left} bytes left", output, whole, finished=False)
    if drafts := list((output / commit.WORK).glob("*.tmp")):
        raise fault_setup.Different(f"{left} bytes left: {drafts[0]} stays and takes space.")
    filler.unlink()
    if fault_setup.forked(lambda: fault_setup.plainly(source, output)) != 0:
        raise fault_setup.Different(f"{left} bytes left: the second run failed.")
    fault_setup.check(f"{left} bytes left", output, whole, finished=True)
    for path in output.iterdir():
        if path.is_file():
            path.unlink()
