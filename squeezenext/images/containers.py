"""Takes an image file apart, so that a decoder is given what its pixels need and nothing else.

Decoders also read what no pixel needs. Pillow 12.3 took 6.1 GB and 63 s for a JPEG of 1.1 MB whose
4,000 EXIF entries share one megabyte, 4.9 GB for a BMP of 66 bytes in run lengths, and 929 MB for a
PNG with a chunk cHRM of 62 MB. So each container is walked, a JPEG's in jpeg.py, HEIC and AVIF in
heif.py, the others here: the declared size is known before a decoder runs, metadata is cut out, and
of a film or of several pages only the first is left.
"""

import itertools
import struct
from collections.abc import Iterator

from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    COMPRESSION,
    EXTRASAMPLES,
    FILLORDER,
    IMAGELENGTH,
    IMAGEWIDTH,
    JPEGTABLES,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    PREDICTOR,
    ROWSPERSTRIP,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    STRIPBYTECOUNTS,
    STRIPOFFSETS,
    TILEBYTECOUNTS,
    TILELENGTH,
    TILEOFFSETS,
    TILEWIDTH,
    YCBCRSUBSAMPLING,
)

from squeezenext.images import heif
from squeezenext.images.jpeg import Bare, ImageError, orientation

_DAMAGED = "is cut short or damaged in its header"
MAX_CHUNKS = 100_000  # chunks of a PNG, WebP or GIF; 64 MB of empty ones take Python seconds
# Blocks of a GIF up to its first frame's end. Encoders fill them to 254 or 255 bytes, so that 64 MB
# have 264,000; 64 MB of one byte each would take Python and Pillow three seconds.
MAX_BLOCKS = 400_000


def bare(kind: str, data: bytes) -> Bare:
    """Returns an image file without metadata.

    Args:
      kind: "PNG", "GIF", "BMP", "WebP", "TIFF", "HEIC" or "AVIF", as `decoding.sniff` says.
      data: the file.

    Raises:
      ImageError: the container is damaged, or of a kind that is not supported.
    """
    walks = {"PNG": _png, "GIF": _gif, "BMP": _bmp, "WebP": _webp, "TIFF": _tiff}
    try:
        return walks[kind](data) if kind in walks else heif.bare(kind, data)
    except (struct.error, LookupError, ZeroDivisionError) as error:
        raise ImageError(_DAMAGED) from error


_PNG_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def _png(data: bytes) -> Bare:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    kept, names, held = [data[:8]], set(), 1
    for name, chunk in _png_chunks(data):
        if name == b"eXIf":
            held = orientation(chunk[8:])
        if name in _PNG_NEEDED and (name == b"IDAT" or name not in names):
            kept.append(chunk)
            names.add(name)
    if b"IDAT" not in names:
        raise ImageError(_DAMAGED)
    palette, alpha = colour == 3, colour in (4, 6) or b"tRNS" in names
    memory = (9 if palette else 8) if alpha else 5 if palette or colour == 0 else 4
    memory = 6 if depth == 16 and colour == 0 else memory
    return Bare(width, height, memory, 0, b"".join(kept), held)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields (name, whole chunk) up to IEND; a chunk that the file cuts short is the last."""
    position = 8
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, position)
        yield name, data[position : position + 12 + length]
        position += 12 + length
        if name == b"IEND":
            return
    raise ImageError(f"has over {MAX_CHUNKS} chunks")


def _gif(data: bytes) -> Bare:
    """Keeps the first frame, with the colours and the transparency that it uses."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _palette_size(flags)
    head, control, counted = data[:position], b"", iter(range(MAX_BLOCKS))
    for _ in range(MAX_CHUNKS):
        mark = data[position]
        if mark == 0x2C:
            break
        if not mark:  # fill between blocks, which decoders skip
            position += 1
            continue
        if mark != 0x21:  # the end without an image, or a block of a wrong length
            raise ImageError(_DAMAGED)
        end = _behind_blocks(data, position + 2, counted)
        if data[position + 1] == 0xF9:  # graphic control: the index of the transparent colour
            control = data[position:end]
        position = end
    else:
        raise ImageError(f"has over {MAX_CHUNKS} chunks")
    left, top, columns, rows, flags = struct.unpack_from("<HHHHB", data, position + 1)
    end = _behind_blocks(data, position + 11 + _palette_size(flags), counted)
    frame = data[position:end]
    size = max(width, left + columns), max(height, top + rows)  # Pillow enlarges the canvas
    return Bare(*size, 9, 0, head + control + frame + b"\x3b")


def _palette_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _behind_blocks(data: bytes, position: int, counted: Iterator[int]) -> int:
    """Returns the position behind a chain of blocks, each of which begins with its length.

    Beyond the file's end if the chain is cut short: Pillow then says so. `counted` ends with the
    last block that the file may have.
    """
    size = len(data)
    for _ in counted:
        if position >= size or not data[position]:
            return position + 1
        position += data[position] + 1
    raise ImageError(f"has over {MAX_BLOCKS} blocks")


def _bmp(data: bytes) -> Bare:
    """Refuses run lengths, of which a few bytes fill any image, and a file without its pixels."""
    offset, size = struct.unpack_from("<II", data, 10)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        method = 0
    else:
        width, height, _, bits, method = struct.unpack_from("<iiHHI", data, 18)
    if method not in (0, 3, 6):
        raise ImageError("is a compressed BMP; save it uncompressed")
    width, height = abs(width), abs(height)  # a negative height means rows from the top
    if offset + (width * bits + 31) // 32 * 4 * height > len(data):
        raise ImageError(f"declares {width} x {height} pixels, more than it holds")
    return Bare(width, height, 8 if bits == 32 else 5 if bits <= 8 else 4, 0, data)


_WEBP_ALPHA, _WEBP_ANIMATED = 0x10, 0x02
_WEBP_MEMORY = 14  # libwebp and Pillow hold three copies of the canvas, and a part of a fourth


def _webp(data: bytes) -> Bare:
    """Keeps the image, or the first frame, with its transparency."""
    parts = dict(_first_chunks(data, 12))
    extended = parts.get(b"VP8X", b"")
    flags = extended[8] if extended else 0
    names = (b"ALPH", b"VP8 ", b"VP8L")
    if flags & _WEBP_ANIMATED:
        names = (b"ANIM", b"ANMF")
    if extended:
        width, height = (int.from_bytes(extended[i : i + 3], "little") + 1 for i in (12, 15))
        alone = bytes([flags & (_WEBP_ALPHA | _WEBP_ANIMATED)])
        extended = extended[:8] + alone + extended[9:18]
    elif b"VP8L" in parts:
        (bits,) = struct.unpack_from("<I", parts[b"VP8L"], 9)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = struct.unpack_from("<HH", parts.get(b"VP8 ", b""), 14)
        width, height = width & 0x3FFF, height & 0x3FFF  # the upper bits are a scale
    body = b"WEBP" + extended + b"".join(parts[name] for name in names if name in parts)
    whole = b"RIFF" + struct.pack("<I", len(body)) + body
    exif = parts.get(b"EXIF", b"")[8:].removeprefix(b"Exif\0\0")  # some writers add a JPEG's mark
    return Bare(width, height, _WEBP_MEMORY, 0, whole, orientation(exif))


def _first_chunks(data: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields (name, chunk) of the first chunk of each name that the file holds whole."""
    names = set()
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            return
        name, length = struct.unpack_from("<4sI", data, position)
        stop = position + 8 + length
        if name not in names and stop <= len(data):
            names.add(name)
            yield name, data[position:stop] + bytes(length % 2)
        position = stop + length % 2
    raise ImageError(f"has over {MAX_CHUNKS} chunks")


_TIFF_NEEDED = {
    IMAGEWIDTH, IMAGELENGTH, BITSPERSAMPLE, COMPRESSION,
    PHOTOMETRIC_INTERPRETATION, FILLORDER, SAMPLESPERPIXEL,
    PLANAR_CONFIGURATION, PREDICTOR, COLORMAP, EXTRASAMPLES, SAMPLEFORMAT,
    JPEGTABLES, YCBCRSUBSAMPLING, TILEWIDTH, TILELENGTH,
}  # fmt: skip
_TIFF_STRIPS = (STRIPOFFSETS, STRIPBYTECOUNTS)
_TIFF_TILES = (TILEOFFSETS, TILEBYTECOUNTS)
_TIFF_ORIENTATION, _TIFF_SUBFILE = 274, 254
_TIFF_READ = {
    *_TIFF_NEEDED, *_TIFF_STRIPS, *_TIFF_TILES, ROWSPERSTRIP, _TIFF_ORIENTATION, _TIFF_SUBFILE,
}  # fmt: skip
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 7: "B"}  # types of whole numbers; 7 is bytes
# None, LZW, JPEG, deflate (two numbers), run lengths: neither fax nor what raw photographs have.
_TIFF_COMPRESSIONS = {1, 5, 7, 8, 32946, 32773}
_TIFF_COLOURS = {0, 1, 2, 3, 5, 6}  # grey (two ways), RGB, palette, inks, YCbCr
_TIFF_LONG = {*_TIFF_STRIPS, *_TIFF_TILES, JPEGTABLES}
# Values of one of these tags (a strip for each row of four planes), and of others (a palette).
_MAX_VALUES, _MAX_OTHER_VALUES = 1 << 18, 3 << 8


def _tiff(data: bytes) -> Bare:
    """Keeps the first page, as a file that has no other."""
    order = "<" if data[:2] == b"II" else ">"
    tags = _tiff_tags(data, order)
    width, height, samples, compression, colours = (
        tags[tag][0]
        for tag in (IMAGEWIDTH, IMAGELENGTH, SAMPLESPERPIXEL, COMPRESSION,
                    PHOTOMETRIC_INTERPRETATION)
    )  # fmt: skip
    bits = tags[BITSPERSAMPLE]
    if tags.get(_TIFF_SUBFILE, (0,))[0] & 1:
        raise ImageError("begins with a preview, as raw photographs do; save it as JPEG")
    if compression not in _TIFF_COMPRESSIONS or colours not in _TIFF_COLOURS:
        kind = f"compression {compression} and colours {colours}"
        raise ImageError(f"is a TIFF of {kind}, which is not supported; save it as JPEG")
    if not {*bits[:1]} == {*bits} <= {1, 2, 4, 8, 16} or {*tags.get(SAMPLEFORMAT, (1,))} != {1}:
        raise ImageError("is a TIFF of other samples than of 8 or 16 bits; save it as JPEG")
    pieces = _tiff_pieces(memoryview(data), tags)
    held = tags.get(_TIFF_ORIENTATION, (1,))[0]
    # The image, a copy in RGB where it is of another kind, and a strip as large as the image.
    memory = (5 if colours in (2, 6) and samples == 3 else 9) + -(-samples * bits[0] // 8)
    whole = _tiff_of(order, tags, pieces)
    return Bare(width, height, memory, 0, whole, held if 1 <= held <= 8 else 1)


def _tiff_tags(data: bytes, order: str) -> dict[int, tuple[int, ...]]:
    """Returns the numbers that the first page holds, or the standard's defaults."""
    found: dict[int, tuple[int, ...]] = {}
    (first,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, first)
    for entry in range(first + 2, first + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
        most = _MAX_VALUES if tag in _TIFF_LONG else _MAX_OTHER_VALUES
        if tag in found or tag not in _TIFF_READ:
            continue
        if kind not in _TIFF_TYPES or not 0 < number <= most:
            continue
        values = struct.Struct(f"{order}{number}{_TIFF_TYPES[kind]}")
        far = values.size > 4
        place = struct.unpack_from(order + "I", data, entry + 8)[0] if far else entry + 8
        found[tag] = values.unpack_from(data, place)
    defaults = (BITSPERSAMPLE, COMPRESSION, SAMPLESPERPIXEL)
    return dict.fromkeys(defaults, (1,)) | found


def _tiff_pieces(data: memoryview, tags: dict[int, tuple[int, ...]]) -> list[memoryview]:
    """Returns the strips or tiles, of which there must be as many as the image's size needs."""
    (width, *_), (height, *_) = tags[IMAGEWIDTH], tags[IMAGELENGTH]
    tiled = TILEWIDTH in tags
    wide, high = width, min(height, tags.get(ROWSPERSTRIP, (height,))[0])
    if tiled:
        wide, high = tags[TILEWIDTH][0], tags[TILELENGTH][0]
    across, down = -(-width // wide), -(-height // high)
    samples, planes = tags[SAMPLESPERPIXEL][0], 1
    if tags.get(PLANAR_CONFIGURATION) == (2,):
        samples, planes = 1, samples
    offsets, sizes = (tags[tag] for tag in (_TIFF_TILES if tiled else _TIFF_STRIPS))
    if not len(offsets) == len(sizes) == across * down * planes:
        raise ImageError(_DAMAGED)
    if across * wide * down * high > 4 * width * height + (1 << 20):
        raise ImageError(f"has tiles of {wide} x {high} pixels, larger than the image")
    pieces = [data[at : at + size] for at, size in zip(offsets, sizes, strict=True)]
    row = -(-wide * samples * tags[BITSPERSAMPLE][0] // 8)
    last = high if tiled else height - (down - 1) * high
    for number, (piece, size) in enumerate(zip(pieces, sizes, strict=True)):
        rows = last if number // across % down == down - 1 else high
        if len(piece) < size or tags[COMPRESSION] == (1,) and size < rows * row:
            raise ImageError("is cut short")
    if sum(sizes) > len(data):
        raise ImageError("is damaged: its parts overlap")
    tags[ROWSPERSTRIP] = (high,)
    return pieces


def _tiff_of(order: str, tags: dict[int, tuple[int, ...]], pieces: list[memoryview]) -> bytes:
    """Returns a TIFF of one page with these strips or tiles, behind which its tags stand."""
    tiled, ends = TILEWIDTH in tags, list(itertools.accumulate(map(len, pieces), initial=8))
    kept = {tag: values for tag, values in tags.items() if tag in _TIFF_NEEDED}
    offsets, sizes = _TIFF_TILES if tiled else _TIFF_STRIPS
    kept |= {offsets: tuple(ends[:-1]), sizes: tuple(map(len, pieces))}
    if not tiled:
        kept[ROWSPERSTRIP] = tags[ROWSPERSTRIP]
    start = ends[-1] + ends[-1] % 2
    entries, beyond = struct.pack(order + "H", len(kept)), b""
    behind = start + 2 + 12 * len(kept) + 4
    for tag, values in sorted(kept.items()):
        kind = 7 if tag == JPEGTABLES else 3 if max(values) < 1 << 16 else 4
        field = struct.pack(f"{order}{len(values)}{_TIFF_TYPES[kind]}", *values).ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, kind, len(values))
        if len(field) > 4:
            beyond, field = (
                beyond + field + bytes(len(field) % 2),
                struct.pack(order + "I", behind + len(beyond)),
            )
        entries += field
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, start)
    return b"".join((head, *pieces, bytes(ends[-1] % 2), entries, bytes(4), beyond))
