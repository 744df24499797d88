"""Faults of the disk: failing or last calls, limits, and a full disk.

Each is tried on a conversion of its own; the next run must end with the undisturbed bytes.
"""

import concurrent.futures
import errno
import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.faults import setup as fault_setup
from squeezenext.convert import commit, plan

MODES = {"disk full": 75, "input/output error": 2, "killed before": -9, "killed half-way": -9}
_TOKEN = re.compile(r"\.[0-9a-f]{16}\.tmp$")  # of a draft's name
_OTHER_CALLS = 98  # exit code of a run that did not make the calls of the one before


def at_every_call(
    source: Path, output: Path, whole: fault_setup.Hashes, every: int, **options
) -> None:
    """Lets each call fail, or be the last of the process, each time on a conversion of its own."""
    calls = _calls(source, output, options)
    done = 0
    for mode, wanted in MODES.items():
        for number in range(0, len(calls), every):
            shutil.rmtree(output, ignore_errors=True)
            what = f"{mode} at call {number + 1} of {len(calls)}, {calls[number]}"
            code = fault_setup.forked(
                lambda n=number, m=mode: _with_fault(source, output, calls, n, m, options)
            )
            # What cannot be linked is copied, and that is no fault.
            copied = code == 0 and calls[number].startswith("link ")
            if code != wanted and not copied:
                raise fault_setup.Different(f"{what}: the exit code is {code}, not {wanted}.")
            fault_setup.check(what, output, whole, finished=copied)
            if fault_setup.forked(lambda: fault_setup.plainly(source, output, **options)) != 0:
                raise fault_setup.Different(f"{what}: the second run failed.")
            fault_setup.check(what, output, whole, finished=True)
            done += 1
    kinds = ", ".join(sorted({call.split()[0] for call in calls}))
    print(f"{done} faults at {len(calls)} calls ({kinds}): all as undisturbed", flush=True)


def _calls(source: Path, output: Path, options: dict) -> list[str]:
    """Returns the calls by which an undisturbed conversion changes the disk, in their order."""
    listed = output.parent / "calls.txt"

    def count() -> int:
        names: list[str] = []
        _stand_before(lambda name, call, *arguments: (names.append(name), call(*arguments))[1])
        code = fault_setup.plainly(source, output, **options)
        listed.write_text("\n".join(names))
        return code

    if fault_setup.forked(count) != 0:
        raise fault_setup.Different(f"{output} cannot be converted at all.")
    return listed.read_text().splitlines()


def _with_fault(
    source: Path, output: Path, calls: list[str], number: int, mode: str, options: dict
) -> int:
    counter = itertools.count()

    def faulty(name: str, call: Callable, *arguments):
        if (place := next(counter)) > number:
            return call(*arguments)
        if name != calls[place]:
            os._exit(_OTHER_CALLS)
        if place < number:
            return call(*arguments)
        if mode == "killed half-way" and name.startswith("writev "):
            os.write(arguments[0], bytes(arguments[1][0])[: len(arguments[1][0]) // 2])
        elif mode == "killed half-way" or name.startswith("close "):
            call(*arguments)
        if mode.startswith("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC if mode == "disk full" else errno.EIO, mode)

    _stand_before(faulty)
    return fault_setup.plainly(source, output, **options)


def _stand_before(wrapper: Callable) -> None:
    """Puts `wrapper("call file", call, *arguments)` before the system's calls, for ever.

    They are those that make, fill, flush, close, link and rename the files of the conversion.
    What is else done in threads is done where it is asked for, so that each run makes the same
    calls in the same order.
    """
    files: dict[int, str] = {}  # open for writing, by descriptor
    calls = {name: getattr(os, name) for name in ("open", "close", "writev", "fsync", "link")}

    def opened(path, flags, *more, **named) -> int:
        def call() -> int:
            return calls["open"](path, flags, *more, **named)

        made = flags & os.O_CREAT and _is_ours(path)
        descriptor = wrapper(f"open {_name(path)}", call) if made else call()
        if flags & (os.O_WRONLY | os.O_RDWR) and _is_ours(path):
            files[descriptor] = _name(path)
        return descriptor

    def closed(descriptor) -> None:
        if name := files.pop(descriptor, None):
            wrapper(f"close {name}", calls["close"], descriptor)
        else:
            calls["close"](descriptor)

    def of_descriptor(kind: str, call: Callable) -> Callable:
        return lambda descriptor, *more: wrapper(
            f"{kind} {files.get(descriptor, 'a folder')}", call, descriptor, *more
        )

    def of_target(kind: str, call: Callable) -> Callable:
        return lambda path, target: (
            wrapper(f"{kind} {_name(target)}", call, path, target)
            if _is_ours(target)
            else call(path, target)
        )

    os.open, os.close = opened, closed
    os.writev, os.fsync = (of_descriptor(name, calls[name]) for name in ("writev", "fsync"))
    os.link, os.replace = of_target("link", calls["link"]), of_target("replace", os.replace)
    commit._sync = of_descriptor("fdatasync", commit._sync)
    commit._GATHER_BYTES, commit._SYNC_BYTES = 8_000, 16_000  # several writes a shard
    concurrent.futures.ThreadPoolExecutor = _AtOnce


class _AtOnce:
    """A pool that does all in the calling thread."""

    def __init__(self, *_) -> None:
        pass

    def submit(self, function: Callable, *arguments) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:  # told where the result is asked for, as a thread's is
            future.set_exception(error)
        return future

    def shutdown(self, **_) -> None:
        pass


def _is_ours(path) -> bool:
    return not os.path.basename(path).startswith(plan.LOCK)


def _name(path) -> str:
    return _TOKEN.sub("", os.path.basename(path))


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
        filler.write_bytes(bytes(commit.free_bytes(output) - left))

    def filled() -> int:
        commit.check_room = fill
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
