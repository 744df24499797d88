"""Disturbs conversions in every known way and compares the results with an undisturbed one.

    python scripts/faults/convert.py [--kills 50] [--every 1] [--pairs 20] [--folder DIR]

The disturbances, in turn:
  every call that creates, fills, flushes, closes, links or renames a file fails (disk full, I/O
  error), or the process ends before or in the middle of it (all in one thread, so that no call is
  missed); SIGKILL at random moments with two workers, while a reader watches; a limit on the size
  of files; a full disk, if one can be mounted; two converters at once.
After each of them the same command is run again, and every file must equal that of the undisturbed
conversion. Exit code 0: all did; 1: the first difference is printed.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.faults import convert_bench
from scripts.faults import disk as fault_disk
from squeezenext import cli as command_line
from squeezenext.convert.command import convert
from squeezenext.convert.options import ConvertOptions


def main_work(folder: Path, kills: int, every: int, pairs: int, seed: int) -> None:
    """Tries all faults; prints a line for each kind."""
    source = convert_bench.photos(folder / "photos", 24)
    whole = convert_bench.undisturbed(source, folder / "whole")
    fault_disk.at_every_call(source, folder / "calls", whole, every)
    _adopted(folder / "whole", folder, every)
    fault_disk.too_large(source, folder / "limit", whole)
    fault_disk.full(source, folder / "full", whole)
    larger = convert_bench.photos(folder / "larger", 240)
    arguments = {"train_shards": 60, "workers": 2}
    whole = convert_bench.undisturbed(larger, folder / "whole-larger", **arguments)
    _killed(larger, folder / "killed", whole, kills, random.Random(seed))
    _two_at_once(larger, folder / "pair", whole, pairs)


def _adopted(whole: Path, folder: Path, every: int) -> None:
    """Tries --layout tfrecord, whose hard links fail, on the shards without their manifest."""
    source = folder / "shards"
    source.mkdir()
    for shard in whole.glob("*-of-*"):
        shutil.copy(shard, source)
    options = {"layout": "tfrecord", "train_shards": None}
    wanted = convert_bench.undisturbed(source, folder / "adopted", **options)
    fault_disk.at_every_call(source, folder / "adopting", wanted, every, **options)


def _started(source: Path, output: Path) -> subprocess.Popen:
    line = [sys.executable, "-m", "datasets.convert", "--layout=folder", "--workers=2"]
    line += [f"--source={source}", f"--output={output}", "--train_shards=60"]
    return subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)


def _killed(
    source: Path, output: Path, whole: convert_bench.Hashes, kills: int, chance: random.Random
) -> None:
    """Kills one process after another, all with one output, while a reader checks it."""
    done = finished = 0
    while done < kills:
        if not output.exists() or "manifest.json" in convert_bench.hashes(output):
            shutil.rmtree(output, ignore_errors=True)
        until = time.monotonic() + chance.uniform(0.2, 1.6)
        with _started(source, output) as process:
            while time.monotonic() < until and process.poll() is None:
                convert_bench.check("while it runs", output, whole, finished=None)
            process.kill()
        done += 1
        convert_bench.check("after a kill", output, whole, finished=False)
        finished += "manifest.json" in convert_bench.hashes(output)
        if done % 5 == 0:
            convert(source, output, ConvertOptions(**convert_bench.OPTIONS | {"train_shards": 60}))
            convert_bench.check("after the last run", output, whole, finished=True)
    convert(source, output, ConvertOptions(**convert_bench.OPTIONS | {"train_shards": 60}))
    convert_bench.check("after the last run", output, whole, finished=True)
    print(f"{kills} kills, {finished} of them too late: all as undisturbed", flush=True)


def _two_at_once(source: Path, output: Path, whole: convert_bench.Hashes, pairs: int) -> None:
    busy = 0
    for _ in range(pairs):
        shutil.rmtree(output, ignore_errors=True)
        with _started(source, output) as first, _started(source, output) as second:
            codes = sorted((first.wait(), second.wait()))
        if codes not in ([1, 75], [1, 1]):  # 1: the file that is no picture was told
            raise convert_bench.Different(
                f"two at once ended with the exit codes {codes}, not 1 and 75."
            )
        busy += codes == [1, 75]
        convert_bench.check("two at once", output, whole, finished=True)
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
    flags.DEFINE_integer("every", 1, "Interval between the file calls that fail.", **own)
    flags.DEFINE_integer("pairs", 20, "Converters started two at once.", **own)
    flags.DEFINE_integer("seed", 0, "Seed of the random moments.", **own)
    flags.DEFINE_string("folder", None, "Folder for the data; default a temporary one.", **own)

    def command(values, _):
        numbers = (values[name].value for name in ("kills", "every", "pairs", "seed"))
        for folder in _folder(values["folder"].value):
            main_work(folder, *numbers)

    return command_line.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
