"""The parts of caffe.proto's messages that hold weights, read by the wire format alone.

Fields by number. NetParameter: `layer` 100, and `layers` 2 of files before 2015. A layer: name,
type, blobs, convolution_param, batch_norm_param. A blob: `data` 5 or `double_data` 8, packed, and
`shape` 7, or num, channels, height and width 1 to 4. Everything else is passed over.
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

MAX_FIELDS = 200_000  # of a file; SqueezeNext's have some ten thousand
EPSILON = 1e-5  # BatchNormParameter.eps, where a file says nothing
_NAMES_OF_V1 = {
    4: "Convolution",
    14: "InnerProduct",
    18: "ReLU",
    25: "Eltwise",
}  # V1LayerParameter.LayerType
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LAYER = {1: "name", 2: "type", 7: "blob", 106: "convolution", 139: "norm"}
_LAYER_OF_V1 = {4: "name", 5: "type", 6: "blob", 10: "convolution"}
_REPEATED = (1, 3, 4, 6, 18)  # BlobShape.dim; ConvolutionParameter's pad, kernel, stride, dilation


class Damaged(Exception):
    """What is wrong with the bytes."""


@dataclasses.dataclass
class Layer:
    """A layer as far as it is read.

    Attributes:
      kind: its type, as the newer files name it.
      blobs: float arrays without leading dimensions of 1.
      convolution: ConvolutionParameter's integers by field, or None where the file has none.
      epsilon: BatchNormParameter's.
    """

    name: str = ""
    kind: str = ""
    blobs: list[np.ndarray] = dataclasses.field(default_factory=list)
    convolution: dict[int, list[int]] | None = None
    epsilon: float = EPSILON


def layers(data: bytes) -> list[Layer]:
    """Returns a NetParameter's layers in order.

    Raises:
      Damaged: the bytes are not such a message.
    """
    reader, found = _Reader(), []
    for number, kind, value in reader.fields(memoryview(data)):
        if number in (100, 2) and kind == _BYTES:
            found.append(reader.layer(value, first=number == 2))
    return found


class _Reader:
    """Reads messages, few enough fields in all that no file takes long."""

    def __init__(self):
        self._left = MAX_FIELDS

    def fields(self, data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
        """Yields (number, wire type, value) of a message."""
        place = 0
        while place < len(data):
            self._left -= 1
            if self._left < 0:
                raise Damaged("it has too many fields")
            key, place = _varint(data, place)
            number, kind = key >> 3, key & 7
            if kind == _VARINT:
                value, place = _varint(data, place)
            else:
                size = {_FIXED32: 4, _FIXED64: 8}.get(kind, -1)
                if kind == _BYTES:
                    size, place = _varint(data, place)
                if not 0 <= size <= len(data) - place or not number:
                    raise Damaged("a field is cut or of no kind")
                value, place = data[place : place + size], place + size
            yield number, kind, value

    def layer(self, data: memoryview, first: bool) -> Layer:
        """Reads a LayerParameter, or (`first`) a V1LayerParameter."""
        names, layer = _LAYER_OF_V1 if first else _LAYER, Layer()
        for number, kind, value in self.fields(data):
            what = names.get(number)
            if what == "type" and first and kind == _VARINT:
                layer.kind = _NAMES_OF_V1.get(value, f"number {value}")
            elif kind != _BYTES:
                continue
            elif what == "name":
                layer.name = _text(value)
            elif what == "type":
                layer.kind = _text(value)
            elif what == "blob":
                layer.blobs.append(self._blob(value))
            elif what == "convolution":
                layer.convolution = self._numbers(value)
            elif what == "norm":
                layer.epsilon = self._epsilon(value)
        return layer

    def _blob(self, data: memoryview) -> np.ndarray:
        """Returns a BlobProto as an array of its shape, without leading dimensions of 1."""
        legacy, shape, parts = {}, None, []
        for number, kind, value in self.fields(data):
            if kind == _VARINT and 1 <= number <= 4:
                legacy[number] = value
            elif number == 7 and kind == _BYTES:
                shape = self._numbers(value).get(1, [])
            elif number in (5, 8) and kind == _BYTES:
                numbers = np.dtype("<f4" if number == 5 else "<f8")
                if len(value) % numbers.itemsize:
                    raise Damaged("a blob is cut")
                parts.append(np.frombuffer(value, numbers))
        if shape is None:
            shape = [legacy.get(place, 1) for place in (1, 2, 3, 4)]
        array = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        if len(shape) > 8:
            raise Damaged("a blob has too many dimensions")
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
        if len(shape) > 4 or math.prod(shape) != array.size:
            raise Damaged(f"a blob of shape {tuple(shape[:5])} has {array.size} numbers")
        return array.reshape(shape)

    def _numbers(self, data: memoryview) -> dict[int, list[int]]:
        """Returns the integers of a message by field, packed or not."""
        found: dict[int, list[int]] = {}
        for number, kind, value in self.fields(data):
            if kind == _VARINT:
                found.setdefault(number, []).append(value)
            elif kind == _BYTES and number in _REPEATED and len(value) <= 64:
                place = 0
                while place < len(value):
                    one, place = _varint(value, place)
                    found.setdefault(number, []).append(one)
        return found

    def _epsilon(self, data: memoryview) -> float:
        epsilon = EPSILON
        for number, kind, value in self.fields(data):
            if number == 3 and kind == _FIXED32:
                epsilon = float(np.frombuffer(value, "<f4")[0])
        return epsilon


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, place
    raise Damaged("a number is cut")


def _text(value: memoryview) -> str:
    return bytes(value[:100]).decode("utf-8", "replace")
