"""TFRecord framing, read and written without TensorFlow.

A record is its length (uint64), that length's masked CRC32C, the payload and the payload's
masked CRC32C, little-endian (tensorflow/core/lib/io/record_writer.h).
"""

import concurrent.futures
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from squeezenext import files
from squeezenext.records.example import RecordError

HEADER_BYTES = 12
FRAMING_BYTES = 16
_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h: a CRC of data that holds CRCs is weak


def record_error(name: str, number: int, fault: str) -> RecordError:
    """Returns the error for record `number` (0 is the first) of the shard `name`."""
    return RecordError(
        f"{name}: record {number} {fault}; check the folder with python -m datasets.verify, "
        "then copy or convert this shard again."
    )


def frame_parts(parts: Sequence[bytes]) -> list[bytes]:
    """Returns the record whose payload is the parts' concatenation, as parts: none is copied."""
    length = sum(map(len, parts)).to_bytes(8, "little")
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return [length + masked_crc(length), *parts, _masked(crc)]


def masked_crc(data: bytes) -> bytes:
    """Returns the four bytes that stand for the CRC32C of `data`."""
    return _masked(google_crc32c.value(data))


def _masked(crc: int) -> bytes:
    return (((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF).to_bytes(4, "little")


def header_fits(header: bytes) -> bool:
    """Returns whether a record's first 12 bytes are its length and that length's checksum."""
    return len(header) == HEADER_BYTES and header[8:] == masked_crc(header[:8])


def read(descriptor: int, offset: int, length: int, name: str, number: int) -> bytes:
    """Reads one record with one `pread` and returns its payload.

    Threads may share the shard's descriptor, since its position is not used. The length includes
    the framing. The shard's name and the record's number in it are for messages.

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
    if data[-4:] != masked_crc(payload):
        raise record_error(name, number, "fails its checksum")
    return payload


def _pread(descriptor: int, length: int, offset: int, name: str, number: int) -> bytes:
    """Only EIO can be a bad sector, and only if it comes again; others blame no single record."""
    for _ in range(2):
        try:
            return files.pread(descriptor, length, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise files.unreadable(name, error) from error
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
    with files.open_file(path) as file:
        end = os.fstat(file.fileno()).st_size
        return np.fromiter(_walk(file.fileno(), end, path.name), np.int64)


def walk_all(paths: Sequence[Path]) -> tuple[np.ndarray, ...]:
    """Returns the `offsets` of every shard."""
    # 16: enough to hide a network file system's latency; the work itself holds the GIL.
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return tuple(pool.map(offsets, paths))


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
    if not header_fits(header):
        raise record_error(name, number, "has a damaged length, or is no TFRecord at all")
    return int.from_bytes(header[:8], "little")
