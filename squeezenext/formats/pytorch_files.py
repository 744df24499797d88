"""Opens files of `torch.save`, old and new, safetensors, NumPy and HDF5, all without PyTorch."""

import collections
import contextlib
import dataclasses
import functools
import importlib.util
import io
import itertools
import json
import math
import os
import subprocess
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from squeezenext.errors import InputError, install
from squeezenext.formats import kinds, pickles
from squeezenext.formats.pickles import Storage, Tensor, Unknown

MAX_UNPACKED = 512 << 20  # bytes of all tensors of a file
_MAX_PICKLE = 4 << 20
_MAX_NAME = 200  # characters of a layer's name
_MAX_DEPTH = 16  # of dictionaries in dictionaries, and of modules in modules
_OLD = 0x1950A86A20F9469CFC6C  # the first number of files of PyTorch before 1.6
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SAFETENSORS = {
    "F32": "FloatStorage", "F64": "DoubleStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage",
    "I64": "LongStorage", "I32": "IntStorage", "I16": "ShortStorage", "I8": "CharStorage",
    "U8": "ByteStorage", "BOOL": "BoolStorage",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """A file's content, whose tensors have no numbers yet.

    Attributes:
      content: dictionaries, lists, numbers, texts, `Tensor`s and `Unknown`s.
      read: a function that returns the bytes of a storage.
    """

    content: Any
    read: Callable[[Storage], bytes]

    def array(self, tensor: Tensor, source: str) -> np.ndarray:
        """Returns a tensor of a known, bounded shape as float32.

        Raises:
          InputError: its numbers are not in the file, or of an unknown type.
        """
        kind = pickles.STORAGES.get(tensor.storage.kind)
        if kind is None:
            raise InputError(f"{source} holds numbers of the kind {tensor.storage.kind}.")
        try:
            numbers = np.frombuffer(self.read(tensor.storage), kind)
            if pickles.span(tensor) > len(numbers):
                raise ValueError("a tensor is longer than its numbers")
            steps = [stride * numbers.itemsize for stride in tensor.strides]
            view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, steps)
        except _DAMAGES as error:
            raise _damaged(source, error) from error
        if tensor.storage.kind == "BFloat16Storage":
            return (view.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(all="ignore"):  # what is not finite is refused later
            return view.astype(np.float32)


_DAMAGES = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, RuntimeError,
    NotImplementedError, RecursionError, OverflowError, MemoryError, zipfile.BadZipFile,
    tokenize.TokenError,
)  # fmt: skip


def _damaged(source: str, error: Exception) -> InputError:
    reason = str(error) if type(error) is ValueError else type(error).__name__
    return InputError(f"{source} is damaged: {reason}.")


def read(data: bytes, source: str) -> TorchFile:
    """Opens a file.

    Raises:
      InputError: it is of another kind, or damaged.
    """
    try:
        if data[:4] == b"PK\x03\x04":
            return _zipped(data, source)
        if data[:1] == b"\x80" and _OLD.to_bytes(10, "little") in data[:16]:
            return _old(data)
        if data[:8] == _HDF5:
            return _hdf5(data)
        if data[8:9] == b"{" and data[8:].lstrip()[:1] == b"{" and data[7:8] == b"\0":
            return _safetensors(data)
    except InputError:
        raise
    except (*_DAMAGES, zlib.error) as error:
        raise _damaged(source, error) from error
    raise InputError(f"{source} is no file of PyTorch, but {kinds.of_bytes(data)}.")


def _zipped(data: bytes, source: str) -> TorchFile:
    """Opens a zip: PyTorch's from 1.6 on, with data.pkl and a file for each storage, or NumPy's."""
    if data.count(b"PK\1\2") > kinds.MAX_ENTRIES:  # before there is an object for each
        raise ValueError("it has too many entries")
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = archive.infolist()
    total = sum(entry.file_size for entry in entries)
    if total > MAX_UNPACKED:
        raise InputError(f"{source} unpacks to {total:,} bytes: no weights of this family.")
    if any(entry.compress_type not in _PACKINGS or entry.flag_bits & 1 for entry in entries):
        raise ValueError("it is packed in a way that PyTorch does not use")
    names = {entry.filename for entry in entries}
    if names and all(name.endswith(".npy") for name in names):
        return _npz(archive)
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise InputError(f"{source} is no file of PyTorch, but {kinds.of_bytes(data)}.")
    if f"{roots[0]}constants.pkl" in names:
        raise InputError(
            f"{source} is a TorchScript program; save the state_dict() of the model instead."
        )
    if f"{roots[0]}byteorder" in names and archive.read(f"{roots[0]}byteorder") != b"little":
        raise ValueError("its numbers are of a big-endian machine")
    if archive.getinfo(f"{roots[0]}data.pkl").file_size > _MAX_PICKLE:
        raise ValueError("its pickle is too long")
    content = pickles.load(io.BytesIO(archive.read(f"{roots[0]}data.pkl")))
    packed = functools.cache(lambda key: archive.read(f"{roots[0]}data/{key}"))
    return TorchFile(content, lambda storage: packed(storage.key))


_LATER = np.lib.format.read_array_header_2_0
_OF_NUMPY = {kind: name for name, kind in pickles.STORAGES.items() if kind != "<u2"}


def _npz(archive: zipfile.ZipFile) -> TorchFile:
    """Opens a file of `numpy.savez`: a header and numbers for each array; nothing is unpickled."""
    content, starts = {}, {}
    for name in archive.namelist():
        with archive.open(name) as file:
            first = np.lib.format.read_magic(file) == (1, 0)
            header = np.lib.format.read_array_header_1_0 if first else _LATER
            shape, in_columns, kind = header(file)
            starts[name] = file.tell()
        sides = shape[:: -1 if in_columns else 1]
        strides = [math.prod(sides[place + 1 :]) for place in range(len(sides))]
        storage = Storage(
            _OF_NUMPY.get(kind.str.replace("|", ""), kind.str), name, math.prod(shape)
        )
        strides = tuple(strides[:: -1 if in_columns else 1])
        content[name.removesuffix(".npy")] = Tensor(storage, 0, shape, strides)
    return TorchFile(content, lambda storage: archive.read(storage.key)[starts[storage.key] :])


_ROOT = str(Path(__file__).parents[2])  # of this package
_HDF5 = b"\x89HDF\r\n\x1a\n"
_SECONDS = 10  # of processor time for an HDF5 file; the largest network takes one
_PATIENCE = 120  # seconds of any time, on a machine that is busy


def _hdf5(data: bytes) -> TorchFile:
    """Opens a file of HDF5 in another process: damaged ones can hang or kill its library."""
    if importlib.util.find_spec("h5py") is None:
        raise InputError(f"HDF5 files are read with h5py; {install('train')}")
    code = f"import {__name__} as files; files.hdf5_to_npz()"
    # Nothing is imported from the current folder, which may be where the file was downloaded to.
    paths = [x for x in sys.path if os.path.isabs(x) and x != os.getcwd()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, _ROOT])}
    command = [sys.executable, "-P", "-c", code]
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, env=environment, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise ValueError("HDF5's library has not read it in time") from None
    if done.returncode:
        raise ValueError("HDF5's library cannot read it, or it names other files")
    return _npz(zipfile.ZipFile(io.BytesIO(done.stdout)))


def _limit() -> None:
    """Limits CPU time and memory of this process; on Windows only `_PATIENCE` limits it."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    with contextlib.suppress(ValueError):  # macOS refuses a limit of the address space
        resource.setrlimit(resource.RLIMIT_AS, (4 * MAX_UNPACKED, 4 * MAX_UNPACKED))


def hdf5_to_npz() -> None:
    """Writes the float arrays of the HDF5 file on standard input to standard output as `.npz`."""
    import h5py

    _limit()
    found: dict[str, np.ndarray] = {}

    def take(name: str, value: object) -> None:
        if not isinstance(value, h5py.Dataset):
            return
        if value.is_virtual or value.external:  # before its shape, which may need those files
            sys.exit("its numbers lie in other files")
        if value.dtype.kind == "f":
            if value.nbytes + sum(array.nbytes for array in found.values()) > MAX_UNPACKED:
                sys.exit("it unpacks to more than any network of this family has")
            found[name] = value[...]

    with h5py.File(io.BytesIO(sys.stdin.buffer.read()), "r") as file:
        file.visititems(take)
    out = io.BytesIO()
    np.savez(out, **found)
    sys.stdout.buffer.write(out.getvalue())


def _old(data: bytes) -> TorchFile:
    """Opens a file of PyTorch before 1.6: five pickles, then the storages one after the other."""
    file = io.BytesIO(data)
    _, version, machine, content, names = (pickles.load(file) for _ in range(5))
    if version != 1001 or not machine["little_endian"]:
        raise ValueError("its numbers are of a big-endian machine, or it is of another version")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its storages have no names")
    storages = {x.storage.key: x.storage for x in _tensors(content)}
    places = {}
    for name in names:
        count = int.from_bytes(file.read(8), "little")
        kind = storages[name].kind if name in storages else "ByteStorage"
        places[name] = (file.tell(), count * np.dtype(pickles.STORAGES[kind]).itemsize)
        file.seek(sum(places[name]))

    def numbers(storage: Storage) -> bytes:
        start, size = places[storage.key]
        return data[start : start + size]

    return TorchFile(content, numbers)


def _safetensors(data: bytes) -> TorchFile:
    """Opens a file of safetensors: the length of a JSON document, the document, the numbers."""
    start = 8 + int.from_bytes(data[:8], "little")
    if start > min(len(data), _MAX_PICKLE):
        raise ValueError("its header is longer than the file")
    content, places = {}, {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        shape = tuple(map(int, entry["shape"][:9]))
        kind = _SAFETENSORS.get(entry["dtype"], str(entry["dtype"]))
        strides = tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))
        first, last = map(int, entry["data_offsets"])
        if not 0 <= first <= last:
            raise ValueError("a tensor has a size that is impossible")
        places[name] = (start + first, start + last)
        content[name] = Tensor(Storage(kind, name, math.prod(shape)), 0, shape, strides)
    return TorchFile(content, lambda storage: data[slice(*places[storage.key])])


def _tensors(content: Any) -> Iterator[Tensor]:
    """Yields every tensor; each object is visited once, however often it is named."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Unknown):
                waiting.append(value.state)
            elif isinstance(value, dict):
                waiting.extend(value.values())
            elif isinstance(value, list | tuple):
                waiting.extend(value)


def states(content: Any, source: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yields each state dictionary in a file, with its place: "", or "model" of a checkpoint.

    A whole model that was saved counts as its state dictionary.

    Raises:
      InputError: its models hold one another so often that reading them has no end.
    """
    waiting, seen, visited = collections.deque([("", content)]), set(), itertools.count()
    while waiting:
        place, value = waiting.popleft()
        if id(value) in seen or place.count(".") > _MAX_DEPTH:
            continue
        seen.add(id(value))
        if isinstance(value, Unknown) and isinstance(value.state, dict):
            try:
                value = dict(_module(value.state, "", set(), visited))
            except ValueError as error:
                raise _damaged(source, error) from error
        if not isinstance(value, dict):
            continue
        tensors = {key: x for key, x in value.items() if isinstance(x, Tensor)}
        if tensors and all(isinstance(key, str) for key in tensors):
            yield place, tensors
        waiting.extend(
            (f"{place}.{key}".lstrip("."), inner)
            for key, inner in value.items()
            if isinstance(inner, dict | Unknown)
            and isinstance(key, str)
            and len(place) + len(key) < _MAX_NAME
        )


def _module(
    state: dict, prefix: str, seen: set[int], visited: Iterator[int]
) -> Iterator[tuple[str, Tensor]]:
    """Yields the names and tensors of a module of PyTorch, given its attributes."""
    if id(state) in seen or prefix.count(".") > _MAX_DEPTH:
        return
    seen.add(id(state))
    for part in ("_parameters", "_buffers", "_modules"):
        entries = state.get(part)
        for name, value in entries.items() if isinstance(entries, dict) else ():
            # Thousands of objects may share one dictionary, which costs the file a few bytes each.
            if next(visited) > pickles.MAX_OPERATIONS:
                raise ValueError("its modules hold one another too often")
            if not isinstance(name, str) or len(prefix) + len(name) >= _MAX_NAME:
                continue
            if part != "_modules":
                if isinstance(value, Tensor):
                    yield f"{prefix}{name}", value
            elif isinstance(value, Unknown) and isinstance(value.state, dict):
                yield from _module(value.state, f"{prefix}{name}.", seen, visited)


def described(content: Any) -> str:
    """Returns a few words about a file's content that is no state dictionary."""
    match content:
        case Tensor():
            return f"one tensor of shape {content.shape}"
        case Unknown():
            return f"an object of the kind {content.name[:60]}"
        case dict():
            names = ", ".join(key[:20] for key in list(content)[:5] if isinstance(key, str))
            return f"a dictionary of {names or 'numbers'}" if content else "an empty dictionary"
    return f"one {type(content).__name__}"
