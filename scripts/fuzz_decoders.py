"""Feeds damaged files to every reader of weights made elsewhere.

    python scripts/fuzz_decoders.py [--cases 2000] [--seed 0]

Each reader gets that many files: cut, with bits flipped, bytes replaced, moved, doubled or
inserted, numbers made huge, or random from the first byte. A reader has to refuse one in a
sentence (InputError) or to return a whole network of finite numbers; in the text of an ncnn
.param, which holds no weights, and in a .sqz, which has a checksum, it has to return the very
weights; a .sqz is also given with a checksum that holds again. No file may take a second or
a gigabyte. Exit code 0: so it was; 1: it was not, and the first such file is kept.
"""

import dataclasses
import random
import resource
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from squeezenext import flags as command_line
from squeezenext import graph, labels
from squeezenext.compression import sharing, sqz
from squeezenext.config import Config
from squeezenext.errors import InputError, SomeInputsFailed
from squeezenext.foreign import deep_compression, importing, variables
from tests import foreign_files as files
from tests.foreign_files import BYPASS, SQUEEZENET, SQUEEZENEXT, trained

SECONDS, BYTES = 1.0, 1 << 30
HUGE = (0, 1, 127, 128, 255, 1 << 15, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)


@dataclasses.dataclass(frozen=True)
class Reader:
    """A format, the files of a network, and which of them is damaged."""

    name: str
    kind: str
    config: Config
    files: tuple[bytes, ...]
    damaged: int = 0
    exact: bool = False  # what is read in spite of the damage must be what was written


def readers() -> list[Reader]:
    """Returns every form of every format."""
    arrays, bypass, next_ = trained(SQUEEZENET), trained(BYPASS), trained(SQUEEZENEXT)
    half, whole = files.ncnn_of(SQUEEZENET, arrays), files.ncnn_of(SQUEEZENET, arrays, half=False)
    found = [
        Reader(".net", "deep_compression", SQUEEZENET, (files.net_of(SQUEEZENET, arrays),)),
        Reader(".param", "ncnn", SQUEEZENET, half, exact=True),
        Reader(".bin", "ncnn", SQUEEZENET, half, damaged=1),
        Reader(".bin of float32", "ncnn", SQUEEZENET, whole, damaged=1),
        Reader(".net of 4 bits", "deep_compression", SQUEEZENET, (_net_of_4_bits(),)),
        Reader(".npz", "npz", SQUEEZENEXT, (importing.npz.encode(next_, SQUEEZENEXT),)),
    ]
    forms = [(SQUEEZENET, arrays, ""), (BYPASS, bypass, "legacy"), (SQUEEZENEXT, next_, ""),
             (SQUEEZENEXT, next_, "merged")]  # fmt: skip
    for config, values, style in forms:
        name = f".caffemodel {type(config.model).__name__} {style}".strip()
        data = files.caffemodel_of(config, values, style)
        found.append(Reader(name, "caffemodel", config, (data,)))
    for coder in sqz.CODERS:
        data = _sqz_of(SQUEEZENEXT, next_, coder)
        found.append(Reader(f".sqz {coder}", "sqz", SQUEEZENEXT, (data,), exact=True))
        found.append(Reader(f".sqz {coder}, sealed", "sealed sqz", SQUEEZENEXT, (data,)))
    return found


def _net_of_4_bits() -> bytes:
    layers, rng = [], np.random.default_rng(0)
    network = graph.of(SQUEEZENET)
    for node in network.weighted:
        height, width, inside, out = network.kernel_shape(node.name)
        kernel = rng.integers(-5, 6, (out, inside, height, width)) * (rng.random() < 0.5)
        layers.append((kernel.astype(np.float32), np.zeros(out, np.float32)))
    return deep_compression.encode(layers, 4)


def _sqz_of(config: Config, arrays: dict[str, np.ndarray], coder: sqz.Coder) -> bytes:
    folded = graph.fold(config, arrays)
    kernels, biases = {}, {}
    for name, array in folded.items():
        layer, part = name.split("/")
        if part == "kernel":
            kernels[layer] = sharing.k_means(array, 4)
        else:
            biases[layer] = array
    classes = [labels.Label(f"n{i}", f"class {i}") for i in range(config.model.classes)]
    return sqz.encode(config, classes, kernels, biases, coder=coder).data


def damage(data: bytes, rng: random.Random) -> bytes:
    """Returns another file: one to four faults of random kinds."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(FAULTS)(data, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    """A place, every third time among the first hundred bytes, where the headers are."""
    end = len(data) if rng.random() < 0.67 else min(len(data), 100)
    return rng.randrange(end + 1)


def _cut(data, rng):
    return data[: _place(data, rng)]


def _flip(data, rng):
    out = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 8))):
        out[min(_place(data, rng), len(out) - 1)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _replace(data, rng):
    place, count = _place(data, rng), rng.choice((1, 2, 4, 8, 64))
    value = rng.choice((b"\xff", b"\0", rng.randbytes(1))) * count
    return data[:place] + value + data[place + count :]


def _number(data, rng):
    place, size, value = _place(data, rng), rng.choice((1, 2, 4, 8)), rng.choice(HUGE)
    content = (value % (1 << 8 * size)).to_bytes(size, "little")
    return data[:place] + content + data[place + size :]


def _digits(data, rng):
    """Another number where text has one; else a varint."""
    place, value = _place(data, rng), rng.choice(HUGE)
    end = place
    while end < len(data) and data[end : end + 1].isdigit():
        end += 1
    text = str(rng.choice((-value, value))).encode() if end > place else files.varint(value)
    return data[:place] + text + data[max(end, place + 1) :]


def _insert(data, rng):
    place = _place(data, rng)
    size = rng.choice((1, 4, 100, 1_000_000) if rng.random() < 0.02 else (1, 4, 100))
    return data[:place] + rng.randbytes(size) + data[place:]


def _remove(data, rng):
    place = _place(data, rng)
    return data[:place] + data[place + rng.choice((1, 2, 4, 100)) :]


def _swap(data, rng):
    first, second = sorted((_place(data, rng), _place(data, rng)))
    third = min(len(data), second + second - first)
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _lines(data, rng):
    """Swaps, doubles or removes words or lines."""
    mark = rng.choice((b"\n", b" ", b"="))
    parts = data.split(mark)
    one, two = rng.randrange(len(parts)), rng.randrange(len(parts))
    kind = rng.randrange(3)
    if kind == 0:
        parts[one], parts[two] = parts[two], parts[one]
    elif kind == 1:
        parts.insert(one, parts[two])
    else:
        del parts[one]
    return mark.join(parts)


def _random(data, rng):
    return rng.randbytes(rng.choice((0, 1, 10, 1000, len(data))))


FAULTS: tuple[Callable, ...] = (
    _cut, _flip, _flip, _replace, _number, _digits, _insert, _remove, _swap, _lines, _random,
)  # fmt: skip


def try_one(reader: Reader, data: bytes) -> str:
    """Reads one damaged file; returns "refused" or "read".

    Raises:
      RuntimeError: something else happened.
    """
    contents = [data if i == reader.damaged else x for i, x in enumerate(reader.files)]
    began = time.process_time()
    try:
        found = _read(reader, contents)
    except InputError as error:
        outcome = "refused"
        if not str(error).strip():
            raise RuntimeError("It is refused without a sentence.") from error
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    else:
        outcome = "read"
        if reader.exact:
            _same(found, reader)
    if time.process_time() - began > SECONDS:
        raise RuntimeError(f"It took {time.process_time() - began:.1f} s.")
    return outcome


def _read(reader: Reader, contents: Sequence[bytes]) -> dict[str, np.ndarray]:
    if reader.kind.endswith("sqz"):
        data = contents[0]
        if reader.kind.startswith("sealed") and len(data) > 4:  # as one who means harm would
            data = data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")
        found = sqz.decode(data, "file").weights
        return variables.unfold(reader.config, found)  # which refuses what is not finite
    arrays, _ = importing.read(reader.kind, contents, reader.config, "file")
    return variables.complete(reader.config, arrays, "file")


def _same(found: dict[str, np.ndarray], reader: Reader) -> None:
    arrays = _read(reader, reader.files)
    for name, array in arrays.items():
        if not np.array_equal(found[name], array):
            raise RuntimeError(f"{name} is not what was written.")


def fuzz(cases: int, seed: int, kept: Path) -> list[tuple[str, int, int]]:
    """Returns (reader, refused, read) counts.

    Raises:
      SomeInputsFailed: a reader failed; the file is kept at `kept`.
    """
    rows = []
    for reader in readers():
        outcomes = []
        for number in range(cases):
            rng = random.Random(f"{seed} {reader.name} {number}")
            data = damage(reader.files[reader.damaged], rng)
            try:
                outcomes.append(try_one(reader, data))
            except RuntimeError as error:
                kept.write_bytes(data)
                raise SomeInputsFailed(
                    f"{reader.name}, seed {seed}, case {number}, kept as {kept}: {error}"
                ) from error
        rows.append((reader.name, outcomes.count("refused"), outcomes.count("read")))
    return rows


def main(argv=None) -> int:
    values = flags.FlagValues()
    flags.DEFINE_integer("cases", 2000, "Files a reader.", 1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Another one makes other files.", flag_values=values)

    def command(values, _):
        used = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.RLIM_INFINITY))
        rows = fuzz(values["cases"].value, values["seed"].value, Path("fuzz-failure"))
        for name, refused, read in rows:
            print(f"{name:40} {refused:8,} refused {read:8,} read")
        print(f"{sum(refused + read for _, refused, read in rows):,} files.")

    return command_line.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
