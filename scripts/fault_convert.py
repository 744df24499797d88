"""Disturbs conversions in every way known and compares what comes out with an undisturbed one.

    python scripts/fault_convert.py [--kills 50] [--every 1] [--pairs 20] [--folder DIR]

In turn: every write, fsync and rename fails (disk full, I/O error) or is the last thing the
process does (before it, after half of it); SIGKILL at random moments with two workers while a
reader watches; a limit on the size of files; two converters at once. After each the same
command is run again, and every file must be the undisturbed one's, bit for bit. Exit code 0:
so it was; 1: it was not, and the first difference is told.
"""

import errno
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets.convert import convert  # noqa: E402
from squeezenext import flags as command_line  # noqa: E402
from squeezenext.errors import InputError, RunAgain, SomeInputsFailed  # noqa: E402

OPTIONS = {"layout": "folder", "show_progress": False, "train_shards": 3, "workers": 1}
CALLS = ("writev", "fsync", "replace")  # all by which a conversion changes the disk
MODES = ("disk full", "input/output error", "killed before", "killed half-way")
Hashes = dict[str, str]


class Different(SomeInputsFailed):
    """A disturbed conversion left something else than an undisturbed one."""


def main_work(folder: Path, kills: int, every: int, pairs: int, seed: int) -> None:
    """Does all of it; prints a line for each kind of fault."""
    source = _photos(folder / "photos", 24)
    whole = _undisturbed(source, folder / "whole")
    _at_every_call(source, folder / "calls", whole, every)
    _too_large(source, folder / "limit", whole)
    larger = _photos(folder / "larger", 240)
    arguments = {"train_shards": 60, "workers": 2}
    whole = _undisturbed(larger, folder / "whole-larger", **arguments)
    _killed(larger, folder / "killed", whole, kills, random.Random(seed))
    _two_at_once(larger, folder / "pair", whole, pairs)


def _photos(folder: Path, count: int) -> Path:
    """Writes pictures of noise in three classes, and one file that is none."""
    for number in range(count):
        path = folder / "abc"[number % 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(noise).save(path, quality=90)
    (folder / "a" / "broken.jpg").write_text("this is no picture\n")
    return folder


def _undisturbed(source: Path, output: Path, **options) -> Hashes:
    convert(source, output, **OPTIONS | options)
    return hashes(output)


def hashes(folder: Path) -> Hashes:
    """Returns the SHA-256 of every file that readers see."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith("."):
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def check(what: str, output: Path, whole: Hashes, finished: bool | None) -> None:
    """Compares what readers see with the undisturbed files; None: at a moment of its work.

    Raises:
      Different: a file is partial or another one, or, when `finished`, missing.
    """
    found = hashes(output)
    for name in sorted(found):
        if found[name] != whole.get(name):
            raise Different(f"{what}: {output / name} is not the undisturbed one.")
    if finished and found != whole:
        raise Different(f"{what}: {output} lacks {sorted(set(whole) - set(found))[0]}.")
    if finished is False and "manifest.json" in found and found != whole:
        raise Different(f"{what}: {output} has a manifest but not all of its files.")


def _at_every_call(source: Path, output: Path, whole: Hashes, every: int) -> None:
    calls = _forked(lambda: _count(source, output))
    done = 0
    for mode in MODES:
        for number in range(1, calls + 1, every):
            shutil.rmtree(output, ignore_errors=True)
            what = f"{mode} at call {number} of {calls}"
            code = _forked(lambda n=number, m=mode: _with_fault(source, output, n, m))
            if code == 0:
                raise Different(f"{what}: the fault was not noticed.")
            check(what, output, whole, finished=False)
            if _forked(lambda: _plainly(source, output)) != 0:
                raise Different(f"{what}: the second run failed.")
            check(what, output, whole, finished=True)
            done += 1
    print(f"{done} faults at {calls} writes, fsyncs and renames: all as undisturbed", flush=True)


def _forked(work: Callable[[], int]) -> int:
    """Returns the exit code of `work` done in a child process, which may die of it."""
    child = os.fork()
    if not child:
        code = 99
        try:
            sys.stderr = open(os.devnull, "w")
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _plainly(source: Path, output: Path) -> int:
    try:
        convert(source, output, **OPTIONS)
    except RunAgain:
        return 75
    except InputError:
        return 2
    return 0


def _count(source: Path, output: Path) -> int:
    counter = iter(range(1, 10_000))
    last = [0]

    def counted(_name: str, call: Callable, *arguments):
        last[0] = next(counter)
        return call(*arguments)

    _replace_calls(counted)
    return last[0] if _plainly(source, output) == 0 else 99


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
    return _plainly(source, output)


def _replace_calls(wrapper: Callable) -> None:
    """Puts `wrapper(name, call, *arguments)` before the operating system's calls."""
    from datasets import writer

    for name in CALLS:
        call = getattr(os, name)
        setattr(os, name, lambda *args, n=name, c=call: wrapper(n, c, *args))
    writer._GATHER_BYTES = 8_000  # several writes a shard


def _too_large(source: Path, output: Path, whole: Hashes) -> None:
    """RLIMIT_FSIZE stands for a disk that fills up while a file is written."""
    largest = max(path.stat().st_size for path in (output.parent / "whole").iterdir())
    sizes = (0, 1, 1_000, largest // 2, largest - 1)
    for size in sizes:
        shutil.rmtree(output, ignore_errors=True)
        if (code := _forked(lambda s=size: _limited(source, output, s))) != 75:
            raise Different(f"files of at most {size} bytes: exit code {code}, not 75.")
        check(f"limit {size}", output, whole, finished=False)
        _forked(lambda: _plainly(source, output))
        check(f"limit {size}", output, whole, finished=True)
    print(f"{len(sizes)} limits on the size of files: all as undisturbed", flush=True)


def _limited(source: Path, output: Path, size: int) -> int:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return _plainly(source, output)


def _started(source: Path, output: Path) -> subprocess.Popen:
    line = [sys.executable, "-m", "datasets.convert", "--layout=folder", "--workers=2"]
    line += [f"--source={source}", f"--output={output}", "--train_shards=60"]
    return subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)


def _killed(source: Path, output: Path, whole: Hashes, kills: int, chance: random.Random) -> None:
    """Kills one process after another, over one output, while a reader looks on."""
    done = finished = 0
    while done < kills:
        if not output.exists() or "manifest.json" in hashes(output):
            shutil.rmtree(output, ignore_errors=True)
        until = time.monotonic() + chance.uniform(0.2, 1.6)
        with _started(source, output) as process:
            while time.monotonic() < until and process.poll() is None:
                check("while it runs", output, whole, finished=None)
            process.kill()
        done += 1
        check("after a kill", output, whole, finished=False)
        finished += "manifest.json" in hashes(output)
        if done % 5 == 0:
            convert(source, output, **OPTIONS | {"train_shards": 60})
            check("after the last run", output, whole, finished=True)
    convert(source, output, **OPTIONS | {"train_shards": 60})
    check("after the last run", output, whole, finished=True)
    print(f"{kills} kills, {finished} of them too late: all as undisturbed", flush=True)


def _two_at_once(source: Path, output: Path, whole: Hashes, pairs: int) -> None:
    busy = 0
    for _ in range(pairs):
        shutil.rmtree(output, ignore_errors=True)
        with _started(source, output) as first, _started(source, output) as second:
            codes = sorted((first.wait(), second.wait()))
        if codes not in ([1, 75], [1, 1]):  # 1: the file that is no picture was told
            raise Different(f"two at once ended with the exit codes {codes}, not 1 and 75.")
        busy += codes == [1, 75]
        check("two at once", output, whole, finished=True)
    print(f"{pairs} pairs at once, {busy} of them told to wait: all as undisturbed", flush=True)


def _folder(name: str | None) -> Iterator[Path]:
    if name:
        yield Path(name)
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def main(argv=None) -> int:
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_integer("kills", 50, "SIGKILLs at random moments.", **own)
    flags.DEFINE_integer("every", 1, "Of the file calls: every so-many-th fails.", **own)
    flags.DEFINE_integer("pairs", 20, "Converters started two at once.", **own)
    flags.DEFINE_integer("seed", 0, "Of the random moments.", **own)
    flags.DEFINE_string("folder", None, "Folder for the data; default a temporary one.", **own)

    def command(values, _):
        numbers = (values[name].value for name in ("kills", "every", "pairs", "seed"))
        for folder in _folder(values["folder"].value):
            main_work(folder, *numbers)

    return command_line.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
