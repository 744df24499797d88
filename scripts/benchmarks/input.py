"""Measures our input pipeline, the predecessor's, torchvision's, and decoding alone.

    python scripts/benchmarks/input.py --data_dir RECORDS [--data_dir OTHERS]
        [--torch_python VENV/bin/python] [--rounds 5] [--json]

In each round, each contestant in turn makes batches of 32 crops of 227 x 227 for some four seconds
on all cores: flipped, normalised, float32. Each runs in a process that ends with its turn, or it
would prefetch during the others'. Results are medians over the rounds: images a second, CPU
milliseconds an image, and ratios of images a second. "ours resized" takes random resized crops, as
torchvision does; "ours cropped" takes the predecessor's crops of 227 from 256 x 256. "ours
evaluation" takes the centre of 256 x 256, as uint8. "ours from slow files" is "ours resized" with
10 ms added to each read and each opening of a shard (it needs a C compiler), "ours reading" reads
records and decodes nothing.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.benchmarks.peers.contestant import Contestant, check_imports
from squeezenext import cli as command_line
from squeezenext.errors import InputError
from squeezenext.records import dataset

BATCH = 32
CLASSES = 1000
SECONDS = 4.0  # of a turn
OURS = ("ours resized", "ours cropped")
SLOW = "ours from slow files"
MINE = (*OURS, SLOW, "ours reading", "ours evaluation")
KINDS = (*MINE, "predecessor", "torchvision", "decode alone")
READ_MICROSECONDS = 10_000  # added by SLOW


def contestant(directory: Path, kind: str) -> Iterator[int]:
    """Yields the number of images of each prepared batch."""
    from scripts.benchmarks.peers import input_peers

    split = dataset.load_manifest(directory).splits["train"]
    shards = [str(shard.path) for shard in split.shards]
    if kind == "torchvision":
        return input_peers.torchvision(shards, BATCH)
    if kind == "predecessor":
        return input_peers.predecessor(shards, BATCH)
    if kind == "decode alone":
        return input_peers.decode(shards, BATCH)
    if kind == "ours evaluation":
        return _evaluation(split)
    if kind == "ours reading":
        return _reading(split)
    return _ours(split, resized=kind != OURS[1])


def _reading(split: dataset.Split) -> Iterator[int]:
    import functools

    import numpy as np
    import tensorflow as tf

    from squeezenext.records import batches
    from squeezenext.records.reader import Reader

    reader = Reader(split)
    numbers = np.random.default_rng(0).integers(0, split.examples, [1000, 256])
    groups = tf.data.Dataset.from_tensor_slices(np.array([*map(reader.places, numbers)])).repeat()
    for some in groups.map(functools.partial(batches.payloads, reader), num_parallel_calls=2):
        yield len(some)


def _evaluation(split: dataset.Split) -> Iterator[int]:
    from squeezenext import config
    from squeezenext.records import batches
    from squeezenext.records.reader import Reader

    options = {"batch": BATCH, "share": batches.Share()}
    found, _ = batches.evaluation(Reader(split), config.CAFFE_SQUASH, CLASSES, **options)
    for _, _, numbers in found.repeat():
        yield int((numbers.numpy() >= 0).sum())  # without the padding of the last batch


def _ours(split: dataset.Split, resized: bool) -> Iterator[int]:
    from squeezenext import config
    from squeezenext.images import augment, geometry
    from squeezenext.network.fusing import fused
    from squeezenext.records import batches
    from squeezenext.records.reader import Reader

    images = config.CAFFE_RANDOM_RESIZED_CROP if resized else config.CAFFE_SQUASH

    @fused  # in training it belongs to the step; here it is timed, as the peers' is
    def finish(pixels, labels, numbers):
        pixels, _ = augment.augmented(pixels, labels, numbers, images, CLASSES)
        return geometry.normalize(pixels, images)

    options = {"seed": 0, "start": 0, "micro_batch": BATCH, "share": batches.Share()}
    for element in batches.training(Reader(split), images, CLASSES, **options):
        yield int(finish(*element).shape[0])


def serve(directory: Path, kind: str) -> None:
    """Starts, then does a turn for each line of standard input: prints images and seconds."""
    batches = contestant(directory, kind)
    for _ in range(20):
        next(batches)
    print("ready", flush=True)
    for _ in sys.stdin:
        images, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            images += next(batches)
        print(images, time.perf_counter() - started, flush=True)


def cpu_seconds(process: int) -> float:
    """Returns the CPU time that a process and its children have taken (Linux)."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if process in (int(path.parent.name), int(fields[1])):
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def turn(process: Contestant) -> tuple[float, float]:
    """Returns images a second, and milliseconds of CPU an image."""
    before = cpu_seconds(process.pid)
    images, seconds = (float(word) for word in process.turn().split())
    return images / seconds, 1e3 * (cpu_seconds(process.pid) - before) / images


def slow_reads(folder: Path) -> dict[str, str]:
    """Returns variables that make a process' reads slow, by a library compiled in the folder."""
    library = folder / "slow_reads.so"
    source = ROOT / "scripts/benchmarks/peers/slow_reads.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "READ_MICROSECONDS": str(READ_MICROSECONDS)}


def measure(directory: Path, rounds: int, torch_python: str | None) -> dict[str, list[list[float]]]:
    """Returns each contestant's turns, [images a second, milliseconds of CPU an image] each."""
    rows: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        variables = {SLOW: slow_reads(Path(folder))}
        for number in range(rounds):
            for kind in KINDS:
                torch = kind == "torchvision"
                if torch and not torch_python:
                    continue
                python, given = torch_python if torch else sys.executable, f"--data_dir={directory}"
                own = variables.get(kind, {})
                process = Contestant(python, __file__, kind, given, environment=own)
                rows.setdefault(kind, []).append(list(turn(process)))
                process.end()
            print(f"{directory}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return rows


def table(directory: Path, rows: dict[str, list[list[float]]]) -> str:
    """Returns the table of a data set in Markdown."""
    ratios_of = " | ".join(f"{mine} / it" for mine in OURS)
    lines = [f"| {directory} | images/s | CPU ms an image | {ratios_of} |"]
    lines.append("|---|---|---|---|---|")
    for kind, turns in rows.items():
        rate, cost = (statistics.median(column) for column in zip(*turns, strict=True))
        ratios = [
            statistics.median(a[0] / b[0] for a, b in zip(rows[mine], turns, strict=True))
            for mine in OURS
        ]
        lines.append(f"| {kind} | {rate:,.0f} | {cost:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    return "\n".join(lines)


def main(argv=None) -> int:
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_multi_string("data_dir", [], "Records with a manifest; repeatable.", **own)
    flags.DEFINE_integer("rounds", 5, "Number of rounds.", 1, **own)
    flags.DEFINE_enum("kind", KINDS[0], list(KINDS), "The contestant, with --serve.", **own)
    flags.DEFINE_string("torch_python", None, "An interpreter that has torchvision.", **own)
    flags.DEFINE_bool("json", False, "Print JSON.", **own)
    flags.DEFINE_bool("serve", False, "Run as a contestant.", **own)

    def command(values, _):
        directories = [Path(text) for text in values["data_dir"].value]
        if not directories:
            raise InputError("--data_dir is missing: records with a manifest.json.")
        if values["serve"].value:
            serve(directories[0], values["kind"].value)
            return
        rounds, python = values["rounds"].value, values["torch_python"].value
        if python:
            check_imports("--torch_python", python, "scripts.benchmarks.input", "torchvision")
        found = {}
        for path in directories:
            found[str(path)] = measure(path, rounds, python)
            if not values["json"].value:
                print(table(path, found[str(path)]) + "\n", flush=True)
        if values["json"].value:
            print(json.dumps(found))

    return command_line.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
