"""A table of some six hundred hostile or odd image files, made by hand."""

import contextlib
import importlib.util
import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

BOMB = 60_000
# Parts of names that are not given to Pillow alone, and of those among them that are refused.
SPARED = (b"large", b"side4999", b"bomb", b"declared13000.jpg", b"moving_cut.webp",
          b"metadata_", b"scans_5000", b"scans_hidden", b"phones_tags", b"phones_boxes",
          b"phones_endless", b"phones_lies")  # fmt: skip
REFUSED = (b"empty_segments", b"empty_chunks", b"comments_first", b"run_lengths", b"65535",
           b"17000x17000", b"progressive16000", b"progressive13000", b"sides66000", b"x66000",
           b"sides2147483648", b"sides0x", b"zeros_8_6", b"zeros_8_3", b"zeros_16_6",
           b"zeros_16_0", b"scans_5000", b"scans_hidden", b"phones_tags",
           b"phones_boxes", b"phones_endless", b"phones_lies", b"too_large")  # fmt: skip
LARGE = (7_071, 7_071)  # 50 million pixels


def photograph(width: int = 97, height: int = 61, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (6, 9, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def heic(image: Image.Image, orientation: int = 1, note: str = "", **options) -> bytes:
    """The image as a phone stores it: `orientation` is how the phone was held."""
    import pillow_heif

    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    if note:
        exif[0x010E] = note
    options.setdefault("exif", exif.tobytes())
    pillow_heif.from_pillow(image).save(file, **options)
    return file.getvalue()


HAS_HEIC = importlib.util.find_spec("pillow_heif") is not None


def formats() -> dict[str, bytes]:
    image = photograph(98, 64)  # a HEIC is not smaller
    phones = {"plain.heic": heic(image)} if HAS_HEIC else {}
    return phones | {
        "baseline.jpg": encoded(image, "JPEG"),
        "progressive.jpg": encoded(image, "JPEG", progressive=True),
        "plain.png": encoded(image, "PNG"),
        "lossy.webp": encoded(image, "WEBP"),
        "lossless.webp": encoded(image, "WEBP", lossless=True),
        "plain.gif": encoded(image, "GIF"),
        "plain.bmp": encoded(image, "BMP"),
        "plain.avif": encoded(image, "AVIF"),
        "plain.tif": encoded(image, "TIFF"),
        "packed.tif": encoded(image, "TIFF", compression="tiff_lzw"),
    }


def truncated() -> Iterator[tuple[str, bytes]]:
    for name, data in formats().items():
        for tenth in range(10):
            yield f"cut{tenth}_{name}", data[: len(data) * tenth // 10]


def corrupted() -> Iterator[tuple[str, bytes]]:
    for name, data in formats().items():
        for seed in range(20):
            rng = np.random.default_rng(seed)
            changed = bytearray(data)
            for place in rng.integers(2, len(data), 1 + 4 * seed):
                changed[place] = rng.integers(256)
            yield f"flip{seed}_{name}", bytes(changed)


def modes() -> Iterator[tuple[str, bytes]]:
    image = photograph()
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(image.size))
    for kind, names in {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"), "WEBP": ("RGB", "RGBA"),
        "GIF": ("L", "P", "RGB", "RGBA"), "BMP": ("1", "L", "P", "RGB", "RGBA"),
        "JPEG": ("L", "RGB", "CMYK"),
    }.items():  # fmt: skip
        for mode in names:
            source = alpha if "A" in mode else image
            yield f"mode_{mode}.{kind.lower()}", encoded(source.convert(mode), kind)
    wide = np.linspace(0, 65535, 97 * 61).reshape(61, 97).astype(np.uint16)
    yield "mode_16.png", encoded(Image.fromarray(wide), "PNG")
    yield "see-through_P.png", encoded(image.convert("P"), "PNG", transparency=3)
    yield "see-through_bytes.png", encoded(image.convert("P"), "PNG", transparency=b"\0\x80" * 9)
    yield "see-through_RGB.png", encoded(image, "PNG", transparency=(9, 9, 9))
    yield "see-through.gif", encoded(image.convert("P"), "GIF", transparency=3)
    for depth, colour in ((1, 0), (2, 0), (4, 0), (16, 0), (16, 2), (16, 4), (16, 6), (8, 4)):
        yield f"png_{depth}_{colour}.png", png(24, 24, depth, colour)
    cmyk = encoded(image.convert("CMYK"), "JPEG")
    start = cmyk.index(b"\xff\xee")
    length = 2 + int.from_bytes(cmyk[start + 2 : start + 4], "big")
    yield "cmyk_without_adobe.jpg", cmyk[:start] + cmyk[start + length :]
    yield "ycck.jpg", cmyk[: start + length - 1] + b"\2" + cmyk[start + length :]
    for sampling in (0, 1, 2):
        yield f"sampling{sampling}.jpg", encoded(image, "JPEG", subsampling=sampling)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows: bytes | None = None, extra: bytes = b"") -> bytes:
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if rows is None:
        row = (width * samples * depth + 7) // 8
        noise = np.random.default_rng(depth + colour).integers(0, 256, (height, row), np.uint8)
        rows = b"".join(b"\0" + line.tobytes() for line in noise)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return plain_png(header, extra, zlib.compress(rows))


def moving() -> Iterator[tuple[str, bytes]]:
    frames = [photograph(seed=seed) for seed in range(4)]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
        yield f"moving.{kind.lower()}", data
        yield f"moving_cut.{kind.lower()}", data[: len(data) // 2]


def shapes() -> Iterator[tuple[str, bytes]]:
    for width, height in ((1, 1), (1, 20_000), (20_000, 1), (2, 3), (1, 2), (5_000, 3)):
        for kind in ("JPEG", "PNG", "BMP"):
            data = encoded(photograph(width, height), kind)
            yield f"shape_{width}x{height}.{kind.lower()}", data


def declared() -> Iterator[tuple[str, bytes]]:
    """Sizes that the pixels do not follow, and pixels that are many."""
    files = formats()
    for side in (0, 9_000, 13_000, 32_767, BOMB):
        sides = struct.pack(">HH", side, side)
        jpeg = files["baseline.jpg"]
        place = jpeg.index(b"\xff\xc0") + 5
        yield f"declared{side}.jpg", jpeg[:place] + sides + jpeg[place + 4 :]
        yield f"declared{side}.png", png(side, side, 8, 6, rows=b"\0" * 100)
        gif = files["plain.gif"]
        yield f"declared{side}.gif", gif[:6] + struct.pack("<HH", side, side) + gif[10:]
        bmp = files["plain.bmp"]
        yield f"declared{side}.bmp", bmp[:18] + struct.pack("<ii", side, side) + bmp[26:]
        extended = (
            b"VP8X" + struct.pack("<I", 10) + bytes(4) + max(side - 1, 0).to_bytes(3, "little") * 2
        )
        body = b"WEBP" + extended + files["lossy.webp"][12:]
        yield f"declared{side}.webp", b"RIFF" + struct.pack("<I", len(body)) + body
    negative = struct.pack("<ii", -98, -64)
    yield "negative.bmp", bmp[:18] + negative + bmp[26:]
    yield (
        "text_bomb.png",
        png(9, 9, 8, 2, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 27)))),
    )
    yield (
        "profile_bomb.png",
        png(9, 9, 8, 2, extra=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 26)))),
    )
    for mode in ("1", "RGBA"):
        yield f"large_{mode}.png", encoded(Image.new(mode, LARGE, 0), "PNG", compress_level=1)
    yield "large.jpg", encoded(Image.new("L", LARGE, 9), "JPEG")
    yield "large_16.png", encoded(Image.new("I;16", LARGE, 9), "PNG", compress_level=1)
    for side in (4_999, 7_071):  # below and above the limit of a WebP
        yield f"side{side}.webp", encoded(Image.new("RGB", (side, side), 9), "WEBP", method=0)


def scans() -> Iterator[tuple[str, bytes]]:
    """Scans that say nothing, for each of which libjpeg looks at every block of the image."""
    jpeg = formats()["progressive.jpg"]
    start = jpeg.rindex(b"\xff\xda")
    one = jpeg[start : start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")]
    for count in (60, 5_000):
        yield f"{count}.jpg", jpeg[:-2] + one * count + jpeg[-2:]
    hidden = b"\xff\x01\xff\xff"  # a marker without a length, and what would be a long one's
    yield "hidden.jpg", jpeg[:-2] + hidden + one * 5_000 + jpeg[-2:]


def metadata() -> Iterator[tuple[str, bytes]]:
    """What no pixel needs, and a decoder may take minutes or gigabytes for."""
    jpeg, plain = formats()["baseline.jpg"], formats()["plain.png"]
    entries = b"".join(
        struct.pack("<HHII", 0x9286, 7, 1 << 16, 26 + 12 * 5_000) for _ in range(5_000)
    )
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 5_000) + entries + bytes(4)
    blocks = [b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part
              for part in (exif[i : i + 65_000] for i in range(0, len(exif), 65_000))]  # fmt: skip
    yield "entries.jpg", jpeg[:2] + b"".join(blocks) + jpeg[2:]
    yield "empty_segments.jpg", jpeg[:2] + b"\xff\xe0\x00\x02" * 2_000_000 + jpeg[2:]
    yield "some_segments.jpg", jpeg[:2] + b"\xff\xe2\x00\x02" * 2_000 + jpeg[2:]
    yield "film.jpg", jpeg[:2] + b"\xff\xe2\x00\x10MPF\0" + bytes(10) + jpeg[2:] + jpeg
    for name in (b"cHRM", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"sPLT", b"acTL", b"gAMA"):
        large = chunk(name, b"a\0\0" + bytes(20_000_000))
        yield f"chunk_{name.decode()}.png", plain[:33] + large + plain[33:]
    yield "empty_chunks.png", plain[:33] + chunk(b"aaAa", b"") * 2_000_000 + plain[33:]
    yield "two_headers.png", plain[:33] + plain[8:33] + plain[33:]
    webp, gif = formats()["lossy.webp"], formats()["plain.gif"]
    large = b"XMP " + struct.pack("<I", 20_000_000) + bytes(20_000_000)
    extended = b"VP8X" + struct.pack("<IB", 10, 0x2C) + bytes(3) + b"\x61\0\0\x3f\0\0"
    body = b"WEBP" + extended + b"ICCP" + large[4:] + webp[12:] + large
    yield "profile.webp", b"RIFF" + struct.pack("<I", len(body)) + body
    yield "comments.gif", gif[:-1] + b"\x21\xfe\0" * 2_000_000 + b"\x3b"
    yield "comments_first.gif", gif[:13] + b"\x21\xfe\0" * 2_000_000 + gif[13:]


def bombs() -> Iterator[tuple[str, bytes]]:
    """A few bytes that declare, or unpack to, very much."""
    head = struct.pack("<IiiHHIIiiII", 40, 20_000, 20_000, 1, 8, 1, 0, 0, 0, 2, 0)
    yield "run_lengths.bmp", b"BM" + struct.pack("<IHHI", 66, 0, 0, 62) + head + bytes(8) + b"\0\1"
    jpeg = formats()["baseline.jpg"]
    place = jpeg.index(b"\xff\xc0") + 5
    for height, width in ((10, 65_535), (10, 65_500), (16_000, 16_000), (17_000, 17_000)):
        sides = struct.pack(">HH", height, width)
        yield f"declares{height}x{width}.jpg", jpeg[:place] + sides + jpeg[place + 4 :]
    progressive = formats()["progressive.jpg"]
    place = progressive.index(b"\xff\xc2") + 5
    for side in (9_000, 13_000, 16_000):
        yield (
            f"progressive{side}.jpg",
            progressive[:place] + struct.pack(">HH", side, side) + progressive[place + 4 :],
        )
    for width, height in ((66_000, 10), (10, 66_000), (65_500, 10), (1 << 31, 1), (0, 9)):
        rows = bytes((width * 3 + 1) * height) if width < 1 << 20 else b""
        yield f"sides{width}x{height}.png", png(width, height, 8, 2, rows)
    for depth, colour in ((16, 0), (16, 6), (8, 6), (8, 3), (1, 0)):
        side = 9_400
        header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
        palette = chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(256)) if colour == 3 else b""
        whole = zlib.compressobj(9)
        row = bytes((side * {0: 1, 3: 1, 6: 4}[colour] * depth + 7) // 8 + 1)
        rows = b"".join(whole.compress(row) for _ in range(side)) + whole.flush()
        yield f"zeros_{depth}_{colour}.png", plain_png(header, palette, rows)


def plain_png(header: bytes, extra: bytes, rows: bytes) -> bytes:
    """A PNG of these parts; `rows` is compressed already."""
    ends = chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + ends


def phones() -> Iterator[tuple[str, bytes]]:
    """Files of boxes and of pages that declare, unpack to, or refer to very much."""
    for name in ("plain.avif", *(["plain.heic"] if HAS_HEIC else [])):
        data = formats()[name]
        sides = b"ispe" + bytes(4) + struct.pack(">II", 98, 64)
        for side in (0, 60, 9_000, 60_000):
            lie = sides[:8] + struct.pack(">II", side, side)
            yield f"lies{side}_{name}", data.replace(sides, lie)
        first = int.from_bytes(data[:4], "big")
        boxes = b"\0\0\0\x08free" * 1_000_000
        yield f"boxes_{name}", data[:first] + boxes + data[first:]
        yield f"endless_{name}", data[:first] + b"\0\0\0\1free" + bytes(8) + data[first:]
        meta = data.index(b"meta") - 4
        for place in range(meta, data.index(b"mdat"), 11):
            yield f"huge{place}_{name}", data[:place] + b"\xff" * 4 + data[place + 4 :]
    yield "large.avif", encoded(Image.new("RGB", (5_900, 5_900), 9), "AVIF", speed=10)
    yield "too_large.avif", encoded(Image.new("L", (6_100, 6_100), 9), "AVIF", speed=10)
    if HAS_HEIC:
        yield "large.heic", heic(Image.new("RGB", LARGE, 9))
    yield "large.tif", encoded(Image.new("RGB", LARGE, 9), "TIFF", compression="tiff_lzw")
    one_strip = {"compression": "tiff_adobe_deflate", "tiffinfo": {278: LARGE[1]}}
    yield "large_strip.tif", encoded(Image.new("RGB", LARGE, 9), "TIFF", **one_strip)
    plain = formats()["plain.tif"]
    (first,) = struct.unpack_from("<I", plain, 4)
    for place in range(first, first + 180, 6):
        yield f"huge{place}.tif", plain[:place] + b"\xff" * 4 + plain[place + 4 :]
    tags = b"".join(struct.pack("<HHII", tag, 4, 1 << 18, 0) for tag in range(256, 65_000))
    yield "tags.tif", b"II*\0\x08\0\0\0" + struct.pack("<H", 64_744) + tags + bytes(1 << 21)
    tags = b"".join(struct.pack("<HHII", tag, 4, 3 << 8, 0) for tag in range(1_000, 65_000))
    yield "tags768.tif", b"II*\0\x08\0\0\0" + struct.pack("<H", 64_000) + tags + bytes(4)


def rotations() -> Iterator[tuple[str, bytes]]:
    image = photograph()
    for orientation in range(12):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"exif{orientation}.jpg", encoded(image, "JPEG", exif=exif)
        if orientation in (3, 6, 8):
            yield f"exif{orientation}.webp", encoded(image, "WEBP", exif=exif)
            yield f"exif{orientation}.png", encoded(image, "PNG", exif=exif)
    yield "exif_damaged.jpg", encoded(image, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" * 3)


def strangers() -> Iterator[tuple[str, bytes]]:
    Image.init()
    for kind in sorted(Image.SAVE.keys() - {"JPEG", "PNG", "WEBP", "GIF", "BMP"}):
        for mode in ("RGB", "P", "1"):
            with contextlib.suppress(Exception):  # some write one mode, some lack a library
                yield f"really_{kind}.jpg", encoded(photograph().convert(mode), kind)
                break
    jpeg = formats()["baseline.jpg"]
    plain = formats()["plain.png"]
    yield from {
        "empty.jpg": b"", "zero.jpg": b"\0", "zeros.png": bytes(5_000), "text.jpg": b"no image\n",
        "page.gif": b"<html><img src=x></html>", "drawing.png": b"<svg xmlns='x'/>",
        "archive.jpg": b"PK\3\4" + bytes(90), "heic.jpg": b"\0\0\0\x18ftypheic" + bytes(90),
        "avif.webp": b"\0\0\0\x18ftypavif" + bytes(90), "psd.png": b"8BPS\0\1" + bytes(90),
        "only_start.jpg": jpeg[:2], "only_mark.png": b"\x89PNG\r\n\x1a\n",
        "only_mark.gif": b"GIF89a", "only_mark.bmp": b"BM", "only_mark.webp": b"RIFF\0\0\0\0WEBP",
        "without_end.jpg": jpeg[:-2], "behind_the_end.jpg": jpeg + b"<?php" * 99,
        "two.jpg": jpeg + jpeg, "png_named.jpg": plain, "jpeg_named.png": jpeg,
        "arithmetic.jpg": jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1),
        "lossless.jpg": jpeg.replace(b"\xff\xc0", b"\xff\xc3", 1),
        "twelve_bits.jpg": jpeg.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c", 1),
        "without_tables.jpg": jpeg[:2] + jpeg[jpeg.index(b"\xff\xc0") :],
        "comments.jpg": jpeg[:2] + (b"\xff\xfe\xff\xff" + bytes(65_533)) * 50 + jpeg[2:],
        "no_palette.png": png(9, 9, 8, 3), "one_chunk.png": png(9, 9, 8, 2)[:33],
        "odd_depth.png": png(9, 9, 5, 2, rows=bytes(500)),
        "short_rows.png": png(30, 30, 8, 2, rows=bytes(99)),
        "long_rows.png": png(3, 3, 8, 2, rows=bytes(9_999)),
    }.items()  # fmt: skip


TABLES = (truncated, corrupted, modes, moving, shapes, declared, scans, metadata, bombs, phones,
          rotations, strangers)  # fmt: skip


def write(folder: Path) -> list[bytes]:
    """Writes them all and returns the paths to name; some lie in a folder that is named itself."""
    paths = []
    for table in TABLES:
        for name, data in table():
            path = folder / f"{table.__name__}_{name}"
            path.write_bytes(data)
            paths.append(os.fsencode(path))
    return paths + _odd_places(folder)


def _odd_places(folder: Path) -> list[bytes]:
    good = formats()["baseline.jpg"]
    (folder / "a folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to(folder / "nowhere")
    (folder / "circle.jpg").symlink_to(folder / "circle.jpg")
    os.mkfifo(folder / "pipe.jpg")
    with open(folder / "sparse.jpg", "wb") as file:
        file.truncate(65 << 20)
    (folder / "unreadable.jpg").write_bytes(good)
    (folder / "unreadable.jpg").chmod(0)
    names = ["a folder.jpg", "dangling.jpg", "circle.jpg", "pipe.jpg", "sparse.jpg",
             "unreadable.jpg", "absent.jpg"]  # fmt: skip
    paths = [os.fsencode(folder / name) for name in names]
    for name in (b"\xff\xfe.jpg", b"new\nline.jpg", b"'; rm.jpg", "größe.jpg".encode(), b"*.jpg"):
        path = os.fsencode(folder) + b"/" + name
        with open(path, "wb") as file:
            file.write(good)
        paths.append(path)
    return [*paths, b"/dev/zero", b"/dev/null", os.fsencode(folder / ("n" * 300 + ".jpg"))]
