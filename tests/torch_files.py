"""Files as PyTorch writes them, made without it: pickles that name its functions and classes."""

import collections
import contextlib
import io
import json
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator

import numpy as np

_TYPES = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "u2": "BFloat16"}


class _Storage:
    def __init__(self, array: np.ndarray, key: str):
        self.array, self.key = array, key


@contextlib.contextmanager
def _modules() -> Iterator[types.ModuleType]:
    """Puts modules with PyTorch's names where pickle looks for them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in _TYPES.values():
        fields = {"__module__": "torch"}
        setattr(torch, f"{name}Storage", type(f"{name}Storage", (), fields))

    def _rebuild_tensor_v2():
        pass

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch._utils = utils
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        yield torch
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class _Pickler(pickle.Pickler):
    def __init__(self, file, torch, protocol: int, view: tuple):
        super().__init__(file, protocol)
        self.torch, self.view, self.storages = torch, view, []

    def persistent_id(self, value):
        if not isinstance(value, _Storage):
            return None
        kind = getattr(self.torch, f"{_TYPES[value.array.dtype.str[1:]]}Storage")
        return ("storage", kind, value.key, "cpu", value.array.size, *self.view)

    def reducer_override(self, value):
        if not isinstance(value, np.ndarray):
            return NotImplemented
        numbers = value[(0,) * value.ndim].reshape(1) if 0 in value.strides else value
        storage = _Storage(numbers, str(len(self.storages)))
        self.storages.append(storage)
        strides = tuple(side // value.itemsize for side in value.strides)
        arguments = (storage, 0, value.shape, strides, False, collections.OrderedDict())
        return self.torch._utils._rebuild_tensor_v2, arguments


def pth_of(content, *, old: bool = False, protocol: int = 2) -> bytes:
    """Returns a file of `torch.save`; arrays in `content` are its tensors. `old`: before 1.6."""
    file = io.BytesIO()
    with _modules() as torch:
        pickler = _Pickler(file, torch, protocol, (None,) if old else ())
        pickler.dump(content)
    if not old:
        return zipped(file.getvalue(), pickler.storages)
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    head = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, machine))
    keys = pickle.dumps([x.key for x in pickler.storages], 2)
    numbers = [x.array.size.to_bytes(8, "little") + x.array.tobytes() for x in pickler.storages]
    return head + file.getvalue() + keys + b"".join(numbers)


def zipped(content: bytes, storages=()) -> bytes:
    """Returns a zip with a pickle, as PyTorch writes it from 1.6 on."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes("A"))
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


def safetensors_of(state) -> bytes:
    """Returns a file of safetensors."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, array in state.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": {"f4": "F32", "f2": "F16", "i8": "I64"}[array.dtype.str[1:]],
                        "shape": array.shape, "data_offsets": [start, end]}  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    numbers = b"".join(array.tobytes() for array in state.values())
    return len(text).to_bytes(8, "little") + text + numbers
