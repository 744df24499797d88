"""Tests for `squeezenext/images/`: every command decodes and crops an image in the same way."""

import dataclasses
import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps, PngImagePlugin
from scipy import ndimage

from squeezenext.config.images import (
    CAFFE_RANDOM_RESIZED_CROP,
    CAFFE_SHORT_SIDE,
    CAFFE_SQUASH,
    TORCHVISION,
    RandomResizedCrop,
    ShiftScaleRotate,
)
from squeezenext.convert import images
from squeezenext.convert.options import LAYOUTS, ConvertOptions
from squeezenext.errors import InputError
from squeezenext.images import augment, containers, decoding, geometry, jpeg
from squeezenext.images import crops as images_crops
from squeezenext.predict import predictor
from squeezenext.records import dataset, samples
from squeezenext.records.reader import Reader
from tests import hostile_images
from tests.converting import convert

CHOICES = [CAFFE_SQUASH, CAFFE_SHORT_SIDE, TORCHVISION, CAFFE_RANDOM_RESIZED_CROP]


def photograph(height, width, seed=0):
    """A smooth random image as a JPEG."""
    small = np.random.default_rng(seed).integers(0, 255, (9, 9, 3)).astype(np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.mark.parametrize("images", CHOICES)
@pytest.mark.parametrize(("height", "width"), [(300, 400), (411, 287), (256, 256), (120, 700),
                                               (60, 50)])  # fmt: skip
def test_a_saved_model_sees_what_prediction_sees(images, height, width):
    data = photograph(height, width)
    pillow = geometry.centre_pixels(decoding.read_image(data, "x"), images)
    eager = images_crops.centre(tf.constant(data), images).numpy()
    dataset = tf.data.Dataset.from_tensors(data)
    mapped = next(iter(dataset.map(lambda data: images_crops.centre(data, images)))).numpy()
    assert pillow.shape == eager.shape == (images.size, images.size, 3)
    assert np.abs(pillow.astype(int) - eager).max() <= 1  # Pillow computes in integers
    np.testing.assert_array_equal(eager, mapped)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (411, 287), (333, 500)])
def test_the_short_side_crop_is_torchvision_s(height, width):
    """Resize(256), CenterCrop(224) as torchvision computes them, in whole pixels."""
    image = decoding.read_image(photograph(height, width), "x")
    short = min(height, width)
    resized = image.resize((256 * width // short, 256 * height // short), Image.Resampling.BILINEAR)
    top, left = (int(round((side - 224) / 2.0)) for side in (resized.height, resized.width))
    expected = np.asarray(resized)[top : top + 224, left : left + 224].astype(int)
    assert np.abs(geometry.centre_pixels(image, TORCHVISION) - expected).max() <= 1


def test_normalize_gives_each_channel_its_own_mean():
    pixels = np.float32([[[10, 20, 30]]])
    np.testing.assert_allclose(
        geometry.normalize(pixels, CAFFE_SQUASH), [[[30 - 104, 20 - 117, 10 - 123]]]
    )
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for normalized in (
        geometry.normalize(pixels, TORCHVISION),
        geometry.normalize(tf.constant(pixels), TORCHVISION).numpy(),
    ):
        np.testing.assert_allclose(normalized, expected, rtol=1e-5)


def numbers_of(images, examples, epoch=0, seed=0):
    """The random numbers of some examples, one row each."""
    examples = np.array(examples)
    steps = images.augmentation
    return augment.random_numbers(steps, seed, np.full(len(examples), epoch), examples)


def crops(data, rectangles, size):
    """The windows of one JPEG, [copies, size, size, 3]."""
    how = images_crops.reading(rectangles[tf.newaxis], size)
    return images_crops.crops(data, images_crops.Reading(*(part[0] for part in how)), size)


def shown(data, height, width, images, numbers):
    """What training shows of one JPEG, an image for each row of random numbers."""
    count = len(numbers)
    heights, widths = (tf.constant([side] * count, tf.int64) for side in (height, width))
    rectangles = images_crops.windows(heights, widths, images, tf.constant(numbers))
    pixels = [crops(data, r[tf.newaxis], images.size)[0] for r in rectangles]
    pixels = images_crops.moved(tf.stack(pixels), images, tf.constant(numbers))
    labels = tf.zeros([count], tf.int64)
    return augment.augmented(pixels, labels, tf.constant(numbers), images, 1)[0].numpy()


@pytest.mark.parametrize("images", CHOICES)
def test_augmentation_is_a_function_of_its_numbers(images):
    data = tf.constant(photograph(300, 400))
    first, again, other = shown(data, 300, 400, images, numbers_of(images, [1, 1, 2]))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (images.size, images.size, 3) and not np.array_equal(first, other)


def test_random_crops_are_windows_of_the_resized_image():
    images = dataclasses.replace(CAFFE_SQUASH, size=60, resize=64)
    data = photograph(64, 64)
    whole = np.asarray(decoding.read_image(data, "x"), np.float32)
    # Without the last column: libjpeg interpolates colour there from the window alone, which moves
    # it by up to 12 of 255; decoding more to be exact would cost every image time.
    windows = {whole[y : y + 60, x : x + 59].tobytes() for y in range(5) for x in range(5)}
    found = shown(tf.constant(data), 64, 64, images, numbers_of(images, range(150)))
    seen = {np.ascontiguousarray(crop[:, :-1]).tobytes() for crop in found}
    assert seen <= windows and len(seen) == 25  # all 5 x 5, both ends included


@pytest.mark.parametrize(("height", "width"), [(300, 400), (90, 70), (1200, 1700), (2000, 60)])
@pytest.mark.parametrize("images", CHOICES)
def test_windows_lie_inside_the_image(images, height, width):
    numbers = tf.constant(numbers_of(images, range(200)))
    heights, widths = (tf.constant([side] * 200, tf.int64) for side in (height, width))
    top, left, rows, columns = images_crops.windows(heights, widths, images, numbers).numpy().T
    assert min(top.min(), left.min()) >= 0 and min(rows.min(), columns.min()) >= 1
    assert (top + rows).max() <= height and (left + columns).max() <= width
    if isinstance(images.augmentation[0], RandomResizedCrop) and height < 2000:
        share = rows * columns / (height * width)
        assert 0.07 < share.min() < 0.15 and share.max() > 0.85


@pytest.mark.parametrize(("side", "reach"), [(64, 1), (200, 16), (640, 12), (1500, 20)])
def test_crops_show_their_window_at_every_reduction(side, reach):
    """Against Pillow's antialiased resize: bilinear at up to twofold, averaged above."""
    data = photograph(side, side)
    whole = decoding.read_image(data, "x")
    first, last = side // 8, side // 8 + side * 3 // 4
    rectangle = tf.constant([[first, first, last - first, last - first]])
    crop = crops(tf.constant(data), rectangle, 48)[0].numpy().astype(float)
    expected = whole.resize((48, 48), Image.Resampling.BILINEAR, (first, first, last, last))
    away = np.abs(crop - np.asarray(expected, float))
    # The chroma at the border is interpolated without what lies outside and was not decoded.
    assert away[2:-2, 2:-2].max() <= reach and away.mean() <= 3.5


def test_copies_of_one_decoding_are_the_crops_they_would_be_alone():
    data = tf.constant(photograph(300, 400))
    rectangles = tf.constant([[10, 20, 100, 120], [150, 200, 140, 190]])
    both = crops(data, rectangles, 48).numpy().astype(int)
    for place in (0, 1):
        alone = crops(data, rectangles[place : place + 1], 48)[0].numpy()
        # The chroma of a border pixel is interpolated from what has been decoded around it.
        assert np.abs(both[place] - alone)[1:-1, 1:-1].max() <= 1


def test_shift_scale_rotate_against_scipy():
    """Draws of several images, computed again by scipy's affine_transform."""
    step = ShiftScaleRotate(shift=0.1, scale=0.2, rotate_degrees=30.0, probability=0.5)
    image = np.asarray(decoding.read_image(photograph(64, 64), "x"))
    numbers = augment.uniform(3, np.zeros(6, int), np.arange(6), 5)
    stacked = tf.constant(np.stack([image] * 6))
    moved = images_crops.shift_scale_rotate(stacked, tf.constant(numbers), step).numpy()
    assert 0 < (numbers[:, 4] < 0.5).sum() < 6
    for ours, row in zip(moved, numbers, strict=True):
        if row[4] >= 0.5:
            np.testing.assert_array_equal(ours, image)
            continue
        x, y, grow, turn = row[:4] * 2 - 1
        angle, factor = np.deg2rad(turn * 30), 1 + grow * 0.2
        inverse = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        inverse = np.array(inverse) / factor
        centre = 31.5 + np.array([y, x]) * 6.4
        for channel in range(3):
            theirs = ndimage.affine_transform(
                image[..., channel].astype(float), inverse, 31.5 - inverse @ centre, order=1,
                mode="reflect",
            )  # fmt: skip
            assert np.abs(ours[..., channel].astype(int) - theirs)[4:-4, 4:-4].max() <= 1.5


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


GREY = np.linspace(0, 255, 64 * 64).reshape(64, 64)


@pytest.mark.parametrize(
    ("data", "mean"),
    [
        (encoded(Image.fromarray(np.uint8(GREY)), "JPEG"), 127.5),
        (encoded(Image.fromarray(np.uint16(GREY * 257)), "PNG"), 127),
        (encoded(Image.new("CMYK", (9, 9), (0, 0, 0, 128)), "JPEG"), 127),
        (encoded(Image.new("RGBA", (9, 9), (10, 20, 30, 255)), "PNG"), 20),
        (encoded(Image.new("P", (9, 9), 0), "PNG", transparency=0), 255),
        (encoded(Image.new("LA", (9, 9), (0, 0)), "PNG"), 255),
        (encoded(Image.new("1", (9, 9), 1), "PNG"), 255),
        (encoded(Image.new("RGB", (9, 9), (9, 9, 9)), "GIF"), 9),
        (encoded(Image.new("RGB", (1, 1), (9, 9, 9)), "BMP"), 9),
    ],
    ids=["grey", "16-bit", "CMYK", "RGBA", "palette", "grey-alpha", "bilevel", "GIF", "BMP"],
)
def test_every_kind_of_image_becomes_rgb(data, mean):
    image = decoding.read_image(data, "x")
    assert image.mode == "RGB"
    assert np.asarray(image).mean() == pytest.approx(mean, abs=1.5)
    assert geometry.centre_pixels(image, CAFFE_SQUASH).shape == (227, 227, 3)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", r"is empty\."),
        (b"text", r"is text, no JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF or HEIC image\."),
        (photograph(64, 64)[:500], r"is cut short or damaged in its header\."),
        (photograph(64, 64)[:-500], r"cannot be decoded \(.*[Tt]runcated.*\)\."),
        (b"\x89PNG\r\n\x1a\n", r"is cut short or damaged in its header\."),
    ],
)
def test_what_is_no_image_is_named(data, fault):
    with pytest.raises(InputError, match=rf"^photo\.jpg {fault}$"):
        decoding.read_image(data, "photo.jpg")


@pytest.mark.parametrize(
    ("kind", "mode", "side", "limit"),
    [("PNG", "RGB", 9_500, 89478485), ("PNG", "RGBA", 8_000, 62914560),
     ("WEBP", "RGB", 6_100, 35951177), ("GIF", "L", 7_500, 55924053)],
)  # fmt: skip
def test_an_image_that_takes_too_much_memory_is_refused_before(kind, mode, side, limit):
    data = encoded(Image.new(mode, (side, side)), kind, method=0)
    declared = f"{side} x {side} pixels, more than {limit}"
    with pytest.raises(InputError, match=rf"^x declares {declared}\.$"):
        decoding.read_image(data, "x")


def test_the_photograph_of_a_phone_is_decoded_at_half_its_sides():
    """Of 108 million pixels, nine blocks that are one colour each."""
    colours = Image.fromarray(np.arange(0, 243, 3, np.uint8).reshape(9, 9, 1).repeat(3, 2))
    photo = colours.resize((12_000, 9_000), Image.Resampling.NEAREST)
    image = decoding.read_image(encoded(photo, "JPEG", quality=90), "x")
    assert image.size == (6_000, 4_500)
    shown = image.resize((9, 9), Image.Resampling.NEAREST)
    assert np.abs(np.asarray(shown, int) - np.asarray(colours, int)).max() <= 1


def test_metadata_never_reaches_a_decoder():
    """An entry of EXIF, a comment, a profile, a text: a decoder may do anything with them."""
    exif = Image.Exif()
    exif[0x010E] = "secret" * 99
    note = b"secret" * 99
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "secret" * 99)
    image = Image.fromarray(np.uint8(GREY)).convert("RGB")
    files = {
        "JPEG": encoded(image, "JPEG", exif=exif, icc_profile=note, comment=note),
        "PNG": encoded(image, "PNG", exif=exif, pnginfo=info),
        "WebP": encoded(image, "WEBP", exif=exif, icc_profile=note, xmp=note, lossless=True),
        "GIF": encoded(image, "GIF", comment=note),
        "TIFF": encoded(image, "TIFF", exif=exif, icc_profile=note, tiffinfo={270: "secret" * 99}),
    }
    for kind, data in files.items():
        bare = jpeg.bare(data) if kind == "JPEG" else containers.bare(kind, data)
        assert b"secret" in data and b"secret" not in bare.data, kind
        assert (
            decoding.read_image(bare.data, "x").tobytes()
            == Image.open(io.BytesIO(data)).convert("RGB").tobytes()
        )


def plain_cmyk(colour=(200, 80, 30)):
    """A CMYK JPEG of one colour whose inks are stored as they are, without Adobe's marker."""
    inks = tuple(colour) + (255,)  # Pillow writes 255 - ink and Adobe's marker, which is cut out
    data = encoded(Image.new("CMYK", (64, 64), inks), "JPEG", quality=98)
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def test_records_and_prediction_see_the_same_colours_of_plain_inks(tmp_path):
    """Pillow takes every CMYK JPEG for Adobe's, whose inks are inverted, and would see black."""
    for folder in ("train/one", "train/two", "validation/one", "validation/two"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        photo = tmp_path / "photos" / folder / "plain.jpg"
        photo.write_bytes(plain_cmyk())
    made = convert(
        tmp_path / "photos", tmp_path / "records", layout="folder", workers=1, show_progress=False
    )
    recorded, _ = samples.read_examples(Reader(made.splits["train"]), 0, 2)
    for image in (recorded, predictor.read(photo), decoding.to_rgb(Image.open(photo))):
        assert np.abs(np.asarray(image, int) - (200, 80, 30)).max() <= 3


def test_fill_between_segments_is_skipped_and_other_bytes_are_damage():
    data = photograph(64, 96)
    plain = encoded(Image.open(io.BytesIO(data)).convert("P"), "GIF")
    places = ((data, 20), (plain, 13 + 3 * 256))
    for whole, place in places:
        strayed = whole[:place] + bytes(3) + whole[place:]
        found = decoding.read_image(strayed, "x")
        assert found.tobytes() == decoding.read_image(whole, "x").tobytes()
    in_text_mode = data.replace(b"\n", b"\r\n")
    for damaged in (in_text_mode, *(w[:place] + b"a" + w[place:] for w, place in places)):
        for use in (decoding.open_image, images.normalise):
            with pytest.raises(decoding.ImageError, match="damaged in its header"):
                use(damaged)


def test_a_gif_of_countless_small_blocks_is_refused_wherever_they_stand():
    whole = encoded(Image.new("L", (9, 9)), "GIF")
    start = whole.index(b",\0\0\0\0")
    assert decoding.read_image(whole, "a").size == (9, 9)
    half = b"\x01\x01" * (containers.MAX_BLOCKS // 2)
    comment, frame = b"\x21\xfe" + half + b"\0", whole[: start + 11] + half + half + b"\0;"
    for data in (whole[:start] + 2 * comment + whole[start:], frame):
        with pytest.raises(InputError, match="a has over 400000 blocks"):
            decoding.read_image(data, "a")


def test_of_a_tiff_the_first_page_alone_is_read():
    pages = [Image.new("RGB", (30, 20), colour) for colour in ("red", "green", "blue")]
    for how in ({}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}):
        data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:], **how)
        assert len(containers.bare("TIFF", data).data) < len(data) / 2
        assert np.abs(np.asarray(decoding.read_image(data, "x"), int) - (255, 0, 0)).max() <= 1


def tiff(**changed):
    """A TIFF of 4 x 2 grey pixels in one strip, with some tags changed."""
    tags = {
        "width": (256, 4), "height": (257, 2), "bits": (258, 8), "compression": (259, 1),
        "colours": (262, 1), "offsets": (273, 8), "rows": (278, 2), "sizes": (279, 8),
    } | changed  # fmt: skip
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.values())]
    return b"".join((b"II*\0", struct.pack("<I", 16), bytes(range(8)),
                     struct.pack("<H", len(entries)), *entries, bytes(4)))  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"width": (256, 0)}, "declares 0 x 2 pixels|damaged"),
        ({"width": (256, 60_000), "height": (257, 60_000)}, "cut short|pixels"),
        ({"rows": (278, 0)}, "damaged"),
        ({"rows": (278, 1)}, "damaged"),
        ({"sizes": (279, 7)}, "is cut short"),
        ({"sizes": (279, 1 << 30)}, "is cut short"),
        ({"offsets": (273, 1 << 30)}, "is cut short"),
        ({"compression": (259, 6)}, "is a TIFF of compression 6 and colours 1"),
        ({"colours": (262, 32803)}, "compression 1 and colours 32803, which is not supported"),
        ({"bits": (258, 32)}, "other samples than of 8 or 16 bits"),
        ({"format": (339, 3)}, "other samples than of 8 or 16 bits"),
        ({"preview": (254, 1)}, "begins with a preview, as raw photographs do"),
        ({"tiles": (322, 0), "tall": (323, 16)}, "damaged"),
        ({"tiles": (322, 60_000), "tall": (323, 60_000), "at": (324, 8), "of": (325, 8)},
         "has tiles of 60000 x 60000 pixels"),
    ],
)  # fmt: skip
def test_a_tiff_is_checked_before_a_decoder_sees_it(changed, fault):
    good = np.asarray(decoding.read_image(tiff(), "x"))[..., 0]
    assert good.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(decoding.ImageError, match=fault):
        decoding.open_image(tiff(**changed))


def held(orientation, kind, name="", byteorder="<"):
    """A photograph that a camera stored as it was held, with EXIF's orientation."""
    exif = Image.Exif()
    exif.endian = byteorder
    exif[0x0112] = orientation
    if name:
        exif[0x010F] = name  # the maker, an entry before the orientation
    file = io.BytesIO()
    lossless = {"lossless": True} if kind == "WebP" else {"quality": 95} if kind == "JPEG" else {}
    picture = Image.open(io.BytesIO(photograph(48, 80)))
    if kind == "HEIC":
        picture = picture.resize((96, 64))  # HEIC's smallest side
        return hostile_images.heic(picture, orientation, quality=-1, chroma=444)
    picture.save(file, kind, exif=exif, **lossless)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("byteorder", "<>")
def test_a_photograph_is_turned_upright_where_it_is_asked_for(kind, orientation, byteorder):
    data = held(orientation, kind, "Maker", byteorder)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    upright = decoding.decode(decoding.open_image(data, upright=True))
    np.testing.assert_array_equal(np.asarray(upright), np.asarray(wanted.convert("RGB")))
    stored = decoding.decode(decoding.open_image(data))
    assert stored.size == (80, 48)
    np.testing.assert_array_equal(np.asarray(stored), np.asarray(decoding.read_image(data, "x")))


DAMAGED_EXIF = [
    b"",
    b"II*\0",
    b"II*\0\xff\xff\xff\xff",
    b"MM\0*\0\0\0\x08\0\x01\x01\x12",
    b"no EXIF at all",
    b"II*\0\x08\0\0\0\xff\xff" + bytes(12 * 65535),
    b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\1\0\0\0\x09\0\0\0",
]


@pytest.mark.parametrize("exif", DAMAGED_EXIF)
def test_damaged_exif_means_upright(exif):
    assert jpeg.orientation(exif) == 1


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("byteorder", "<>")
def test_a_saved_model_turns_what_prediction_turns(orientation, byteorder):
    choice = dataclasses.replace(CAFFE_SHORT_SIDE, size=40, resize=48, orientation="exif")
    data = held(orientation, "JPEG", "Maker", byteorder)
    upright = decoding.decode(decoding.open_image(data, upright=True))
    found = images_crops.centre(tf.constant(data), choice).numpy()
    wanted = geometry.centre_pixels(upright, choice)
    assert np.abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("exif", DAMAGED_EXIF)
def test_a_saved_model_takes_damaged_exif_for_upright(exif):
    data = photograph(48, 80)
    segment = b"Exif\0\0" + exif[:60_000]
    data = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    choice = dataclasses.replace(CAFFE_SHORT_SIDE, size=40, resize=48)
    turning = dataclasses.replace(choice, orientation="exif")
    found = [images_crops.centre(tf.constant(data), each).numpy() for each in (choice, turning)]
    np.testing.assert_array_equal(*found)


def test_the_first_exif_segment_counts():
    """Editors leave the camera's own behind theirs; Pillow reads the first, too."""
    first, second = held(1, "JPEG"), held(6, "JPEG")
    start = second.index(b"\xff\xe1")
    end = start + 2 + int.from_bytes(second[start + 2 : start + 4], "big")
    place = first.index(b"\xff\xdb")
    both = first[:place] + second[start:end] + first[place:]
    assert jpeg.header(second).orientation == 6 and jpeg.header(both).orientation == 1


def test_a_large_photograph_is_turned_after_it_was_reduced():
    """As conversion with --max_side reads it: the wanted size is that of the upright image."""
    image = Image.new("RGB", (1600, 400))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    opened = decoding.open_image(file.getvalue(), at_least=(100, 400), upright=True)
    assert decoding.decode(opened).size == (100, 400)
    made = images.normalise(file.getvalue(), smaller=images.Smaller(400, 90), upright=True)
    assert (made.width, made.height) == (100, 400) == decoding.read_image(made.data, "x").size
    assert made.repair == "turned upright (EXIF 6)"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "AVIF", "HEIC"])
@pytest.mark.parametrize("max_side", [None, 40])
def test_conversion_and_prediction_turn_alike(kind, max_side):
    smaller = max_side and images.Smaller(max_side, 95)
    for orientation in range(1, 9):
        if kind == "HEIC" and not hostile_images.HAS_HEIC:
            pytest.skip("requirements-heic.txt is not installed")
        data = held(orientation, kind)
        made = images.normalise(data, smaller=smaller, upright=True)
        wanted = decoding.decode(decoding.open_image(data, upright=True)).resize(
            (made.width, made.height), Image.Resampling.BICUBIC
        )
        found = decoding.read_image(made.data, "x")
        assert found.size == wanted.size
        assert (
            np.abs(np.asarray(found, int) - np.asarray(wanted, int)).mean() < 10
        )  # turned wrongly: 40
        assert images.normalise(made.data, upright=True).data == made.data
        wanted = "" if kind == "JPEG" else f"{kind} encoded as JPEG"
        turned = f"turned upright (EXIF {orientation})" if orientation > 1 else ""
        assert made.repair == ", ".join(filter(None, (wanted, turned)))


def test_only_photographs_of_people_are_turned():
    """A published data set's figures were measured without."""
    turned = {layout for layout in LAYOUTS if ConvertOptions(layout=layout).upright}
    assert turned == {"folder", "csv"}
    data = held(6, "JPEG")
    assert images.normalise(data).data == data


def test_records_of_held_photographs_are_upright_and_say_so(tmp_path):
    for number, folder in enumerate(("train/a", "train/b", "validation/a", "validation/b")):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        (tmp_path / "photos" / folder / "x.jpg").write_bytes(held(5 + number, "JPEG"))
    made = convert(
        tmp_path / "photos", tmp_path / "records", layout="folder", workers=1, show_progress=False
    )
    assert made.raw["orientation"] == "exif"
    adopted = convert(
        made.directory, tmp_path / "adopted", layout="tfrecord", workers=1, show_progress=False
    )
    for folder in (made.directory, adopted.directory):
        assert dataset.find_dataset(folder, None, None).upright
        assert dataset.find_dataset(None, folder / "train-*", None).upright
    for number in range(2):
        image, _ = samples.read_examples(Reader(made.splits["train"]), number, 2)
        assert image.size == (48, 80)
