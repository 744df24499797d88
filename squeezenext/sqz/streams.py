"""The coded weights of a `.sqz` file.

A table comes first, nine bytes for each layer, and the number of lanes. One run of the range coder
follows: all codebooks, all biases, then for each layer the positions, signs and codes of its
weights. See contexts.py for the context models.
"""

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from squeezenext.errors import InputError
from squeezenext.sqz import contexts as coding
from squeezenext.sqz import kernels as forms
from squeezenext.sqz.coder import Contexts, Decoder, Encoder, Meter
from squeezenext.sqz.contexts import Coder
from squeezenext.sqz.kernels import Form, Parts, Shape

_HEAD = struct.Struct("<H")
_GAP_BITS = 8
WHOLE_LANES = 64  # of whole numbers: a lane takes 24 bytes of a microcontroller's memory


class Whole(NamedTuple):
    """How a kernel of whole numbers is coded.

    Attributes:
      mask: whether a mask says which weights are not 0; else none is.
      codebook: its values but 0, ascending, int8.
    """

    mask: bool
    codebook: np.ndarray

    @property
    def negative(self) -> int:
        """The number of negative values."""
        return int((self.codebook < 0).sum())

    @property
    def depths(self) -> tuple[int, int]:
        """Bits of a code of either sign."""
        sides = self.negative, len(self.codebook) - self.negative
        below, above = (max(side - 1, 0).bit_length() for side in sides)
        return below, above

    def statistics(self) -> tuple[Contexts, Contexts, Contexts]:
        """Returns new contexts: of the mask, the signs and the codes."""
        tree = 2 << max(self.depths)
        return Contexts(coding.MASKS), Contexts(coding.SIGNS), Contexts(tree)


def write(kernels: Sequence[Parts], biases: np.ndarray) -> tuple[bytes, list[int]]:
    """Returns a network's coded bytes, and the approximate number of bytes of each layer.

    Args:
      kernels: the kernels in network order, of the dtype of `biases`.
      biases: all biases in one array, float16 or float32.
    """
    lanes = _lanes(sum(parts.there.size for parts in kernels))
    chosen = [_form(parts, lanes) for parts in kernels]
    encoder = Encoder(lanes)
    _codebooks(encoder, [form for form, _ in chosen], kernels, biases.dtype)
    _floats(encoder, len(biases), biases, biases.dtype)
    for parts, (form, _) in zip(kernels, chosen, strict=True):
        _kernel(encoder, form, parts.shape, parts.codebook, parts)
    head = b"".join(form.pack() for form, _ in chosen) + _HEAD.pack(lanes)
    return head + encoder.finish(), [size for _, size in chosen]


def read_whole(
    data: bytes,
    shapes: Sequence[Shape],
    blocks: Sequence[Sequence[int]],
    sides: Sequence[tuple[bool, int, int]],
    source: str,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns int8 kernels and int16 biases of a file of version 2, which is no longer written.

    Args:
      data: the coded bytes.
      shapes: shapes of the kernels.
      blocks: numbers of filters that are coded together, of each kernel.
      sides: of each `Whole` its mask, and how many values are negative and positive.
      source: the file's name in messages.

    Raises:
      InputError: the data are not of these shapes.
    """
    count = sum(shape[-1] for shape in shapes)
    books = sum(negative + positive for _, negative, positive in sides)
    if len(data) < books + 2 * count:
        raise InputError(f"{source} is cut inside its numbers.")
    biases = np.frombuffer(data, "<i2", count, books)
    decoder = Decoder(data[books + 2 * count :], WHOLE_LANES, source)
    kernels, start = [], 0
    for shape, parts, (mask, negative, positive) in zip(shapes, blocks, sides, strict=True):
        codebook = np.frombuffer(data, np.int8, negative + positive, start)
        start += negative + positive
        form = Whole(mask, codebook)
        if form.negative != negative or (np.diff(codebook.astype(int)) <= 0).any():
            raise forms.damaged_values(source)
        kernels.append(_blocks(decoder, form, shape, parts, source))
    decoder.finish()
    return kernels, biases


def _blocks(
    decoder: Decoder, form: Whole, shape: Shape, blocks: Sequence[int], source: str
) -> np.ndarray:
    """Reads a kernel of whole numbers, block by block; the statistics go on through all blocks."""
    chances = form.statistics()
    parts = [_block(decoder, form, (*shape[:-1], filters), chances, source) for filters in blocks]
    return np.concatenate(parts, -1)


def _block(decoder: Decoder, form: Whole, shape: Shape, chances, source: str) -> np.ndarray:
    masks, sides, codes = chances
    there = np.ones((shape[0] * shape[1], shape[2] * shape[3]), bool)
    if form.mask:
        there = coding.positions(decoder, shape, None, masks)
    count, negative = int(there.sum()), form.negative
    above = len(form.codebook) - negative
    if count and not len(form.codebook):
        raise forms.damaged_values(source)
    positive = np.full(count, above > 0)
    if negative and above:
        positive = coding.signs(decoder, shape, there, None, sides)[there] > 0
    ranks = coding.symbols(decoder, positive.astype(np.int64), form.depths, None, codes)
    if (ranks >= np.where(positive, above, negative)).any():
        raise forms.damaged_values(source)
    kernel = np.zeros(there.shape, np.int8)
    kernel[there] = form.codebook[np.where(positive, ranks + negative, negative - 1 - ranks)]
    return kernel.reshape(shape)


def _lanes(weights: int) -> int:
    """Returns the number of lanes: more are faster, and cost some three bytes each."""
    return 512 if weights >= 1 << 18 else 64 if weights >= 1 << 14 else 8


def _form(parts: Parts, lanes: int) -> tuple[Form, int]:
    """Returns the form that needs the fewest bytes, and their number."""
    ways = ["dense"] if parts.there.all() else ["mask", "gaps"]
    sizes = {}
    for way in ways:
        form, meter = parts.form(way), Meter(lanes)
        _kernel(meter, form, parts.shape, parts.codebook, parts)
        sizes[form] = meter.bits / 8
    best = min(sizes, key=sizes.get)
    return best, round(sizes[best])


def read(
    data: bytes, shapes: Sequence[Shape], biases: int, kind: np.dtype, source: str
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the kernels and biases of a network, float32; the inverse of `write`.

    Args:
      data: the coded bytes.
      shapes: shapes of the kernels in network order.
      biases: number of all biases.
      kind: float16 or float32, little-endian.
      source: the file's name in messages.

    Raises:
      InputError: the data are not of these shapes.
    """
    table = forms.unpack(data, list(shapes), source)
    start = forms.FORM_BYTES * len(shapes)
    if len(data) < start + _HEAD.size:
        raise InputError(f"{source} is cut inside its table of layers.")
    (lanes,) = _HEAD.unpack_from(data, start)
    if lanes != _lanes(sum(math.prod(shape) for shape in shapes)):
        raise InputError(f"{source} is damaged: it has {lanes} lanes.")
    decoder = Decoder(data[start + _HEAD.size :], lanes, source)
    codebooks = _codebooks(decoder, table, None, kind)
    for codebook in codebooks:
        forms.check_codebook(codebook, source)
    offsets = _floats(decoder, biases, None, kind)
    kernels = []
    for form, shape, codebook in zip(table, shapes, codebooks, strict=True):
        there, values = _kernel(decoder, form, shape, codebook, source=source)
        kernels.append(forms.put_together(there, values, shape))
    decoder.finish()
    return kernels, offsets.astype(np.float32)


def _kernel(
    coder: Coder,
    form: Form,
    shape: Shape,
    codebook: np.ndarray,
    known: Parts | None = None,
    source: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Codes a kernel, whose parts a decoder does not know yet.

    Returns which weights are not 0, and their values.
    """
    there = np.ones((shape[0] * shape[1], shape[2] * shape[3]), bool)
    if form.positions == "mask":
        there = coding.positions(coder, shape, known and known.there)
    elif form.positions == "gaps":
        gaps = known and forms.to_gaps(known.there)
        gaps = coding.symbols(coder, np.zeros(form.gaps, np.int64), (_GAP_BITS,), gaps)
        there = forms.from_gaps(gaps, shape, source)
    count = int(there.sum())
    if form.raw:
        return there, _floats(coder, count, known and known.codebook, codebook.dtype)
    if count and not len(codebook):
        raise forms.damaged_values(source)
    positive = np.full(count, form.positive > 0)
    if form.negative and form.positive:
        signs = known and known.signs
        positive = coding.signs(coder, shape, there, signs)[there] > 0
    ranks = None
    if known:
        ranks = np.where(positive, known.codes - form.negative, form.negative - 1 - known.codes)
    depths = tuple(max(side - 1, 0).bit_length() for side in (form.negative, form.positive))
    ranks = coding.symbols(coder, positive.astype(np.int64), depths, ranks)
    if (ranks >= np.where(positive, form.positive, form.negative)).any():
        raise forms.damaged_values(source)
    codes = np.where(positive, ranks + form.negative, form.negative - 1 - ranks)
    return there, codebook[codes]


def _codebooks(coder, table: Sequence[Form], kernels, kind: np.dtype) -> list[np.ndarray]:
    """Codes all codebooks, each from 0 outwards.

    The bits of a value are read as an integer, and its difference from the previous one is coded.
    """
    sides = [side for form in table for side in (form.negative, form.positive)]
    unsigned = np.dtype(f"<u{kind.itemsize}")
    known = None
    if kernels is not None:
        magnitudes = []
        for form, parts in zip(table, kernels, strict=True):
            if not form.raw:
                ordered = np.abs(parts.codebook.astype(kind))
                magnitudes += [ordered[: form.negative][::-1], ordered[form.negative :]]
        steps = [np.diff(m.view(unsigned).astype(np.int64), prepend=0) for m in magnitudes]
        known = np.concatenate([np.zeros(0, np.int64), *steps])
    steps = _steps(coder, sum(sides), known)
    found, start = [], 0
    for negative, positive in zip(sides[::2], sides[1::2], strict=True):
        below, above = np.split(steps[start : start + negative + positive], [negative])
        below, above = (_float(np.cumsum(side), kind) for side in (below, above))
        found.append(np.concatenate([-below[::-1], above]))
        start += negative + positive
    return found


def _float(patterns: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Returns floats from their bits; numbers that are too large become infinity."""
    top = int(np.array(np.inf, kind).view(f"<u{kind.itemsize}"))
    return np.minimum(patterns, top).astype(f"<u{kind.itemsize}").view(kind)


def _steps(coder, count: int, known) -> np.ndarray:
    """Codes positive integers below 2^32: the number of bits, then the bits below the top one."""
    lengths = None if known is None else np.array([int(n).bit_length() for n in known], np.int64)
    lengths = coding.symbols(coder, np.zeros(count, np.int64), (6,), lengths)
    lengths = np.clip(lengths, 1, 32)
    rest = coding.plain(coder, lengths - 1, known)
    return (1 << lengths - 1) | rest


def _floats(coder: Coder, count: int, known, kind: np.dtype) -> np.ndarray:
    """Codes floats in any order: sign and exponent with statistics, the mantissa without."""
    mantissa = {2: 10, 4: 23}[kind.itemsize]
    bits = None if known is None else known.view(f"<u{kind.itemsize}").astype(np.int64)
    tops = None if bits is None else bits >> mantissa
    depth = 8 * kind.itemsize - mantissa
    tops = coding.symbols(coder, np.zeros(count, np.int64), (depth,), tops)
    rest = coding.plain(coder, np.full(count, mantissa, np.int64), bits)
    return (tops << mantissa | rest).astype(f"<u{kind.itemsize}").view(kind)
