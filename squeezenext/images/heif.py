"""Takes a HEIC or AVIF file (HEIF, ISO/IEC 23008-12) apart, and writes one of its picture alone.

A HEIF file holds items: pictures, the tiles of a large picture, its transparency, thumbnails, depth
maps, EXIF. The new file has the first three, in boxes that are written here: a decoder's parser
meets no others. A stream of HEVC or AV1 may hold a film, and declares a size of its own. libheif
compares that with the item's, libavif does not: an AVIF of 11 kB and 64 x 64 pixels took 520 MB.
"""

import itertools
import math
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from squeezenext.images.jpeg import Bare, ImageError

CODECS = {"HEIC": b"hvc1", "AVIF": b"av01"}  # the kind of an item that holds pixels
# Most boxes, items, properties, references and units of streams together. A photograph of 200
# million pixels in 768 tiles has 8,000.
MAX_PARTS = 30_000
_MAX_LAYERS = 4  # frames of an AV1 picture that comes in layers

_ESSENTIAL = {b"hvcC", b"av1C"}
_KEPT = {*_ESSENTIAL, b"ispe", b"pixi", b"auxC", b"colr"}
# A clean aperture (clap) cuts rows of fill, which may stay; the others are the orientation.
_APPLIED = {b"irot", b"imir", b"clap"}
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")
_DAMAGED = "is cut short or damaged in its header"

Bytes = memoryview | bytes | bytearray
Property = tuple[bytes, Bytes]  # name, content


class _File(NamedTuple):
    """The items of a HEIF file, by their numbers."""

    kinds: dict[int, bytes]  # "hvc1", "av01", "grid" and others
    places: dict[int, list[Bytes]]  # the pieces of its data; empty ones lie outside the file
    references: list[tuple[bytes, int, list[int]]]  # kind, from, to
    properties: dict[int, list[tuple[bool, Property]]]  # (essential, property)
    size: int  # bytes


class _Item(NamedTuple):
    """An item of the new file."""

    kind: bytes
    data: Bytes
    properties: list[Property]
    references: list[tuple[bytes, list[int]]]  # kind, indices of other items


class _Reader:
    """Reads big-endian numbers one after the other; ImageError behind the end of the data.

    All readers of a file share `left`, the numbers of the parts that it may still have.
    """

    def __init__(self, data: Bytes, left: Iterator[int]):
        self._data, self._left, self._bit = data, left, 0

    def bits(self, count: int) -> int:
        start, self._bit = self._bit, self._bit + count
        if self._bit > 8 * len(self._data):
            raise ImageError(_DAMAGED)
        covering = int.from_bytes(self._data[start // 8 : -(-self._bit // 8)], "big")
        return covering >> -self._bit % 8 & (1 << count) - 1

    def take(self, count: int) -> int:
        """Takes a number of `count` bytes."""
        return self.bits(8 * count)

    def bytes(self, count: int | None = None) -> Bytes:
        """Takes `count` bytes, or all that are left."""
        start = self._bit // 8
        stop = len(self._data) if count is None else start + count
        if not start <= stop <= len(self._data):
            raise ImageError(_DAMAGED)
        self._bit = 8 * stop
        return self._data[start:stop]

    def within(self, count: int | None = None) -> "_Reader":
        return _Reader(self.bytes(count), self._left)

    def times(self, count: int | None = None) -> Iterator[None]:
        """Yields once for each of `count` parts, or of those up to the end of the data."""
        while count if count is not None else self._bit < 8 * len(self._data):
            if next(self._left, None) is None:
                raise ImageError(f"has over {MAX_PARTS} parts")
            count = None if count is None else count - 1
            yield

    def leb128(self) -> int:
        """Takes a number of 7 bits a byte, of at most 5 bytes, from the lowest on (AV1, 4.10.5)."""
        digits = [128]
        while digits[-1] > 127 and len(digits) < 6:
            digits.append(self.take(1))
        return sum((digit & 127) << 7 * place for place, digit in enumerate(digits[1:]))

    def boxes(self) -> Iterator[tuple[bytes, "_Reader"]]:
        """Yields (name, content)."""
        for _ in self.times():
            size, name = self.take(4), bytes(self.bytes(4))
            size = self.take(8) - 8 if size == 1 else size
            yield name, self.within(size - 8 if size else None)


def bare(kind: str, data: bytes) -> Bare:
    """Returns the picture of a HEIC or AVIF file alone; see `containers.bare`.

    Its orientation is that of the properties `irot` and `imir`, which are part of the picture and
    left out of the new file. EXIF's is a copy for other formats, and does not count.
    """
    left = iter(range(MAX_PARTS))
    file, primary = _parsed(memoryview(data), left)
    items = _with_tiles(file, primary, CODECS[kind], 0)
    size, memory = _size(items[0].properties), _filled(_memory(items[-1]), items)
    alpha = _alpha(file, primary)
    if alpha is not None:
        mask = _with_tiles(file, alpha, CODECS[kind], len(items))
        if _size(mask[0].properties) != size:
            raise ImageError("is damaged: its transparency has another size")
        mask[0].references.append((b"auxl", [0]))
        items, memory = items + mask, memory + _filled(5, mask)
    if sum(len(item.data) for item in items) > len(data):
        raise ImageError("is damaged: its parts overlap")
    for item in items:
        _check_stream(item, left)
    held = _orientation(found for _, found in file.properties.get(primary, []))
    return Bare(*size, memory, 0, _written(kind, items), held)


def _parsed(data: memoryview, left: Iterator[int]) -> tuple[_File, int]:
    """Returns the items, and the number of the picture among them."""
    boxes = _Reader(data, left).boxes()
    meta = next((box for name, box in boxes if name == b"meta"), _Reader(bytes(4), left))
    meta.take(4)
    parts = dict(meta.boxes())
    if not {b"pitm", b"iinf", b"iloc", b"iprp"} <= parts.keys():
        raise ImageError("holds no still picture, or is damaged in its header")
    pitm, idat = parts[b"pitm"], parts[b"idat"].bytes() if b"idat" in parts else b""
    primary = pitm.take(4 if pitm.take(4) >> 24 else 2)
    references = list(_references(parts[b"iref"])) if b"iref" in parts else []
    kinds, places = dict(_kinds(parts[b"iinf"])), dict(_places(parts[b"iloc"], (data, idat)))
    properties = _properties(parts[b"iprp"])
    return _File(kinds, places, references, properties, len(data)), primary


def _kinds(iinf: _Reader) -> Iterator[tuple[int, bytes]]:
    """Yields (item, kind)."""
    iinf.take(4 if iinf.take(4) >> 24 else 2)
    for _, infe in iinf.boxes():
        item = infe.take(4 if infe.take(4) >> 24 > 2 else 2)
        infe.take(2)
        yield item, bytes(infe.bytes(4))


def _places(iloc: _Reader, sources: tuple[Bytes, ...]) -> Iterator[tuple[int, list[Bytes]]]:
    """Yields (item, pieces of its data); an empty piece is one that `sources` do not hold."""
    version = iloc.take(4) >> 24
    offsets, lengths, bases, indices = (iloc.bits(4) for _ in range(4))
    for _ in iloc.times(iloc.take(2 if version < 2 else 4)):
        item, pieces = iloc.take(2 if version < 2 else 4), []
        method = iloc.take(2) & 15 if version else 0
        elsewhere, base = iloc.take(2), iloc.take(bases)
        source = b"" if elsewhere or method >= len(sources) else sources[method]
        for _ in iloc.times(iloc.take(2)):
            iloc.take(indices if version else 0)
            start, length = base + iloc.take(offsets), iloc.take(lengths)
            piece = source[start : start + length] if length else source[start:]
            pieces.append(piece if len(piece) >= length else b"")
        yield item, pieces


def _references(iref: _Reader) -> Iterator[tuple[bytes, int, list[int]]]:
    """Yields (kind, from, to)."""
    size = 4 if iref.take(4) >> 24 else 2
    for kind, box in iref.boxes():
        yield kind, box.take(size), [box.take(size) for _ in box.times(box.take(2))]


def _properties(iprp: _Reader) -> dict[int, list[tuple[bool, Property]]]:
    """Returns the properties of each item."""
    found: dict[int, list[tuple[bool, Property]]] = {}
    boxes = [(b"", b"")]  # the number 0 stands for no property
    for kind, part in iprp.boxes():
        if kind == b"ipco":
            boxes += [(name, box.bytes()) for name, box in part.boxes()]
        if kind == b"ipma":
            version, flags = divmod(part.take(4), 1 << 24)
            for _ in part.times(part.take(4)):
                item = found.setdefault(part.take(4 if version else 2), [])
                for _ in part.times(part.take(1)):
                    essential, number = part.bits(1), part.bits(15 if flags & 1 else 7)
                    item.append((bool(essential), boxes[number]))
    return found


def _alpha(file: _File, primary: int) -> int | None:
    """Returns the item that holds the picture's transparency, if there is one."""
    for kind, item, to in file.references:
        if kind == b"auxl" and primary in to:
            for _, (name, content) in file.properties.get(item, []):
                if name == b"auxC" and bytes(content[4:60]).startswith(_ALPHA):
                    return item
    return None


def _with_tiles(file: _File, number: int, codec: bytes, first: int) -> list[_Item]:
    """Returns an item, whose index will be `first`, and behind it the tiles that it consists of."""
    item = _item(file, number, (codec, b"grid"))
    if item.kind == codec:
        return [item]
    of_it = [to for kind, source, to in file.references if (kind, source) == (b"dimg", number)]
    tiles = [_item(file, each, (codec,)) for each in dict.fromkeys(itertools.chain(*of_it))]
    if not _covered(item, [_size(tile.properties) for tile in tiles]):
        raise ImageError("is damaged: its tiles do not make up the picture")
    item.references.append((b"dimg", [first + place for place in range(1, len(tiles) + 1)]))
    return [item, *tiles]


def _covered(grid: _Item, tiles: list[tuple[int, int]]) -> bool:
    """Returns whether tiles of these sizes are alike, and as many as their grid declares."""
    reader = _Reader(grid.data, iter(()))
    side = 4 if reader.take(2) & 1 else 2
    rows, columns = reader.take(1) + 1, reader.take(1) + 1
    width, height = reader.take(side), reader.take(side)
    if tiles != tiles[:1] * rows * columns or not all(tiles[0]):
        return False
    if sum(map(math.prod, tiles)) > 4 * width * height + (1 << 20):
        raise ImageError("has tiles of {} x {} pixels, larger than the image".format(*tiles[0]))
    needed = (-(-height // tiles[0][1]), -(-width // tiles[0][0]))
    return needed == (rows, columns) and _size(grid.properties) == (width, height)


def _item(file: _File, number: int, kinds: tuple[bytes, ...]) -> _Item:
    """Returns an item with the properties that a decoder needs."""
    kind, pieces = file.kinds.get(number, b"none"), file.places.get(number, [])
    if kind not in kinds:
        what = kind.decode("latin-1")
        raise ImageError(f"holds {what!r}; HEVC in HEIC and AV1 in AVIF can be read")
    if not pieces or not all(pieces):
        raise ImageError("is cut short")
    if sum(map(len, pieces)) > file.size:  # before they are joined: an entry may cost no byte
        raise ImageError("is damaged: its parts overlap")
    properties = []
    for essential, (name, content) in file.properties.get(number, []):
        if essential and name not in _KEPT | _APPLIED:
            raise ImageError(f"needs {name.decode('latin-1')!r}, a property that is not supported")
        if name in _KEPT and (name != b"colr" or content[:4] == b"nclx"):
            properties.append((name, content))
    return _Item(kind, pieces[0] if len(pieces) == 1 else b"".join(pieces), properties, [])


def _size(properties: Iterable[Property]) -> tuple[int, int]:
    """Returns the declared (width, height)."""
    width, height = struct.unpack_from(">II", dict(properties).get(b"ispe", b""), 4)
    return width, height


def _memory(item: _Item) -> int:
    """Returns the bytes a pixel that decoding takes, with Pillow 12.3 and pillow-heif 1.8."""
    if item.kind == b"av01":
        return 14
    config = dict(item.properties).get(b"hvcC", b"")
    fine_colours, deep = config[16] & 3 == 3, config[17] & 7 > 0  # 4:4:4, and over 8 bits
    return (16 if deep else 10) if fine_colours else 11 if deep else 9


def _filled(memory: int, items: list[_Item]) -> int:
    """Returns the bytes a pixel of a picture for those a pixel of its tiles, if it has tiles."""
    picture, *tiles = (math.prod(_size(item.properties)) for item in items)
    return -(-memory * sum(tiles) // picture) if tiles else memory


def _orientation(properties: Iterable[Property]) -> int:
    """Returns what `irot` and `imir` do, in their order, as EXIF's orientation."""
    mirrored, quarters = 0, 0  # left to right; then quarter turns, counterclockwise
    for name, content in properties:
        if name == b"irot":
            quarters += content[0] & 3
        elif name == b"imir":  # 0: top to bottom, 1: left to right
            mirrored, quarters = 1 - mirrored, (0 if content[0] & 1 else 2) - quarters
    return ((1, 8, 3, 6), (2, 5, 4, 7))[mirrored][quarters % 4]


def _check_stream(item: _Item, left: Iterator[int]) -> None:
    """Raises ImageError unless an item is one picture, no larger than declared."""
    stream, found, most = _Reader(item.data, left), 1, 1
    if item.kind == b"hvc1":
        found = _hevc_pictures(_Reader(dict(item.properties).get(b"hvcC", b""), left), stream)
    if item.kind == b"av01":
        found, most = _av1_frames(stream, _size(item.properties)), _MAX_LAYERS
    if found > most:
        raise ImageError("holds a film, no picture")
    if not found:
        raise ImageError(_DAMAGED)


def _hevc_pictures(config: _Reader, stream: _Reader) -> int:
    """Returns the number of pictures that a stream has (H.265, 7.3), 2 or more for a film."""
    config.bytes(21)
    width, units = config.take(1) % 4 + 1, []
    for _ in config.times(config.take(1)):
        config.take(1)
        units += [config.bytes(config.take(2)) for _ in config.times(config.take(2))]
    units += [stream.bytes(stream.take(width)) for _ in stream.times()]
    # Units of kinds below 32 are slices, below 16 of pictures that need others.
    slices = [(unit[0] >> 1 & 63, unit[2] >> 7) for unit in units if unit[0] >> 1 & 63 < 32]
    return sum(2 if kind < 16 else first for kind, first in slices)


def _av1_frames(stream: _Reader, size: tuple[int, int]) -> int:
    """Returns the number of frames that a stream has (AV1, 5.3), which may have this size."""
    frames = 0
    for _ in stream.times():
        _, kind, layered, sized, _ = (stream.bits(count) for count in (1, 4, 1, 1, 1))
        stream.take(layered)
        unit = stream.within(stream.leb128() if sized else None)
        frames += kind in (3, 6)
        if kind == 1 and any(a > b for a, b in zip(_av1_size(unit), size, strict=True)):
            raise ImageError("is damaged: it declares two sizes")
    return frames


def _av1_size(header: _Reader) -> tuple[int, int]:
    """Returns the largest (width, height) of a sequence header (AV1, 5.5)."""
    header.bits(4)
    if header.bits(1):  # the short header of a still picture
        header.bits(5)
    else:
        if header.bits(1):
            raise ImageError("holds a film, no picture: its frames have times")
        delays = header.bits(1)
        for _ in range(header.bits(5) + 1):  # operating points
            header.bits(12)
            header.bits(1 if header.bits(5) > 7 else 0)
            header.bits(4 if delays and header.bits(1) else 0)
    wide, high = header.bits(4) + 1, header.bits(4) + 1
    return header.bits(wide) + 1, header.bits(high) + 1


def _box(name: bytes, *contents: Bytes) -> bytes:
    return b"".join((struct.pack(">I4s", 8 + sum(map(len, contents)), name), *contents))


def _written(kind: str, items: list[_Item]) -> bytes:
    """Returns a file of these items, the first of which is the picture."""
    brand = b"avif" if kind == "AVIF" else b"heic"
    head = _box(b"ftyp", brand, bytes(4), b"mif1", brand)
    kinds, links, uses, places = (bytearray() for _ in range(4))
    properties = dict.fromkeys(each for item in items for each in item.properties)
    indices = {each: place for place, each in enumerate(properties, 1)}
    start = len(head) + 8
    for number, item in enumerate(items, 1):
        kinds += _box(b"infe", struct.pack(">IHH4sx", 2 << 24, number, 0, item.kind))
        for name, others in item.references:
            to = [other + 1 for other in others]
            links += _box(name, struct.pack(f">HH{len(to)}H", number, len(to), *to))
        uses += struct.pack(">HB", number, len(item.properties))
        for each in item.properties:
            uses += struct.pack(">H", indices[each] | (each[0] in _ESSENTIAL) << 15)
        places += struct.pack(">HHHII", number, 0, 1, start, len(item.data))
        start += len(item.data)
    count = struct.pack(">H", len(items))
    meta = _box(
        b"meta", bytes(4),
        _box(b"hdlr", bytes(8), b"pict", bytes(13)),
        _box(b"pitm", bytes(4), b"\0\1"),
        _box(b"iinf", bytes(4), count, kinds),
        _box(b"iref", bytes(4), links),
        _box(b"iprp", _box(b"ipco", *(_box(*each) for each in properties)),
             _box(b"ipma", struct.pack(">II", 1, len(items)), uses)),
        _box(b"iloc", bytes(4), b"\x44\0", count, places),
    )  # fmt: skip
    return b"".join((head, _box(b"mdat", *(item.data for item in items)), meta))
