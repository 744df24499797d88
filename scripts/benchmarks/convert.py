"""Measures the conversion of ImageNet's training archive, and other programs that read it.

    python scripts/benchmarks/convert.py --gigabytes 3 --rounds 3 [--tfds_python VENV/bin/python]

The archive has the official form. It repeats real images under new names, each with a JPEG comment
of its own, since real data sets have few equal images. Each round measures in turn:

- our converter with two workers;
- `cp` and fsync of the same archive;
- the predecessor's method, re-implemented (extract, decode through TensorFlow for the size, write),
  on a tenth of the archive;
- the reading part of tensorflow-datasets' imagenet2012 builder, in an environment of its own.

All read cached pages, and all but the last, which writes nothing, flush to the disk within the
measured time. The start of TensorFlow does not count. Prints a row for each, or JSON with --json.
"""

import json
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.benchmarks.peak_memory import run
from squeezenext import cli as command_line
from squeezenext.convert.imagenet_archives import TRAIN, VALIDATION
from squeezenext.errors import InputError
from tests import imagenet_archives as archives

IMAGES = archives.SHARED / "data" / "imagenet-100.tar"
PART = 10  # the slow ways do one part in so many
TFDS = """
import sys, time, types
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as module
builder = types.SimpleNamespace(version=module.Builder.VERSION)
builder._fix_image = module.Builder._fix_image.__get__(builder)
archive = tfds.download.iter_archive(sys.argv[1], tfds.download.ExtractMethod.TAR_STREAM)
examples = module.Builder._generate_examples(builder, archive)
start = time.monotonic()
sum(1 for _, example in examples if example["image"].read())
print(time.monotonic() - start)
"""


def make_archives(folder: Path, size: int) -> int:
    """Writes both archives, the training one of about `size` bytes; returns its images."""
    folder.mkdir(parents=True)
    with tarfile.open(IMAGES) as archive:
        images = {
            Path(member.name).name.split("_")[0]: archive.extractfile(member).read()
            for member in archive
            if member.isfile()
        }
    repeats = max(1, size // sum(map(len, images.values())))
    with tarfile.open(folder / TRAIN, "w", format=tarfile.USTAR_FORMAT) as outer:
        for synset, data in images.items():
            with tempfile.TemporaryFile(dir=folder) as file:
                names = (f"{synset}_{number}.JPEG" for number in range(repeats))
                file.write(archives.tar_bytes({name: _own(data, name) for name in names}))
                info = tarfile.TarInfo(f"{synset}.tar")
                info.size = file.tell()
                file.seek(0)
                outer.addfile(info, file)
    names = {synset: archives.validation_name(synset) for synset in images}
    validation = {name: _own(images[synset], name) for synset, name in names.items()}
    (folder / VALIDATION).write_bytes(archives.tar_bytes(validation))
    return repeats * len(images)


def _own(jpeg: bytes, name: str) -> bytes:
    """Returns the image with a comment of its own, so that no two are equal byte for byte.

    ImageNet has a handful of equal images; a benchmark of nothing but them would time the search.
    """
    return b"%s\xff\xfe%s%s%s" % (
        jpeg[:2],
        (len(name) + 2).to_bytes(2, "big"),
        name.encode(),
        jpeg[2:],
    )


# Each returns its peak memory, and its seconds if not all of its run counts.
Measured = tuple[int, float | None]


def ours(source: Path, output: Path) -> Measured:
    line = ["-m", "datasets.convert", "--layout=imagenet", "--partial", "--workers=2"]
    return run([sys.executable, *line, f"--source={source}", f"--output={output}"])[0], None


def copied(source: Path, output: Path) -> Measured:
    output.mkdir()
    memory, _ = run(["cp", str(source / TRAIN), str(output)])
    run(["sync", str(output / TRAIN)])
    return memory, None


def predecessors(source: Path, output: Path) -> Measured:
    script = ROOT / "scripts" / "slim_convert.py"
    memory, told = run([sys.executable, str(script), str(source / TRAIN), str(output)])
    return memory, float(told)


def tfds(python: str) -> Callable[[Path, Path], Measured]:
    def work(source: Path, output: Path) -> Measured:
        memory, told = run([python, "-c", TFDS, str(source / TRAIN)])
        return memory, float(told)

    return work


def measure(gigabytes: float, rounds: int, python: str | None, folder: Path) -> dict:
    """Returns what was measured, each contestant's rounds and their medians."""
    whole, part = folder / "whole", folder / "part"
    images = {whole: make_archives(whole, int(gigabytes * 1e9))}
    images[part] = make_archives(part, int(gigabytes * 1e9 / PART))
    contestants = {
        "ours, 2 workers": (ours, whole),
        "cp + fsync": (copied, whole),
        "the predecessor's way": (predecessors, part),
    }
    if python:
        contestants["TFDS imagenet2012, read side"] = (tfds(python), part)
    rows: dict[str, list[dict]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, (work, source) in contestants.items():
            rows[name].append(_timed(work, source, folder / "output", images[source]))
            print(f"{name}: {rows[name][-1]}", file=sys.stderr, flush=True)
    return {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]}
        | {"rounds": found}
        for name, found in rows.items()
    }


def _timed(work: Callable[[Path, Path], Measured], source: Path, output: Path, images: int) -> dict:
    shutil.rmtree(output, ignore_errors=True)
    os.sync()  # what the one before left in memory is not this one's to write
    start = time.monotonic()
    memory, told = work(source, output)
    seconds = told or time.monotonic() - start
    size = (source / TRAIN).stat().st_size
    shutil.rmtree(output, ignore_errors=True)
    return {
        "images_per_second": round(images / seconds, 1),
        "megabytes_per_second": round(size / seconds / 1e6, 1),
        "seconds": round(seconds, 2),
        "peak_megabytes": round(memory / 1e6),
    }


def table(results: dict) -> str:
    lines = ["| | images/s | MB/s | s | peak MB |", "|---|---|---|---|---|"]
    for name, row in results.items():
        cells = [row[key] for key in row if key != "rounds"]
        lines.append(f"| {name} | " + " | ".join(f"{cell:g}" for cell in cells) + " |")
    mine, copy, slow = list(results.values())[:3]
    of_copy = mine["megabytes_per_second"] / copy["megabytes_per_second"]
    times = mine["images_per_second"] / slow["images_per_second"]
    lines.append(f"\n{of_copy:.0%} of cp's MB/s; {times:.1f} times the predecessor's images/s")
    return "\n".join(lines)


def main(argv=None) -> int:
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_float("gigabytes", 3.0, "Size of the training archive.", **own)
    flags.DEFINE_integer("rounds", 3, "Number of rounds.", **own)
    flags.DEFINE_string("tfds_python", None, "Python with tensorflow-datasets.", **own)
    flags.DEFINE_string("folder", None, "Working folder; default a temporary one.", **own)
    flags.DEFINE_bool("json", False, "Print JSON.", **own)

    def command(values, _):
        if not IMAGES.is_file():
            raise InputError(f"{IMAGES} is absent: it holds the real images that are repeated.")
        with tempfile.TemporaryDirectory(dir=values["folder"].value) as folder:
            numbers = values["gigabytes"].value, values["rounds"].value
            results = measure(*numbers, values["tfds_python"].value, Path(folder))
        print(json.dumps(results) if values["json"].value else table(results))

    return command_line.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
