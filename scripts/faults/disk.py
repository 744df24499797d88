"""Disk faults during a conversion: calls that fail or end the process, limits, a full disk.

Each one is tried on a new conversion; the next run must end with the undisturbed bytes.
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

from scripts.faults import convert_bench
from squeezenext import files as twins
from squeezenext.convert import commit, plan

MODES = {"disk full": 75, "input/output error": 2, "killed before": -9, "killed half-way": -9}
_TOKEN = re.compile(r"\.[0-9a-f]{16}\.tmp$")  # of a draft's name
_OTHER_CALLS = 98  # exit code of a run that did not make the calls of the one before


def at_every_call(
    source: Path, output: Path, whole: convert_bench.Hashes, every: int, **options
) -> None:
    """Makes each call fail, or end the process, each time in a new conversion."""
    calls = _calls(source, output, options)
    done = 0
    for mode, wanted in MODES.items():
        for number in range(0, len(calls), every):
            shutil.rmtree(output, ignore_errors=True)
            what = f"{mode} at call {number + 1} of {len(calls)}, {calls[number]}"
            code = convert_bench.forked(
                lambda n=number, m=mode: _with_fault(source, output, calls, n, m, options)
            )
            # What cannot be linked is copied, and that is no fault.
            copied = code == 0 and calls[number].startswith("link ")
            if code != wanted and not copied:
                raise convert_bench.Different(f"{what}: the exit code is {code}, not {wanted}.")
            convert_bench.check(what, output, whole, finished=copied)
            if convert_bench.forked(lambda: convert_bench.plainly(source, output, **options)) != 0:
                raise convert_bench.Different(f"{what}: the second run failed.")
            convert_bench.check(what, output, whole, finished=True)
            done += 1
    kinds = ", ".join(sorted({call.split()[0] for call in calls}))
    print(f"{done} faults at {len(calls)} calls ({kinds}): all as undisturbed", flush=True)


def _calls(source: Path, output: Path, options: dict) -> list[str]:
    """Returns the calls by which an undisturbed conversion changes the disk, in order."""
    listed = output.parent / "calls.txt"

    def count() -> int:
        names: list[str] = []
        _stand_before(lambda name, call, *arguments: (names.append(name), call(*arguments))[1])
        code = convert_bench.plainly(source, output, **options)
        listed.write_text("\n".join(names))
        return code

    if convert_bench.forked(count) != 0:
        raise convert_bench.Different(f"{output} cannot be converted at all.")
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
    return convert_bench.plainly(source, output, **options)


def _stand_before(wrapper: Callable) -> None:
    """Replaces the system's calls by `wrapper("call file", call, *arguments)`.

    These are the calls that create, fill, flush, close, link and rename files of the conversion.
    Thread pools run in the calling thread, so that each run makes the same calls in the same order.
    """
    files: dict[int, str] = {}  # open for writing, by descriptor
    calls = {name: getattr(os, name) for name in ("open", "close", "fsync", "link")}

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
    os.fsync = of_descriptor("fsync", calls["fsync"])
    os.link, os.replace = of_target("link", calls["link"]), of_target("replace", os.replace)
    twins.writev = of_descriptor("writev", twins.writev)
    twins.fdatasync = of_descriptor("fdatasync", twins.fdatasync)
    commit._GATHER_BYTES, commit._SYNC_BYTES = 8_000, 16_000  # several writes a shard
    concurrent.futures.ThreadPoolExecutor = _AtOnce


class _AtOnce:
    """A thread pool that runs everything in the calling thread."""

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


def too_large(source: Path, output: Path, whole: convert_bench.Hashes) -> None:
    """Limits the size of files by RLIMIT_FSIZE, like a disk that fills up during a write."""
    largest = max(path.stat().st_size for path in (output.parent / "whole").iterdir())
    sizes = (0, 1, 1_000, largest // 2, largest - 1)
    for size in sizes:
        shutil.rmtree(output, ignore_errors=True)
        if (code := convert_bench.forked(lambda s=size: _limited(source, output, s))) != 75:
            raise convert_bench.Different(
                f"files of at most {size} bytes: exit code {code}, not 75."
            )
        convert_bench.check(f"limit {size}", output, whole, finished=False)
        convert_bench.forked(lambda: convert_bench.plainly(source, output))
        convert_bench.check(f"limit {size}", output, whole, finished=True)
    print(f"{len(sizes)} limits on the size of files: all as undisturbed", flush=True)


def _limited(source: Path, output: Path, size: int) -> int:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return convert_bench.plainly(source, output)


def full(source: Path, output: Path, whole: convert_bench.Hashes) -> None:
    """Fills a small file system, so that the kernel itself reports that no space is left."""
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


def _fill_up(source: Path, output: Path, whole: convert_bench.Hashes, left: int) -> None:
    """Takes all but `left` bytes right after the converter has checked the free space."""
    filler = output / ".filler"

    def fill(*_) -> None:
        filler.write_bytes(bytes(commit.free_bytes(output) - left))

    def filled() -> int:
        commit.check_room = fill
        return convert_bench.plainly(source, output)

    if (code := convert_bench.forked(filled)) != 75:
        raise convert_bench.Different(f"a disk with {left} bytes left: exit code {code}, not 75.")
    convert_bench.check(f"{left} bytes left", output, whole, finished=False)
    if drafts := list((output / commit.WORK).glob("*.tmp")):
        raise convert_bench.Different(f"{left} bytes left: {drafts[0]} stays and takes space.")
    filler.unlink()
    if convert_bench.forked(lambda: convert_bench.plainly(source, output)) != 0:
        raise convert_bench.Different(f"{left} bytes left: the second run failed.")
    convert_bench.check(f"{left} bytes left", output, whole, finished=True)
    for path in output.iterdir():
        if path.is_file():
            path.unlink()
