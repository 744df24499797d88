"""TFRecord framing and `tf.train.Example`, read and written without TensorFlow.

Importing TensorFlow costs a worker process about three seconds and half a gigabyte; these
two formats are small. A record is its length (uint64), that length's masked CRC32C, the
payload and the payload's masked CRC32C, little-endian (tensorflow/core/lib/io/record_writer.h).
"""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from squeezenext.errors import InputError

HEADER_BYTES = 12
FRAMING_BYTES = 16
_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h: a CRC of data that holds CRCs is weak

# Field numbers of tensorflow/core/example/{example,feature}.proto, as tags (number << 3 | type).
_FIRST = 0x0A
_ENTRY_VALUE = 0x12
_KINDS = {"bytes": 0x0A, "float": 0x12, "int": 0x1A}
_SHORT = tuple(bytes((value,)) for value in range(0x80))
_NAMES = {1: "bytes", 2: "float", 3: "int"}

Feature = Sequence[bytes] | Sequence[int] | Sequence[float] | np.ndarray


class RecordError(InputError):
    """A damaged record: names the shard, the record, what is wrong and what to do."""


def record_error(name: str, number: int, fault: str) -> RecordError:
    """Returns the error for record `number` (0 is the first) of the shard `name`."""
    return RecordError(
        f"{name}: record {number} {fault}; check the folder with python -m datasets.verify, "
        "then copy or convert this shard again."
    )


def frame(payload: bytes) -> bytes:
    """Returns `payload` as one record of a TFRecord file, 16 bytes longer."""
    length = len(payload).to_bytes(8, "little")
    return b"".join((length, _CRC.pack(_masked(length)), payload, _CRC.pack(_masked(payload))))


def read(descriptor: int, offset: int, length: int, name: str, number: int) -> bytes:
    """Reads one framed record with one `pread` and returns its payload.

    Args:
      descriptor: the shard, open for reading; its position is neither used nor moved, so
        threads may share it.
      offset: where the record starts, in bytes.
      length: the record's length with its framing.
      name: the shard's file name, for the message.
      number: the record's place in its shard, for the message.

    Raises:
      RecordError: the file ends early, or a CRC or the length differs.
    """
    data = os.pread(descriptor, length, offset)
    if len(data) != length or length < FRAMING_BYTES:
        raise record_error(name, number, f"is cut: {len(data)} of {length} bytes at {offset}")
    payload = data[HEADER_BYTES:-4]
    if _payload_length(data[:HEADER_BYTES], name, number) != len(payload):
        raise record_error(name, number, "has another length than the index says")
    if _CRC.unpack(data[-4:])[0] != _masked(payload):
        raise record_error(name, number, "fails its checksum")
    return payload


def offsets(path: Path) -> np.ndarray:
    """Returns where each record of a shard starts, and the file's end: int64 [records + 1].

    Only the headers are read. TensorFlow takes a file that is cut inside a header for a
    clean end; here it is an error.

    Raises:
      RecordError: a header's CRC is wrong or a record does not fit into the file.
      InputError: the file cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        end = os.fstat(descriptor).st_size
        return np.fromiter(_walk(descriptor, end, path.name), np.int64)
    finally:
        os.close(descriptor)


def _walk(descriptor: int, end: int, name: str) -> Iterator[int]:
    position = number = 0
    while position < end:
        yield position
        header = os.pread(descriptor, HEADER_BYTES, position)
        if len(header) < HEADER_BYTES:
            raise record_error(name, number, f"is cut inside its header, {end} bytes in")
        position += FRAMING_BYTES + _payload_length(header, name, number)
        if position > end:
            raise record_error(name, number, f"ends at byte {position} of a file of {end}")
        number += 1
    yield end


def _payload_length(header: bytes, name: str, number: int) -> int:
    length, crc = _HEADER.unpack(header)
    if crc != _masked(header[:8]):
        raise record_error(name, number, "has a damaged length, or is no TFRecord at all")
    return length


def _masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def encode_example(features: Mapping[str, Feature]) -> bytes:
    """Returns the bytes of a `tf.train.Example`, its keys in order.

    Equal to TensorFlow's own `SerializeToString(deterministic=True)` where no key starts
    with another (protobuf's C core puts "aa" before "a"; none of the schema's keys does). An
    empty list takes its kind from a numpy dtype; an empty Python list has no kind.

    Raises:
      TypeError: a value is neither bytes, an integer nor a float.
    """
    entries = []
    for key in sorted(features, key=str.encode):
        value = _delimited(_ENTRY_VALUE, _feature(features[key]))
        entries.append(_delimited(_FIRST, _delimited(_FIRST, key.encode()) + value))
    return _delimited(_FIRST, b"".join(entries))


def _feature(values: Feature) -> bytes:
    typed = isinstance(values, np.ndarray)
    if not typed and not values:
        return b""
    first = values.dtype.type() if typed else values[0]
    if isinstance(first, bytes):
        items = [_delimited(_FIRST, item) for item in values]
        return _delimited(_KINDS["bytes"], b"".join(items))
    if isinstance(first, (int, np.integer)):
        packed = b"".join([_varint(int(item) & 0xFFFFFFFFFFFFFFFF) for item in values])
        return _delimited(_KINDS["int"], packed and _delimited(_FIRST, packed))
    if isinstance(first, (float, np.floating)):
        packed = np.asarray(values, "<f4").tobytes()
        return _delimited(_KINDS["float"], packed and _delimited(_FIRST, packed))
    raise TypeError(f"A feature holds bytes, int or float, not {type(first).__name__}.")


def _delimited(tag: int, body: bytes) -> bytes:
    return b"".join((_SHORT[tag], _varint(len(body)), body))


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _SHORT[value]
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
                    features[bytes(fields.get(1, b"")).decode()] = _values(fields.get(2, b""))
    except (ValueError, IndexError, TypeError, struct.error) as error:
        raise RecordError(f"The record is not a tf.train.Example: {error}.") from error
    return features


def _values(feature: bytes) -> list:
    values: list = []
    for number, body in _fields(feature):
        kind = _NAMES[number] if number in _NAMES else "unknown"
        for inner, item in _fields(body) if kind != "unknown" else ():
            if inner == 1:
                values += _items(kind, item)
    return values


def _items(kind: str, item: bytes | int) -> list:
    """Returns what one occurrence of `value` holds: a list if packed, else one number."""
    if kind == "bytes":
        return [bytes(item)]
    if kind == "float":
        return np.frombuffer(item, "<f4").tolist()
    if isinstance(item, int):
        return [_signed(item)]
    numbers, position = [], 0
    while position < len(item):
        value, position = _read_varint(item, position)
        numbers.append(_signed(value))
    return numbers


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
