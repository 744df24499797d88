"""The streams of a `.sqz` file by Huffman codes, as Deep Compression has them.

After the table of layers: all codebooks, then all biases, as bare floats; then of each layer the
places (gaps, or the mask's bytes) and the codes, each a Huffman table, the length in bytes and the
coded bits.
"""

import struct
from collections.abc import Sequence

import numpy as np

from squeezenext.errors import InputError
from squeezenext.sqz import huffman
from squeezenext.sqz import kernels as forms
from squeezenext.sqz.kernels import Form, Parts, Shape

_LENGTH = struct.Struct("<I")
_BYTES = 256  # symbols of a gap or of eight bits of a mask


def write(kernels: Sequence[Parts], biases: np.ndarray) -> tuple[bytes, list[int]]:
    """Codes a network; as `arithmetic_streams.write`."""
    chosen = [_smallest(parts) for parts in kernels]
    codebooks = b"".join(parts.codebook.tobytes() for parts in kernels if not parts.raw)
    head = b"".join(form.pack() for form, _ in chosen)
    streams = [stream for _, stream in chosen]
    return head + codebooks + biases.tobytes() + b"".join(streams), [len(s) for s in streams]


def _smallest(parts: Parts) -> tuple[Form, bytes]:
    """Returns the form that needs the fewest bytes, and the layer's streams."""
    places = {parts.form("dense"): b""}
    if not parts.dense:
        mask = np.packbits(parts.there).astype(np.int64)
        places = {
            parts.form("mask"): _stream(mask, _BYTES),
            parts.form("gaps"): _stream(forms.to_gaps(parts.there), _BYTES),
        }
    form = min(places, key=lambda form: len(places[form]))
    if parts.raw:
        return form, places[form] + parts.codebook.tobytes()
    return form, places[form] + _stream(parts.codes, len(parts.codebook))


def _stream(symbols: np.ndarray, alphabet: int) -> bytes:
    table = huffman.lengths(np.bincount(symbols, minlength=alphabet))
    coded = huffman.encode(symbols, table)
    return huffman.pack_table(table) + _LENGTH.pack(len(coded)) + coded


def read(
    data: bytes, shapes: Sequence[Shape], biases: int, kind: np.dtype, source: str
) -> tuple[list[np.ndarray], np.ndarray]:
    """Reads what `write` wrote; as `arithmetic_streams.read`."""
    table = forms.unpack(data, list(shapes), source)
    reader = _Reader(data, forms.FORM_BYTES * len(shapes), source)
    codebooks = [reader.floats(form.negative + form.positive, kind) for form in table]
    for codebook in codebooks:
        forms.check_codebook(codebook, source)
    offsets = reader.floats(biases, kind)
    kernels = [
        _read_kernel(reader, form, shape, codebook, kind)
        for form, shape, codebook in zip(table, shapes, codebooks, strict=True)
    ]
    if reader.place != len(data):
        raise InputError(f"{source} is damaged: there is something after its last layer.")
    return kernels, offsets.astype(np.float32)


def _read_kernel(reader: "_Reader", form: Form, shape: Shape, codebook, kind) -> np.ndarray:
    planes, size = shape[0] * shape[1], int(np.prod(shape))
    there = np.ones((planes, size // planes), bool)
    if form.positions == "mask":
        packed = reader.symbols((size + 7) // 8, _BYTES).astype(np.uint8)
        bits = np.unpackbits(packed)
        if bits[size:].any():
            raise forms.damaged_values(reader.source)
        there = bits[:size].astype(bool).reshape(there.shape)
    elif form.positions == "gaps":
        there = forms.from_gaps(reader.symbols(form.gaps, _BYTES), shape, reader.source)
    count = int(there.sum())
    if form.raw:
        return forms.put_together(there, reader.floats(count, kind), shape)
    codes = reader.symbols(count, len(codebook))
    return forms.put_together(there, codebook[codes], shape)


class _Reader:
    """Takes pieces off the streams, each checked against what is left."""

    def __init__(self, data: bytes, place: int, source: str):
        self.data, self.place, self.source = data, place, source

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.place:
            raise InputError(f"{self.source} is cut inside its weights.")
        self.place += size
        return self.data[self.place - size : self.place]

    def floats(self, count: int, kind: np.dtype) -> np.ndarray:
        return np.frombuffer(self.take(count * kind.itemsize), kind)

    def symbols(self, count: int, alphabet: int) -> np.ndarray:
        packed = self.take((alphabet + 1) // 2)
        table = huffman.unpack_table(packed, alphabet, self.source)
        (size,) = _LENGTH.unpack(self.take(_LENGTH.size))
        return huffman.decode(self.take(size), count, table, self.source)
