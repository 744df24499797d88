"""The layout of a kernel in a `.sqz` file.

A kernel [height, width, in, out] (a dense matrix is 1 x 1) is stored in that order. The positions
of its weights are stored in the smallest of three ways: not at all (no weight is 0), as a mask of
one bit for each weight, or as gaps: one byte before each nonzero weight counts the zeros, 0..254.
A byte of 255 stands for 255 zeros, and another gap follows.
"""

import dataclasses
import struct
from typing import Literal, get_args

import numpy as np

from squeezenext.errors import InputError

Positions = Literal["dense", "gaps", "mask"]
POSITIONS = get_args(Positions)
SKIP = 255  # zeros without a weight after them
MAX_VALUES = 1 << 12  # values of a codebook
Shape = tuple[int, int, int, int]
_FORM = struct.Struct("<BHHI")
FORM_BYTES = _FORM.size
_RAW = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Shared:
    """A kernel whose weights share values.

    Attributes:
      codebook: [values] float32, ascending, without 0.
      codes: integers of the kernel's shape: 0 for a weight of 0, else 1 + the index of its value.
    """

    codebook: np.ndarray
    codes: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The kernel, float32."""
        return np.concatenate([np.zeros(1, np.float32), self.codebook])[self.codes]

    @classmethod
    def of(cls, kernel: np.ndarray) -> "Shared":
        """Returns a kernel as it is: every different weight is a value of the codebook."""
        codebook, codes = np.unique(kernel[kernel != 0], return_inverse=True)
        found = np.zeros(kernel.shape, np.int64)
        found[kernel != 0] = codes + 1
        return cls(codebook.astype(np.float32), found)


@dataclasses.dataclass(frozen=True)
class Form:
    """The entry of a kernel in the file's table of layers.

    Attributes:
      positions: how the positions of the weights are stored.
      raw: whether the weights are stored as they are, without a codebook.
      negative, positive: number of negative and positive values in the codebook.
      gaps: number of gaps.
    """

    positions: Positions
    raw: bool
    negative: int
    positive: int
    gaps: int

    def pack(self) -> bytes:
        """Returns the entry's nine bytes."""
        kind = POSITIONS.index(self.positions) + _RAW * self.raw
        return _FORM.pack(kind, self.negative, self.positive, self.gaps)


def unpack(data: bytes, shapes: list[Shape], source: str) -> list[Form]:
    """Returns the form of each shape; raises InputError if one is impossible, or cut off."""
    size = FORM_BYTES * len(shapes)
    if len(data) < size:
        raise InputError(f"{source} is cut inside its table of layers.")
    rows = zip(_FORM.iter_unpack(data[:size]), shapes, strict=True)
    return [_form(*row, shape, source) for row, shape in rows]


def _form(kind: int, negative: int, positive: int, gaps: int, shape: Shape, source: str) -> Form:
    raw, place = divmod(kind, _RAW)
    size = int(np.prod(shape))
    possible = (
        raw <= 1
        and place < len(POSITIONS)
        and negative + positive <= (0 if raw else min(MAX_VALUES, size))
        and gaps <= (size + size // SKIP if POSITIONS[place] == "gaps" else 0)
    )
    if not possible:
        raise InputError(f"{source} is damaged: a layer of shape {shape} cannot have its form.")
    return Form(POSITIONS[place], bool(raw), negative, positive, gaps)


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a kernel that are coded one by one.

    Attributes:
      shape: height, width, in, out.
      there: bool [height x width, in x out], true for weights that are not 0.
      codes: [nonzero weights] integers, indices into the codebook; empty for a raw kernel.
      codebook: ascending values; for a raw kernel the weights themselves.
      raw: see `Form`.
    """

    shape: Shape
    there: np.ndarray
    codes: np.ndarray
    codebook: np.ndarray
    raw: bool

    @property
    def negative(self) -> int:
        """The number of negative values in the codebook."""
        return int((self.codebook < 0).sum())

    @property
    def signs(self) -> np.ndarray:
        """-1, 0 or 1 for each weight, int8, in the shape of `there`."""
        found = np.zeros(self.there.shape, np.int8)
        found[self.there] = np.where(self.codes < self.negative, -1, 1)
        return found

    def form(self, positions: Positions) -> Form:
        """Returns the form with positions stored in one of the ways."""
        gaps = len(to_gaps(self.there)) if positions == "gaps" else 0
        sides = (0, 0) if self.raw else (self.negative, len(self.codebook) - self.negative)
        return Form(positions, self.raw, *sides, gaps)


def take_apart(kernel: Shared | np.ndarray, kind: np.dtype) -> Parts:
    """Rounds a kernel to `kind` and returns its parts; weights that round to 0 are dropped."""
    values = kernel.values if isinstance(kernel, Shared) else kernel
    values = values.astype(kind)
    shape = values.shape if values.ndim == 4 else (1, 1, *values.shape)
    flat = values.reshape(shape[0] * shape[1], -1)
    there = flat != 0
    codebook, codes = np.unique(flat[there], return_inverse=True)
    if len(codebook) > MAX_VALUES:
        return Parts(shape, there, np.zeros(0, np.int64), flat[there], True)
    return Parts(shape, there, codes, codebook, False)


def put_together(there: np.ndarray, values: np.ndarray, shape: Shape) -> np.ndarray:
    """Returns the kernel, float32 [height, width, in, out]."""
    kernel = np.zeros(there.shape, np.float32)
    kernel[there] = values
    return kernel.reshape(shape)


def to_gaps(there: np.ndarray) -> np.ndarray:
    """Returns the gaps before the nonzero weights, 0..255."""
    distance = np.diff(np.flatnonzero(there), prepend=-1) - 1
    skips = distance // SKIP
    gaps = np.full(int(skips.sum()) + len(distance), SKIP, np.int64)
    gaps[np.cumsum(skips + 1) - 1] = distance % SKIP
    return gaps


def from_gaps(gaps: np.ndarray, shape: Shape, source: str) -> np.ndarray:
    """Returns which weights are not zero, bool [height x width, in x out], none outside of it."""
    steps = np.where(gaps == SKIP, SKIP, gaps + 1)
    places = (np.cumsum(steps) - 1)[gaps < SKIP]
    there = np.zeros(int(np.prod(shape)), bool)
    if len(places) and places[-1] >= there.size:
        raise InputError(f"{source} is damaged: a weight lies outside its layer of shape {shape}.")
    there[places] = True
    return there.reshape(shape[0] * shape[1], -1)


def damaged_values(source: str) -> InputError:
    """Returns the error for values that no encoder writes."""
    return InputError(f"{source} is damaged: its weights cannot be what was written.")


def check_codebook(codebook: np.ndarray, source: str) -> None:
    """Raises InputError unless the values are ascending, finite and not 0."""
    # Compared, not subtracted: a difference of infinities would warn.
    ascending = (codebook[1:] > codebook[:-1]).all()
    if not (np.isfinite(codebook).all() and ascending and (codebook != 0).all()):
        raise damaged_values(source)
