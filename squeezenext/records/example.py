"""`tf.train.Example` in the schema of the TF-slim and Inception ImageNet scripts.

Encoded and decoded without TensorFlow, whose import costs a worker process about three seconds and
half a gigabyte. The format is small: a message of a map of features, each a list of bytes, floats
or integers.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from squeezenext.cli import printable
from squeezenext.errors import InputError

ENCODED = "image/encoded"
HEIGHT = "image/height"
WIDTH = "image/width"
COLORSPACE = "image/colorspace"
CHANNELS = "image/channels"
FORMAT = "image/format"
FILENAME = "image/filename"
LABEL = "image/class/label"
SYNSET = "image/class/synset"
TEXT = "image/class/text"
BOX_CORNERS = tuple(f"image/object/bbox/{key}" for key in ("xmin", "ymin", "xmax", "ymax"))
_SHOWN = 200  # last characters of a file's name that messages and tables show
BOX_LABEL = "image/object/bbox/label"
NO_BOXES = np.zeros((0, 4), np.float32)

# Field numbers of tensorflow/core/example/{example,feature}.proto, as tags (number << 3 | type).
_FIRST = 0x0A
_ENTRY_VALUE = 0x12
_BYTES_LIST, _FLOAT_LIST, _INT_LIST = 0x0A, 0x12, 0x1A
_SHORT = tuple(bytes((value,)) for value in range(0x80))

Feature = Sequence[bytes] | Sequence[int] | Sequence[float] | np.ndarray


class RecordError(InputError):
    """A damaged record: names the shard, the record, what is wrong and what to do."""


class ImageExample(NamedTuple):
    """What a record says of an image."""

    image: bytes  # JPEG
    height: int
    width: int
    label: int  # 1..N; 0 is unused
    synset: str
    text: str
    filename: str
    boxes: np.ndarray = NO_BOXES  # [n, 4] float32 xmin, ymin, xmax, ymax in 0..1


def example_parts(example: ImageExample) -> list[bytes]:
    """Returns an image's `tf.train.Example` in three parts, of which the second is the image.

    Source of the schema: build_imagenet_data.py of tensorflow/models, research/inception.
    Colorspace and channels are constants there too: readers decode with three channels.

    What repeats from image to image is encoded once: 30 times as fast as encoding every feature.
    The bytes are those of TensorFlow's `SerializeToString(deterministic=True)`.
    """
    image, height, width, label, synset, text, filename, boxes = example
    before = _class_entries(label, synset, text) + _bytes_head(ENCODED, len(image))
    name = filename.encode()
    rest = _size_entries(height, width) if boxes is NO_BOXES else _rest(height, width, boxes, label)
    after = b"".join((_name_head(len(name)), name, rest))
    return [example_head(len(before) + len(image) + len(after)) + before, image, after]


@functools.lru_cache(maxsize=2048)
def _class_entries(label: int, synset: str, text: str) -> bytes:
    """The entries before the image's, in the order of their keys."""
    names = {SYNSET: [synset.encode()], TEXT: [text.encode()]}
    return encode_entries(names | {CHANNELS: [3], LABEL: [label], COLORSPACE: [b"RGB"]})


@functools.lru_cache(maxsize=256)
def _name_head(size: int) -> bytes:
    return _bytes_head(FILENAME, size)


@functools.lru_cache(maxsize=8192)
def _size_entries(height: int, width: int) -> bytes:
    return _rest(height, width, NO_BOXES, 0)


def _rest(height: int, width: int, boxes: np.ndarray, label: int) -> bytes:
    """The entries behind the file name's."""
    sizes = {FORMAT: [b"JPEG"], HEIGHT: [height], WIDTH: [width]}
    corners = dict(zip(BOX_CORNERS, boxes.T, strict=True))
    return encode_entries(sizes | corners | {BOX_LABEL: np.full(len(boxes), label, np.int64)})


def example_head(size: int) -> bytes:
    """Returns what stands before an Example's map entries of so many bytes."""
    return b"\x0a" + _varint(size)


def encode_entries(features: Mapping[str, Feature]) -> bytes:
    """Returns the features' map entries, in the order of their keys.

    That is TensorFlow's order where no key starts with another (protobuf's C core puts "aa" before
    "a"; none of the schema's keys does). An empty list takes its kind from a numpy dtype; an empty
    Python list has no kind.

    Raises:
      TypeError: a value is neither bytes, an integer nor a float.
    """
    entries = []
    for key in sorted(features, key=str.encode):
        value = _delimited(_ENTRY_VALUE, _feature(features[key]))
        entries.append(_delimited(_FIRST, _key(key) + value))
    return b"".join(entries)


def _bytes_head(key: str, size: int) -> bytes:
    """Returns what stands before one byte string of this size in its map entry."""
    head = b""
    for tag in (b"\x0a", b"\x0a", b"\x12"):  # the value, its list, its feature
        head = tag + _varint(size + len(head)) + head
    head = _key(key) + head
    return b"\x0a" + _varint(size + len(head)) + head


@functools.lru_cache(maxsize=64)
def _key(key: str) -> bytes:
    return _delimited(_FIRST, key.encode())


def _feature(values: Feature) -> bytes:
    typed = isinstance(values, np.ndarray)
    if not typed and not values:
        return b""
    first = values.dtype.type() if typed else values[0]
    if isinstance(first, bytes):
        items = [_delimited(_FIRST, item) for item in values]
        return _delimited(_BYTES_LIST, b"".join(items))
    if isinstance(first, (int, np.integer)):
        tag = _INT_LIST
        packed = b"".join([_varint(int(item) & 0xFFFFFFFFFFFFFFFF) for item in values])
    elif isinstance(first, (float, np.floating)):
        tag = _FLOAT_LIST
        packed = np.asarray(values, "<f4").tobytes()
    else:
        raise TypeError(f"A feature holds bytes, int or float, not {type(first).__name__}.")
    return _delimited(tag, packed and _delimited(_FIRST, packed))


def _delimited(tag: int, body: bytes) -> bytes:
    return b"".join((_SHORT[tag], _varint(len(body)), body))


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _SHORT[value]
    if 0x4000 <= value < 0x200000:  # an image's length: a fifth of the loop's time
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_example(payload: bytes) -> dict[str, list[bytes] | list[int] | list[float]]:
    """Returns the features of a `tf.train.Example`; a feature without a kind is [].

    Nothing larger than `payload` is ever made: lengths are checked against what is left.

    Raises:
      RecordError: `payload` is not an Example.
    """
    features = {}
    try:
        for number, part in _fields(payload):
            for inner, entry in _fields(part) if number == 1 else ():
                if inner == 1:
                    fields = dict(_fields(entry))
                    features[_bytes(fields.get(1, b"")).decode()] = _values(fields.get(2, b""))
    except (ValueError, IndexError, TypeError) as error:
        raise RecordError(f"The record is not a tf.train.Example: {error}.") from error
    return features


def image_and_class(payload: bytes, classes: int, name: str) -> tuple[bytes, int]:
    """Returns a record's encoded image and its class in 0..classes - 1.

    Raises:
      InputError: the record is damaged, or its label is none of the network's.
    """
    features = decode_example(payload)
    encoded, label = single(features, ENCODED, bytes), single(features, LABEL, int)
    if encoded is None or label is None:
        raise InputError(f"{name} has no image or no label; convert the data again.")
    if not 1 <= label <= classes:
        raise InputError(
            f"{name}: the label of a record is not in 1..{classes}; give data of its classes."
        )
    return encoded, label - 1


def file_name(payload: bytes) -> str:
    """Returns the name of a record's image, printable and shortened; "" if none can be read."""
    try:
        encoded = single(decode_example(payload), FILENAME, bytes) or b""
    except RecordError:
        return ""
    name = printable(encoded.decode("utf-8", "replace"))
    return name if len(name) <= _SHOWN else f"...{name[-_SHOWN:]}"


def single(features: Mapping[str, list], name: str, kind: type):
    """Returns the value of a feature that has one value of this type, else None."""
    values = features.get(name, [])
    return values[0] if len(values) == 1 and isinstance(values[0], kind) else None


def _values(feature: bytes) -> list:
    values: list = []
    for number, body in _fields(feature):
        decoder = _DECODERS.get(number)
        for inner, item in _fields(body) if decoder else ():
            if inner == 1:
                values += decoder(item)
    return values


def _bytes(item: memoryview | bytes | int) -> bytes:
    if isinstance(item, int):  # bytes(1 << 40) would take that much memory
        raise TypeError(f"the number {item} stands for a text")
    return bytes(item)


def _ints(item: memoryview | int) -> list[int]:
    """Returns the numbers of one occurrence of `value`: packed ones, or a single one."""
    if isinstance(item, int):
        return [_signed(item)]
    numbers, position = [], 0
    while position < len(item):
        value, position = _read_varint(item, position)
        numbers.append(_signed(value))
    return numbers


# By field number; `item` is one occurrence of `value`.
_DECODERS = {
    1: lambda item: [_bytes(item)],
    2: lambda item: np.frombuffer(item, "<f4").tolist(),
    3: _ints,
}


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _fields(message: bytes) -> Iterator[tuple[int, memoryview | int]]:
    """Yields (field number, content) of a message: an int for a varint, else its bytes."""
    view, position = memoryview(message), 0
    while position < len(view):
        tag, position = _read_varint(view, position)
        kind = tag & 7
        if kind == 0:
            value, position = _read_varint(view, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, position = _read_varint(view, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field {tag >> 3} has the unknown wire type {kind}")
        if size > len(view) - position:
            raise ValueError(f"field {tag >> 3} is longer than what is left")
        yield tag >> 3, view[position : position + size]
        position += size


def _read_varint(view: memoryview | bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise ValueError("a number is longer than 64 bits")
