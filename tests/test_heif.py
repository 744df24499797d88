"""Tests for `squeezenext/images/heif.py`: the picture of a HEIC or AVIF file, and nothing else."""

import io
import itertools
import struct
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageOps

from squeezenext.images import containers, decoding, heif
from squeezenext.images.jpeg import ImageError
from tests.hostile_images import HAS_HEIC, encoded, heic, photograph

needs_heic = pytest.mark.skipif(not HAS_HEIC, reason="requirements-heic.txt is not installed")
KINDS = ["AVIF", pytest.param("HEIC", marks=needs_heic)]
PHOTO = photograph(200, 120)


def written(kind, image=PHOTO, **options):
    return heic(image, **options) if kind == "HEIC" else encoded(image, "AVIF", **options)


def opened(kind, data):
    """The image as the library opens the whole file."""
    if kind == "AVIF":
        return Image.open(io.BytesIO(data))
    from pillow_heif import as_plugin

    return as_plugin.HeifImageFile(io.BytesIO(data))


def clear(image=PHOTO):
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image", [PHOTO, PHOTO.convert("L"), clear()], ids=["RGB", "L", "RGBA"])
def test_the_picture_has_the_pixels_of_the_whole_file(kind, image):
    data = written(kind, image)
    assert decoding.sniff(data) == kind
    bare = containers.bare(kind, data)
    assert (bare.width, bare.height, bare.orientation) == (200, 120, 1)
    found, wanted = opened(kind, bare.data), opened(kind, data)
    assert found.mode == wanted.mode
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


@needs_heic
def test_a_photograph_in_tiles_is_put_together():
    """As iPhones store theirs."""
    image = photograph(700, 500)
    data = heic(image, tile_size=128)
    assert data.count(b"hvc1") >= 24
    found = decoding.read_image(data, "x")
    np.testing.assert_array_equal(np.asarray(found), np.asarray(opened("HEIC", data)))
    tiles = data.index(b"dimg") + 4
    (number,) = struct.unpack_from(">H", data, tiles + 4)
    twice = data[: tiles + 4] + struct.pack(">HH", number, number) + data[tiles + 8 :]
    for damaged in (data.replace(b"dimg", b"cdsc"), twice):
        with pytest.raises(ImageError, match="tiles do not make up the picture|damaged"):
            decoding.open_image(damaged)


def test_of_a_film_in_avif_the_first_picture_is_read():
    others = [photograph(200, 120, seed) for seed in (1, 2)]
    data = encoded(PHOTO, "AVIF", save_all=True, append_images=others)
    found = np.asarray(decoding.read_image(data, "x"), int)
    assert np.abs(found - np.asarray(PHOTO)).mean() < 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("upright", [False, True])
def test_a_picture_is_turned_once_whoever_asks(kind, orientation, upright):
    """The orientation is part of these formats, not a note in EXIF."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"orientation": orientation} if kind == "HEIC" else {"exif": exif.tobytes()}
    data = written(kind, **how)
    found = decoding.decode(decoding.open_image(data, upright=upright))
    wanted = ImageOps.exif_transpose(opened(kind, data))  # which libheif has turned already
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted.convert("RGB")))
    assert not found.info.get("exif")


@needs_heic
def test_the_orientation_in_exif_does_not_count():
    data = heic(PHOTO, orientation=6, note="x")
    upright = b"\x01\x12\0\x03\0\0\0\x01\0"
    assert data.count(upright) == 1
    data = data.replace(upright + b"\1", upright + b"\3")
    assert decoding.open_image(data).orientation == 6


def test_turns_and_mirrors_are_applied_in_their_order():
    image = photograph(5, 3)
    steps = {
        (b"irot", b"\1"): Image.Transpose.ROTATE_90, (b"irot", b"\2"): Image.Transpose.ROTATE_180,
        (b"irot", b"\3"): Image.Transpose.ROTATE_270, (b"irot", b"\0"): None,
        (b"imir", b"\0"): Image.Transpose.FLIP_TOP_BOTTOM,
        (b"imir", b"\1"): Image.Transpose.FLIP_LEFT_RIGHT,
    }  # fmt: skip
    for both in itertools.product(steps, steps):
        wanted = image
        for step in both:
            wanted = wanted if steps[step] is None else wanted.transpose(steps[step])
        held = image.copy()
        held.getexif()[0x0112] = heif._orientation(both)
        found = ImageOps.exif_transpose(held)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted), str(both))


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_never_reaches_a_decoder(kind):
    note, exif = "secret" * 99, Image.Exif()
    exif[0x010E] = note
    data = written(kind, exif=exif.tobytes(), xmp=note.encode(), icc_profile=note.encode())
    assert b"secret" in data and b"secret" not in containers.bare(kind, data).data


def items_of(kind, data):
    left = iter(range(heif.MAX_PARTS))
    file, primary = heif._parsed(memoryview(data), left)
    return heif._with_tiles(file, primary, heif.CODECS[kind], 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_of_many_pictures_is_refused(kind):
    """10 kB could hold a thousand pictures of 16 million pixels."""
    (item,) = items_of(kind, written(kind))
    film = heif._written(kind, [item._replace(data=bytes(item.data) * 5)])
    with pytest.raises(ImageError, match="holds a film, no picture"):
        decoding.open_image(film)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_larger_than_it_says_is_refused(kind):
    data = written(kind)
    sides = b"ispe" + bytes(4) + struct.pack(">II", 200, 120)
    assert sides in data
    small = data.replace(sides, sides[:8] + struct.pack(">II", 64, 64))
    with pytest.raises(ImageError, match="two sizes|size signaled in the file"):
        decoding.decode(decoding.open_image(small))
    large = data.replace(sides, sides[:8] + struct.pack(">II", 60_000, 60_000))
    with pytest.raises(ImageError, match=r"60000 x 60000 pixels, more than \d+"):
        decoding.open_image(large)


@pytest.mark.parametrize("kind", KINDS)
def test_a_property_that_a_picture_needs_and_nobody_knows_is_named(kind):
    (item,) = items_of(kind, written(kind))
    assert item.kind == heif.CODECS[kind]
    data = written(kind)
    unknown = data.replace(b"hvcC" if kind == "HEIC" else b"av1C", b"some", 1)
    with pytest.raises(ImageError, match="needs 'some', a property that is not supported"):
        decoding.open_image(unknown)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_overlap_are_refused(kind):
    """Each of 25 tiles says that its stream is that of all."""
    (tile,) = items_of(kind, written(kind))
    declared = [(b"ispe", struct.pack(">III", 0, 1000, 600))]
    tiles = [(b"dimg", list(range(1, 26)))]
    grid = heif._Item(b"grid", struct.pack(">BBBBHH", 0, 0, 4, 4, 1000, 600), declared, tiles)
    data = heif._written(kind, [grid, *[tile] * 25])
    assert decoding.decode(decoding.open_image(data)).size == (1000, 600)
    last = 14 * 25  # bytes of their places, which end the file
    (first,) = struct.unpack_from(">I", data, len(data) - last + 6)
    everything = struct.pack(">II", first, 25 * len(tile.data))
    places = (data[len(data) - last :][at : at + 6] + everything for at in range(0, last, 14))
    with pytest.raises(ImageError, match="its parts overlap"):
        decoding.open_image(data[:-last] + b"".join(places))


def test_pieces_that_overlap_are_not_joined():
    """Each entry of no byte stands for the whole file."""
    data = written("AVIF")
    iloc = data.index(b"iloc")
    length = int.from_bytes(data[iloc - 4 : iloc], "big")
    meta = data.index(b"meta") - 4
    places = struct.pack(">IHHHHH", 0, 0, 1, 1, 0, 20_000)  # no byte of offset and length
    box = struct.pack(">I4s", 8 + len(places), b"iloc") + places
    size = struct.pack(">I", int.from_bytes(data[meta : meta + 4], "big") - length + len(box))
    head, rest = data[meta + 4 : iloc - 4], data[iloc - 4 + length :]
    whole = b"".join((data[:meta], size, head, box, rest, bytes(1 << 14)))
    tracemalloc.start()
    with pytest.raises(ImageError, match="its parts overlap"):
        decoding.open_image(whole)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 26


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_may_not_be_far_larger_than_their_picture(kind):
    (tile,) = items_of(kind, written(kind))

    def one_tile(side, tile_side):
        sides = struct.pack(">III", 0, tile_side, tile_side)
        properties = [(n, sides if n == b"ispe" else content) for n, content in tile.properties]
        content = struct.pack(">BBBBHH", 0, 0, 0, 0, side, side)
        declared = [(b"ispe", struct.pack(">III", 0, side, side))]
        grid = heif._Item(b"grid", content, declared, [(b"dimg", [1])])
        return heif._written(kind, [grid, tile._replace(properties=properties)])

    with pytest.raises(
        ImageError, match="has tiles of 16000 x 16000 pixels, larger than the image"
    ):
        decoding.open_image(one_tile(64, 16_000))
    with pytest.raises(ImageError, match="declares 4000 x 4000 pixels, more than"):
        decoding.open_image(one_tile(4_000, 7_900))  # 62 million pixels


@pytest.mark.parametrize("kind", KINDS)
def test_countless_boxes_are_not_walked(kind):
    data = written(kind)
    first = int.from_bytes(data[:4], "big")
    with pytest.raises(ImageError, match="has over 30000 parts"):
        decoding.open_image(data[:first] + b"\0\0\0\x08free" * 1_000_000 + data[first:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_is_refused_or_lacks_metadata_alone(kind):
    data = written(kind)
    whole = np.asarray(decoding.read_image(data, "x"))
    for length in range(16, len(data) - 1, 7):
        try:
            found = decoding.decode(decoding.open_image(data[:length]))
        except ImageError:
            continue
        np.testing.assert_array_equal(np.asarray(found), whole)
        assert length > len(data) - 100


def test_what_is_no_still_picture_is_named():
    film = b"\0\0\0\x14ftypisom" + bytes(4) + b"mp42" + bytes(99)
    with pytest.raises(ImageError, match="is a film, no JPEG"):
        decoding.open_image(film)
    with pytest.raises(ImageError, match="holds no still picture, or is damaged"):
        decoding.open_image(film.replace(b"isom", b"heic"))
    other = encoded(PHOTO, "AVIF").replace(b"av01", b"avc1")
    with pytest.raises(ImageError, match="holds 'avc1'; HEVC in HEIC and AV1 in AVIF can be read"):
        decoding.open_image(other)


@needs_heic
def test_a_missing_library_is_named(monkeypatch):
    data = heic(PHOTO)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"needs the extra heic: pip install pillow-heif$"):
        decoding.open_image(data)
