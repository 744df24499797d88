"""Compares a LiteRT file with the file that this program writes for the same network.

LiteRT trusts a file's offsets, shapes and indices: a damaged one can crash it or never end, and a
.tflite of others is a program. So a file is read here first, within its bounds, and only a file
whose operators, tensors and constants are those of our own writer reaches the interpreter. Its
numbers, weights and scales, may be any.
"""

import collections
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from squeezenext.errors import InputError
from squeezenext.litert import int8, writer
from squeezenext.network.graph import Graph

MAX_BYTES = 256 << 20
_MOST = 1 << 20  # entries of all tables and vectors; the largest published network has 20,000
# Numbers of schema.fbs.
_TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int8": 9}
_BYTES = (4, 2, 4, 1, 0, 0, 0, 0, 0, 1)  # of an entry, by type
_CODES = {
    "ADD": 0, "CONCATENATION": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 4, "DEQUANTIZE": 6,
    "FULLY_CONNECTED": 9, "MAX_POOL_2D": 17, "SOFTMAX": 25, "PAD": 34, "MEAN": 40, "ELU": 111,
    "QUANTIZE": 114, "L2_NORMALIZATION": 11, "LOGISTIC": 14, "MUL": 18, "REDUCE_MAX": 82,
}  # fmt: skip
# The options of each operator: their table's number, and their fields in order.
_OPTIONS: dict[str, tuple[int, tuple[str, ...]]] = {
    "ADD": (11, ("fusedActivationFunction",)),
    "CONCATENATION": (10, ("axis",)),
    "CONV_2D": (1, ("padding", "strideW", "strideH", "fusedActivationFunction")),
    "DEPTHWISE_CONV_2D": (
        2, ("padding", "strideW", "strideH", "depthMultiplier", "fusedActivationFunction")
    ),
    "DEQUANTIZE": (38, ()), "FULLY_CONNECTED": (8, ()),
    "MAX_POOL_2D": (5, ("padding", "strideW", "strideH", "filterWidth", "filterHeight")),
    "SOFTMAX": (9, ("beta",)), "PAD": (22, ()), "MEAN": (27, ("keepDims",)), "ELU": (0, ()),
    "QUANTIZE": (89, ()), "L2_NORMALIZATION": (12, ("fusedActivationFunction",)),
    "LOGISTIC": (0, ()), "MUL": (21, ("fusedActivationFunction",)),
    "REDUCE_MAX": (27, ("keepDims",)),
}  # fmt: skip
_ONE_BYTE = {"padding", "fusedActivationFunction", "keepDims"}
# The tables of schema.fbs, with the fields that our writer fills: a scalar's struct code, "s" a
# text, "d" bytes, "[x" a vector of scalars, [table] a vector of tables, or a table.
_TENSOR = {0: "[i", 1: "b", 2: "I", 3: "s", 4: {2: "[f", 3: "[q", 6: "i"}, 8: "?"}
_OPERATOR = {0: "I", 1: "[i", 2: "[i", 3: "B", 4: "options"}
_MAPS = [{0: "s", 1: "I"}]
_MODEL: dict[int, Any] = {
    0: "I", 1: [{0: "b", 2: "i", 3: "i"}], 3: "s", 4: [{0: "d"}], 6: [{0: "s", 1: "I"}],
    2: [{0: [_TENSOR], 1: "[i", 2: "[i", 3: [_OPERATOR], 4: "s"}],
    7: [{0: _MAPS, 1: _MAPS, 2: "s"}],
}  # fmt: skip


class _Damaged(ValueError):
    pass


_FAULTS = (
    struct.error, IndexError, KeyError, TypeError, OverflowError, UnicodeDecodeError, _Damaged,
)  # fmt: skip


def check_own(
    content: bytes,
    graph: Graph,
    source: str,
    precision: str = "float32",
    *,
    softmax: bool = False,
    remedy: str = "Export it again.",
) -> None:
    """Checks a file before it reaches the interpreter.

    Args:
      content: the file.
      graph: the network that it should hold.
      source: its name in messages.
      precision: how its numbers are stored: float32, float16, dynamic, int8, full_integer.
      softmax: whether it ends in a softmax, as exported files do.
      remedy: what the user can do, a sentence.

    Raises:
      InputError: it is damaged, or not what this program writes for the network.
    """
    try:
        found = _File(content).table(struct.unpack_from("<I", content)[0], _MODEL)
        _compare(content, found, _Expected.of(graph, precision, softmax))
    except _FAULTS as error:
        reason = str(error) if isinstance(error, _Damaged) else "an offset leads out of it"
        raise InputError(
            f"{source} is damaged, or not what this program writes for this network: {reason}. "
            f"Other .tflite files are not run. {remedy}"
        ) from error


class _File:
    """Reads the tables of a flatbuffer, each within the bounds of the file."""

    def __init__(self, content: bytes):
        self._content, self._left = content, _MOST

    def _number(self, code: str, place: int) -> Any:
        if place < 0:
            raise _Damaged("an offset leads out of it")
        return struct.unpack_from(f"<{code}", self._content, place)[0]

    def table(self, place: int, fields: Mapping[int, Any]) -> dict[int, Any]:
        """Returns the fields of a table that are there, by number."""
        start = place - self._number("i", place)
        size, length = struct.unpack_from("<HH", self._content, max(start, 0))
        if start < 0 or size < 4 or size % 2 or place + length > len(self._content):
            raise _Damaged("a table has no such size")
        offsets = struct.unpack_from(f"<{size // 2 - 2}H", self._content, start + 4)
        self._count(len(offsets))
        found = {}
        for number, offset in enumerate(offsets):
            if offset and fields is _ANY:
                found[number] = place + offset
            elif offset:
                if number not in fields:
                    raise _Damaged("a table has a field that this program does not write")
                found[number] = self._field(place + offset, fields[number])
        return found

    def _count(self, entries: int) -> None:
        self._left -= entries + 1
        if self._left < 0:
            raise _Damaged("it has too many entries")

    def _field(self, place: int, kind: Any) -> Any:
        if isinstance(kind, str) and len(kind) == 1 and kind not in "sd":
            return self._number(kind, place)
        target = place + self._number("I", place)
        if kind == "options":
            return self.table(target, _ANY)
        if isinstance(kind, dict):
            return self.table(target, kind)
        count = self._number("I", target)
        if isinstance(kind, list):
            self._count(count)
            places = struct.unpack_from(f"<{count}I", self._content, target + 4)
            return [self.table(target + 4 + 4 * i + x, kind[0]) for i, x in enumerate(places)]
        if kind[0] == "[":
            self._count(count)
            return struct.unpack_from(f"<{count}{kind[1]}", self._content, target + 4)
        ends = target + 4 + count + (kind == "s")  # a text ends in a zero
        if ends > len(self._content) or (kind == "s" and self._content[ends - 1]):
            raise _Damaged("a text or a constant is longer than the file")
        if kind == "s":
            self._content[target + 4 : ends].decode("utf-8")  # as LiteRT's Python part does
        return target + 4, count


_ANY: Mapping[int, Any] = {}


class _Expected:
    """Takes the place of `LitertFile` and keeps what the writer asks for, without its numbers."""

    def __init__(self) -> None:
        self.tensors: list[tuple] = []  # shape, type, data (None, True or bytes), scales, axis
        self.operators: list[tuple] = []  # name, version, inputs, outputs, options
        self.inputs: list[int] = []
        self.outputs: list[int] = []

    @classmethod
    def of(cls, graph: Graph, precision: str, softmax: bool) -> "_Expected":
        """Returns what the writer makes of a network."""
        file, zero, weights = cls(), np.float32(0), {}
        for node in graph.weighted:
            weights[f"{node.name}/kernel"] = np.broadcast_to(zero, graph.kernel_shape(node.name))
            weights[f"{node.name}/bias"] = np.broadcast_to(zero, node.shape[-1:])
        for node in graph.nodes:
            if node.op == "known":
                inputs = 2 * graph[node.inputs[0]].shape[-1] + 1
                weights[f"{node.name}/kernel"] = np.broadcast_to(zero, (inputs,))
                weights[f"{node.name}/bias"] = np.broadcast_to(zero, (1,))
        numbers = {"float16": writer.Float16, "dynamic": _Dynamic, "int8": _Int8}
        numbers["full_integer"] = _Whole
        kind = numbers.get(precision, writer.Float32)
        writer.emit(file, graph, weights, kind(), softmax=1.0 if softmax else None)
        return file

    def tensor(
        self, name: str, shape: Sequence[int], dtype: type, data=None, scale=None,
        zero_point: int = 0, axis: int = 0,
    ) -> int:  # fmt: skip
        del name, zero_point
        kept = None if data is None else True
        scales = 0 if scale is None else np.size(scale)
        self.tensors.append((tuple(shape), _TYPES[np.dtype(dtype).name], kept, scales, axis))
        return len(self.tensors) - 1

    def constant(self, name: str, values: Sequence) -> int:
        del name
        array = np.asarray(values, "<i4")
        self.tensors.append((array.shape, _TYPES["int32"], array.tobytes(), 0, 0))
        return len(self.tensors) - 1

    def operator(self, name, version, inputs, outputs, options=None) -> None:
        self.operators.append((name, version, tuple(inputs), tuple(outputs), options or {}))

    def finish(self, inputs: Mapping[str, int], outputs: Mapping[str, int], metadata=None) -> bytes:
        del metadata
        self.inputs, self.outputs = list(inputs.values()), list(outputs.values())
        return b""


# The writer's own classes, without the numbers.
class _Dynamic(writer.DynamicRange):
    quantize = staticmethod(lambda kernel, axis: (kernel, np.zeros(kernel.shape[axis])))


class _Int8(int8.Int8):
    classifier = _Dynamic()

    def __init__(self) -> None:
        super().__init__(collections.defaultdict(lambda: int8.Scale(1.0, 0)), {})

    def integers(self, kernel: np.ndarray, bias: np.ndarray, source: str):
        scale = np.zeros(len(kernel))
        return (kernel, scale), (bias, scale)


class _Whole(_Int8):
    versions, whole = int8.WholeInt8.versions, True
    classifier = property(lambda self: self)


def _compare(content: bytes, found: dict[int, Any], expected: _Expected) -> None:
    if content[4:8] != b"TFL3" or len(found[2]) != 1:
        raise _Damaged("it is no LiteRT file of one graph")
    (graph,), buffers = found[2], [buffer.get(0) for buffer in found[4]]
    tensors, operators = graph[0], graph[3]
    counts = len(tensors), len(operators)
    if counts != (len(expected.tensors), len(expected.operators)):
        raise _Damaged(f"it has {counts[0]} tensors and {counts[1]} operators")
    for number, (tensor, wanted) in enumerate(zip(tensors, expected.tensors, strict=True)):
        if not _is_tensor(content, tensor, wanted, buffers):
            raise _Damaged(f"tensor {number} has another shape, type or constant")
    codes = [(code.get(3, 0), code.get(0, 0), code.get(2, 1)) for code in found[1]]
    for number, (operator, asked) in enumerate(zip(operators, expected.operators, strict=True)):
        if not _is_operator(content, operator, asked, codes):
            raise _Damaged(f"operator {number} is not {asked[0]} as it should be")
    _check_scales(tensors, expected)
    ends = [list(graph[1]), list(graph[2])]
    named = [[entry.get(1, 0) for entry in found[7][0].get(i, ())] for i in (0, 1)]
    if not ends == named == [expected.inputs, expected.outputs] or len(found[7]) != 1:
        raise _Damaged("it has other inputs or outputs")
    if any(not entry.get(1, 0) < len(buffers) for entry in found.get(6, ())):
        raise _Damaged("its metadata is not there")


def _is_tensor(content: bytes, tensor: dict[int, Any], wanted: tuple, buffers: list) -> bool:
    shape, kind, data, scales, axis = wanted
    quantization = tensor.get(4, {})
    zeros = quantization.get(3, ())
    if (
        (tensor.get(0, ()), tensor.get(1, 0)) != (shape, kind)
        or (len(quantization.get(2, ())), len(zeros)) != (scales, scales)
        or quantization.get(6, 0) != axis
        or not all(0 < scale < math.inf for scale in quantization.get(2, ()))
    ):
        return False
    low, high = (-128, 127) if kind == _TYPES["int8"] else (0, 255)
    if any(zero if data is not None else not low <= zero <= high for zero in zeros):
        return False
    stored = buffers[tensor.get(2, 0)]
    if data is None:
        return stored is None
    # LiteRT never reads buffer 0, so its content does not matter.
    if not tensor.get(2, 0) or stored is None or stored[1] != math.prod(shape) * _BYTES[kind]:
        return False
    return data is True or content[stored[0] : sum(stored)] == data


def _is_operator(content: bytes, operator: dict[int, Any], wanted: tuple, codes: list) -> bool:
    name, version, inputs, outputs, options = wanted
    code, (table, fields) = _CODES[name], _OPTIONS[name]
    if (
        codes[operator.get(0, 0)] != (code, min(code, 127), version)
        or (operator[1], operator[2], operator.get(3, 0)) != (inputs, outputs, table)
        or (table > 0) != (4 in operator)
    ):
        return False
    given = operator.get(4, {})
    if not all(number < len(fields) for number in given):
        return False
    for number, field in enumerate(fields):
        kind = "b" if field in _ONE_BYTE else "f" if field == "beta" else "i"
        value = struct.unpack_from(f"<{kind}", content, given[number])[0] if number in given else 0
        if value != options.get(field, 0) and not (field == "beta" and 0 < value < math.inf):
            return False
    return True


def _check_scales(tensors: list[dict[int, Any]], expected: _Expected) -> None:
    """Checks the scales of sums, from whose ratios runtimes abort the process."""
    for name, _, inputs, outputs, _ in expected.operators:
        if name == "ADD" and 4 in tensors[outputs[0]]:
            scales = [tensors[place][4][2][0] for place in (*inputs, *outputs)]
            if not all(2**-10 <= scale / scales[-1] < 2**8 for scale in scales):
                raise _Damaged("the scales of a sum are too far from each other")
