"""TFRecord framing, read and written without TensorFlow.

A record is its length (uint64), that length's masked CRC32C, the payload and the payload's
masked CRC32C, little-endian (tensorflow/core/lib/io/record_writer.h).
"""

import errno
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from squeezenext.errors import InputError
from squeezenext.records.example import RecordError
from squeezenext.records.example import decode_example as decode_example
from squeezenext.records.example import encode_example as encode_example

HEADER_BYTES = 12
FRAMING_BYTES = 16
_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h: a CRC of data that holds CRCs is weak


def record_error(name: str, number: int, fault: str) -> RecordError:
    """Returns the error for record `number` (0 is the first) of the shard `name`."""
    return RecordError(
        f"{name}: record {number} {fault}; check the folder with python -m datasets.verify, "
        "then copy or convert this shard again."
    )


def frame(payload: bytes) -> bytes:
    """Returns `payload` as one record of a TFRecord file, 16 bytes longer."""
    return b"".join(frame_parts([payload]))


def frame_parts(parts: Sequence[bytes]) -> list[bytes]:
    """Returns the record whose payload is the parts' concatenation, as parts: none is copied."""
    length = sum(map(len, parts)).to_bytes(8, "little")
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return [length + _CRC.pack(_masked(length)), *parts, masked_crc(crc)]


def header_fits(header: bytes) -> bool:
    """Returns whether a record's first 12 bytes are its length and that length's checksum."""
    return len(header) == HEADER_BYTES and _HEADER.unpack(header)[1] == _masked(header[:8])


def masked_crc(crc: int) -> bytes:
    """Returns the four bytes that stand for a payload's CRC32C."""
    return _CRC.pack(_mask(crc))


def read(descriptor: int, offset: int, length: int, name: str, number: int) -> bytes:
    """Reads one framed record with one `pread` and returns its payload.

    Args:
      descriptor: the shard, open for reading; its position is neither used nor moved, so
        threads may share it.
      offset: where the record starts, in bytes.
      length: the record's length with its framing.
      name: the shard's file name, for the message.
      number: the record's number in its shard, for the message.

    Raises:
      RecordError: the file ends early, a CRC or the length differs, or the disk fails there twice.
      InputError: nothing of the file can be read, as of a network folder that is gone.
    """
    data = _pread(descriptor, length, offset, name, number)
    if len(data) != length or length < FRAMING_BYTES:
        raise record_error(name, number, f"is cut: {len(data)} of {length} bytes at {offset}")
    payload = data[HEADER_BYTES:-4]
    if _payload_length(data[:HEADER_BYTES], name, number) != len(payload):
        raise record_error(name, number, "has another length than the index says")
    if _CRC.unpack(data[-4:])[0] != _masked(payload):
        raise record_error(name, number, "fails its checksum")
    return payload


def _pread(descriptor: int, length: int, offset: int, name: str, number: int) -> bytes:
    """Only EIO can be a bad sector, and only if it comes again; others blame no single record."""
    for _ in range(2):
        try:
            return os.pread(descriptor, length, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise InputError(
                    f"{name} cannot be read ({error.strerror}); mend that and run the command "
                    "again."
                ) from error
            fault = error
    raise record_error(name, number, f"cannot be read ({fault.strerror})") from fault


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
        header = _pread(descriptor, HEADER_BYTES, position, name, number)
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
    return _mask(google_crc32c.value(data))


def _mask(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF
