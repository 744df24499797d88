"""Reads the pickles of PyTorch's files, and NumPy's, without running what they name.

A pickle is a program for a stack machine. This machine knows the instructions that build numbers,
texts, lists, dictionaries and tensors. What else a pickle names, a function or a class, becomes an
`Unknown`: it is never imported and never called.
"""

import dataclasses
import io
import math
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

MAX_OPERATIONS = 500_000  # the checkpoint of a network of 700 tensors and its optimizer has 60,000
_MAX_NAME = 200  # characters of a module's name, and of a class's
_MAX_SIDES = 8  # dimensions of a tensor
# PyTorch's names of the types of storages, and NumPy's; bfloat16 is the upper half of a float32.
STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "<u2",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1",
    "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_DICTS = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter"}
_TENSORS = {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"}
_PARAMETERS = {
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """Numbers that lie elsewhere in the file.

    Attributes:
      kind: a key of `STORAGES`.
      key: its name in the file.
      count: how many numbers it has, as the pickle says.
    """

    kind: str
    key: str
    count: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor on a storage; `offset` and `strides` count numbers, and may be anything."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.strides) or len(self.shape) > _MAX_SIDES:
            raise ValueError("a tensor has no shape")
        if not all(0 <= x < 1 << 62 for x in (self.offset, *self.shape, *self.strides)):
            raise ValueError("a tensor has a size that is impossible")


@dataclasses.dataclass(eq=False)
class Unknown:
    """What a pickle makes of a class or function that this machine does not have.

    Attributes:
      name: the name in the pickle, such as "argparse.Namespace".
      state: the object's attributes, or None.
    """

    name: str
    state: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class _Name:
    text: str


def load(file: io.BytesIO) -> Any:
    """Returns what a pickle holds, and leaves the file behind the pickle.

    Raises:
      ValueError: it is damaged, or none of PyTorch's.
    """
    machine = _Machine()
    try:
        for number, (code, argument, _) in enumerate(pickletools.genops(file)):
            if number + machine.copied > MAX_OPERATIONS:
                raise ValueError("it is too long for a network of this family")
            if code.name == "STOP":
                return machine.stack[-1]
            machine.step(code.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("its pickle is damaged") from error
    raise ValueError("its pickle has no end")


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marked: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}
        self.copied = 0  # entries of lists that calls have copied
        self._steps: dict[str, Callable[[Any], None]] = {
            "MARK": self._mark,
            "POP": lambda _: self.stack.pop(),
            "POP_MARK": lambda _: self._top(),
            "TUPLE": lambda _: self._push(tuple(self._top())),
            "LIST": lambda _: self._push(self._top()),
            "DICT": lambda _: self._set({}, self._top(), push=True),
            "APPEND": lambda _: self._extend([self.stack.pop()]),
            "APPENDS": lambda _: self._extend(self._top()),
            "ADDITEMS": lambda _: self._extend(self._top()),
            "FROZENSET": lambda _: self._push(self._top()),
            "SETITEM": lambda _: self._set_last(self._pop(2)),
            "SETITEMS": lambda _: self._set_last(self._top()),
            "GLOBAL": lambda text: self._push(_named(text.split(" "))),
            "STACK_GLOBAL": lambda _: self._push(_named(self._pop(2))),
            "BINPERSID": lambda _: self._push(_storage(self.stack.pop())),
            "REDUCE": self._call,
            "NEWOBJ": self._call,
            "BUILD": self._build,
            "MEMOIZE": lambda _: self._put(len(self._memo)),
        }  # fmt: skip

    def step(self, name: str, argument: Any) -> None:
        """Executes one instruction."""
        if name in self._steps:
            self._steps[name](argument)
        elif name in _CONSTANTS:
            self._push(_CONSTANTS[name]())
        elif name in _VALUES:
            if isinstance(argument, int) and argument.bit_length() > 128:
                raise ValueError("it holds a number that is too long")
            self._push(argument)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self._push(tuple(self._pop(int(name[-1]))))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._put(argument)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._push(self._memo[argument])
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"its pickle has the instruction {name}, which PyTorch does not write")

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def _put(self, place: int) -> None:
        self._memo[place] = self.stack[-1]

    def _mark(self, _: Any) -> None:
        self._marked.append(self.stack)
        self.stack = []

    def _top(self) -> list[Any]:
        """Removes what lies above the last mark, and returns it."""
        values, self.stack = self.stack, self._marked.pop()
        return values

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def _set_last(self, values: list[Any]) -> None:
        self._set(self.stack[-1], values)

    def _set(self, target: Any, values: list[Any], push: bool = False) -> None:
        if isinstance(target, dict):
            for key, value in zip(values[::2], values[1::2], strict=True):
                # Tuples in tuples take for ever to be hashed; large numbers may share a hash.
                if isinstance(key, str) or isinstance(key, int) and abs(key) < 1 << 60:
                    target[key] = value
        if push:
            self._push(target)

    def _call(self, _: Any) -> None:
        function, arguments = self._pop(2)
        if not isinstance(arguments, tuple):
            raise ValueError("its pickle is damaged")
        self.copied += sum(len(part) for part in arguments[:4] if isinstance(part, list))
        self._push(_called(function, arguments))

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Unknown):
            self.stack[-1].state = state


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list,
}  # fmt: skip
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip


def _named(parts: list[str]) -> _Name:
    """Returns the name of a class or function, given its module and its name in it."""
    if any(len(part) > _MAX_NAME for part in parts):
        raise ValueError("a class has a name that is too long")
    return _Name(".".join(parts))


def _storage(identity: Any) -> Any:
    """Returns the storage of a persistent identity: ("storage", type, key, device, count, ...)."""
    match identity if len(identity) < 7 else ():  # calls may share a long one, that a match copies
        case ("storage", _Name(text), str(key), _, int(count), *view) if not any(view):
            return Storage(text.rpartition(".")[2], key, count)
    return Unknown("a storage of another kind")


def _called(function: Any, arguments: tuple) -> Any:
    """Returns what a function or class makes: a tensor, a dictionary, a tuple or an `Unknown`."""
    name = function.text if isinstance(function, _Name) else "a function"
    if name in _TENSORS:
        storage, offset, shape, strides = arguments[:4]
        if isinstance(storage, Storage) and isinstance(shape, list | tuple):
            return Tensor(storage, offset, tuple(shape), tuple(strides))
    elif name in _PARAMETERS:
        return arguments[0]
    elif name in _DICTS:
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        return {key: value for key, value in pairs if isinstance(key, str)}
    elif name == "numpy.dtype" and arguments[0] in ("f2", "f4", "f8"):
        return Unknown(f"numpy.dtype {arguments[0]}")
    elif name == "torch.Size":
        if len(arguments[0]) > _MAX_SIDES:
            raise ValueError("a tensor has no shape")
        return tuple(arguments[0])
    return Unknown(name)


def numpy_array(value: Any) -> np.ndarray:
    """Returns what NumPy's instructions in a pickle would have made of an array of float numbers.

    Raises:
      ValueError: it is no such array.
    """
    match value:
        case Unknown(
            name="numpy.core.multiarray._reconstruct" | "numpy._core.multiarray._reconstruct",
            state=(1, tuple(shape), Unknown(name=kind, state=(3, "<", *_)), order, bytes(data)),
        ) if kind.startswith("numpy.dtype f") and len(shape) <= _MAX_SIDES:
            numbers = np.frombuffer(data, f"<{kind[-2:]}")
            return numbers.reshape(shape, order="F" if order is True else "C")
    raise ValueError("its pickle holds another thing than an array of float numbers")


def span(tensor: Tensor) -> int:
    """Returns how many numbers of its storage a tensor reaches over, from the first one on."""
    if not math.prod(tensor.shape):
        return 0
    steps = zip(tensor.shape, tensor.strides, strict=True)
    return tensor.offset + 1 + sum((side - 1) * stride for side, stride in steps)
