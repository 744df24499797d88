"""Feeds damaged files to every reader of foreign weights, and of images.

    python scripts/faults/fuzz_decoders.py [--cases 2000] [--seed 0] [--images]

Each reader gets that many files: cut, with bits flipped, bytes replaced, moved, doubled or
inserted, numbers made huge, or random from the first byte. A reader must reject a file in a
sentence (InputError) or return an image, or a whole network of finite numbers. It must return the
original weights from the text of an ncnn .param, which holds none, and from a .sqz, which has a
checksum. A .sqz also comes with a corrected checksum, and with a damaged header that is packed and
sealed correctly. No file may take a second or a gigabyte; one that takes ten seconds is stopped.
Exit code 0: no fault; 1: a fault; the first such file is kept.
"""

import contextlib
import dataclasses
import functools
import io
import pickle
import resource
import signal
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.faults.damage import tally
from squeezenext import cli as command_line
from squeezenext import labels
from squeezenext.config import Config
from squeezenext.config.images import TORCHVISION
from squeezenext.errors import InputError
from squeezenext.formats import deep_compression, pytorch, variables
from squeezenext.images import decoding
from squeezenext.model import importing
from squeezenext.network import graph
from squeezenext.network.model import Model
from squeezenext.sqz import file as sqz
from squeezenext.sqz.kernels import Shared
from tests import foreign_files as files
from tests import hostile_images, layout_twins, torch_files
from tests.foreign_files import BYPASS, SQUEEZENET, SQUEEZENEXT, trained

SECONDS, BYTES = 1.0, 1 << 30
HOPELESS = 10.0  # seconds


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader of one format, with the files of a network, one of which is damaged."""

    name: str
    kind: str
    config: Config
    files: tuple[bytes, ...]
    damaged: int = 0
    exact: bool = False  # what is read in spite of the damage must be what was written
    cost: int = 1  # files of the other readers that one of this costs; the short form has fewer


def readers() -> list[Reader]:
    """Returns the readers of all forms of all formats."""
    arrays, bypass, next_ = trained(SQUEEZENET), trained(BYPASS), trained(SQUEEZENEXT)
    half, whole = files.ncnn_of(SQUEEZENET, arrays), files.ncnn_of(SQUEEZENET, arrays, half=False)
    found = [
        Reader(".net", "deep_compression", SQUEEZENET, (files.net_of(SQUEEZENET, arrays),)),
        Reader(".param", "ncnn", SQUEEZENET, half, exact=True),
        Reader(".bin", "ncnn", SQUEEZENET, half, damaged=1),
        Reader(".bin of float32", "ncnn", SQUEEZENET, whole, damaged=1),
        Reader(".net of 4 bits", "deep_compression", SQUEEZENET, (_net_of_4_bits(),)),
    ]
    forms = [(SQUEEZENET, arrays, ""), (BYPASS, bypass, "legacy"), (SQUEEZENEXT, next_, ""),
             (SQUEEZENEXT, next_, "merged")]  # fmt: skip
    for config, values, style in forms:
        name = f".caffemodel {type(config.model).__name__} {style}".strip()
        data = files.caffemodel_of(config, values, style)
        found.append(Reader(name, "caffemodel", config, (data,)))
    data = _sqz_of(SQUEEZENEXT, next_)
    found.append(Reader(".sqz", "sqz", SQUEEZENEXT, (data,), exact=True))
    found.append(Reader(".sqz, sealed", "sealed sqz", SQUEEZENEXT, (data,)))
    start = _SQZ_HEAD.size
    header = zlib.decompress(data[start : start + _SQZ_HEAD.unpack_from(data)[1]])
    found.append(Reader(".sqz, header", "sqz header", SQUEEZENEXT, (header, data)))
    for style in ("norm", "int8"):
        data = files.onnx_of(SQUEEZENEXT, next_, style)
        found.append(Reader(f".onnx, {style}", "onnx", SQUEEZENEXT, (data,)))
    layers: dict[str, list[np.ndarray]] = {}
    for name, array in arrays.items():
        layers.setdefault(name.split("/")[1], []).append(array)
    pickled = pickle.dumps(layers, 3)
    found.append(Reader("pickle of NumPy", "numpy_pickle", SQUEEZENET, (pickled,)))
    return found + _of_pytorch()


def images() -> list[Reader]:
    """Returns the decoder of images, once for each format."""
    formats = hostile_images.formats()
    return [Reader(name, "image", SQUEEZENET, (data,)) for name, data in formats.items()]


_SQZ_HEAD = struct.Struct("<12sII")  # what comes first, the lengths of the header and the streams


def _of_pytorch() -> list[Reader]:
    model = dataclasses.replace(SQUEEZENET.model, head_padding=0)
    images = dataclasses.replace(TORCHVISION, size=32, resize=32)
    config = dataclasses.replace(SQUEEZENET, model=model, images=images)
    state = pytorch.to_state(trained(config), config, "torchvision")
    files = {
        ".pth": torch_files.pth_of({"model": state, "epoch": 3}),
        ".pth before PyTorch 1.6": torch_files.pth_of(state, old=True),
        ".safetensors": torch_files.safetensors_of(state),
        ".npz": _npz_of(state, np.savez),
        ".npz, packed": _npz_of(state, np.savez_compressed),
    }
    found = [Reader(name, "torchvision", config, (data,)) for name, data in files.items()]
    state = pytorch.to_state(trained(config), config, "pytorchcv")
    chainer = {layout_twins.as_chainer(key): array for key, array in state.items()}
    keras = {
        layout_twins.as_keras(key, "squeeze_net"): array.transpose(2, 3, 1, 0)
        if array.ndim == 4
        else array
        for key, array in state.items()
    }
    content = (_npz_of(chainer, np.savez),)
    found.append(Reader(".npz of Chainer", "pytorchcv", config, content))
    content = (layout_twins.hdf5_of(keras),)
    found.append(Reader(".h5 of Keras", "pytorchcv", config, content, cost=12))
    return found


def _npz_of(arrays: dict[str, np.ndarray], pack: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    pack(file, **arrays)
    return file.getvalue()


def _net_of_4_bits() -> bytes:
    layers, rng = [], np.random.default_rng(0)
    network = graph.of(SQUEEZENET)
    for node in network.weighted:
        height, width, inside, out = network.kernel_shape(node.name)
        kernel = rng.integers(-5, 6, (out, inside, height, width)) * (rng.random() < 0.5)
        layers.append((kernel.astype(np.float32), np.zeros(out, np.float32)))
    return deep_compression.encode(layers, 4)


def _sqz_of(config: Config, arrays: dict[str, np.ndarray]) -> bytes:
    folded = graph.fold(config, arrays)
    kernels, biases = {}, {}
    for name, array in folded.items():
        layer, part = name.split("/")
        if part == "kernel":
            kernels[layer] = Shared.of(array.round(1))
        else:
            biases[layer] = array
    classes = tuple(labels.Label(f"n{i}", f"class {i}") for i in range(config.model.classes))
    return sqz.encode(Model("fuzzed", config, classes, {}), kernels, biases).data


def try_one(reader: Reader, data: bytes) -> str:
    """Reads one damaged file; returns "refused" or "read".

    Raises:
      RuntimeError: something else happened.
    """
    contents = assembled(reader, data)
    began = time.process_time()
    try:
        with _ended_after(HOPELESS):
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


def assembled(reader: Reader, damaged: bytes) -> list[bytes]:
    """Returns the files as an attacker would write them: damage inside, valid checksums around."""
    if reader.kind == "sqz header":
        first, _, streams = _SQZ_HEAD.unpack_from(reader.files[1])
        header = zlib.compress(damaged)
        tail = reader.files[1][-streams - 4 :]
        return [_sealed(_SQZ_HEAD.pack(first, len(header), streams) + header + tail)]
    if reader.kind == "sealed sqz":
        return [_sealed(damaged)]
    return [damaged if i == reader.damaged else x for i, x in enumerate(reader.files)]


def _sealed(data: bytes) -> bytes:
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little") if len(data) > 4 else data


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """Raises RuntimeError in a block that takes more processor time."""

    def end(*_):
        raise RuntimeError(f"It would have taken more than {seconds:.0f} s.")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _read(reader: Reader, contents: Sequence[bytes]) -> dict[str, np.ndarray]:
    if reader.kind == "image":
        return {"image": np.asarray(decoding.read_image(contents[0], "file"))}
    if "sqz" in reader.kind:
        found = sqz.decode(contents[0], "file")
        # Which refuses what is not finite; a header may well be another network's.
        return variables.unfold(found.config, found.weights)
    arrays, _ = importing.read(reader.kind, contents, reader.config, "file")
    return variables.complete(reader.config, arrays, "file")


def _same(found: dict[str, np.ndarray], reader: Reader) -> None:
    arrays = _read(reader, assembled(reader, reader.files[reader.damaged]))
    for name, array in arrays.items():
        if not np.array_equal(found[name], array):
            raise RuntimeError(f"{name} is not what was written.")


def fuzz(
    cases: int, seed: int, kept: Path, among: Sequence[Reader] = (), short: bool = False
) -> list[tuple[str, int, int]]:
    """Returns (reader, refused, read) counts of some readers; default those of weights.

    `short`: readers that take long get fewer files.

    Raises:
      SomeInputsFailed: a reader failed; the file is kept at `kept`.
    """
    rows = []
    for reader in among or readers():

        def keep(data: bytes, reader: Reader = reader) -> Path:
            kept.write_bytes(assembled(reader, data)[reader.damaged])
            return kept

        attempt = functools.partial(try_one, reader)
        content = reader.files[reader.damaged]
        number = cases // reader.cost if short else cases
        outcomes = tally(reader.name, content, number, seed, attempt, keep)
        rows.append((reader.name, outcomes["refused"], outcomes["read"]))
    return rows


def main(argv=None) -> int:
    values = flags.FlagValues()
    flags.DEFINE_integer("cases", 2000, "Damaged files for each reader.", 1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of the damage.", flag_values=values)
    flags.DEFINE_bool("images", False, "Images instead of weights.", flag_values=values)

    def command(values, _):
        used = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.RLIM_INFINITY))
        among = images() if values["images"].value else readers()
        rows = fuzz(values["cases"].value, values["seed"].value, Path("fuzz-failure"), among)
        for name, refused, read in rows:
            print(f"{name:40} {refused:8,} refused {read:8,} read")
        print(f"{sum(refused + read for _, refused, read in rows):,} files.")

    return command_line.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
