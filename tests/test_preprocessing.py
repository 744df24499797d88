"""Tests for `../squeezenext/preprocessing.py` and `augmentation.py`: one preprocessing."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from squeezenext import augmentation, preprocessing
from squeezenext.config import (
    CAFFE_RANDOM_RESIZED_CROP,
    CAFFE_SHORT_SIDE,
    CAFFE_SQUASH,
    TORCHVISION,
    HorizontalFlip,
    RandomCrop,
    ShiftScaleRotate,
)
from squeezenext.errors import InputError

CHOICES = [CAFFE_SQUASH, CAFFE_SHORT_SIDE, TORCHVISION, CAFFE_RANDOM_RESIZED_CROP]


def photograph(height, width, seed=0):
    """A smooth random image as a JPEG."""
    small = np.random.default_rng(seed).integers(0, 255, (9, 9, 3)).astype(np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def sides(height, width):
    return tf.constant(height, tf.int64), tf.constant(width, tf.int64)


@pytest.mark.parametrize("images", CHOICES)
@pytest.mark.parametrize(("height", "width"), [(300, 400), (411, 287), (256, 256), (120, 700),
                                               (60, 50)])  # fmt: skip
def test_prediction_sees_what_evaluation_sees(images, height, width):
    data = photograph(height, width)
    pillow = preprocessing.centre_pixels(preprocessing.read_image(data, "x"), images)
    eager = augmentation.centre(tf.constant(data), *sides(height, width), images).numpy()
    dataset = tf.data.Dataset.from_tensors((data, *sides(height, width)))
    mapped = next(iter(dataset.map(lambda d, h, w: augmentation.centre(d, h, w, images)))).numpy()
    assert pillow.shape == eager.shape == (images.size, images.size, 3)
    assert np.abs(pillow.astype(int) - eager).max() <= 1  # Pillow computes in integers
    np.testing.assert_array_equal(eager, mapped)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (411, 287), (333, 500)])
def test_the_short_side_crop_is_torchvision_s(height, width):
    """Resize(256), CenterCrop(224) as torchvision computes them, in whole pixels."""
    image = preprocessing.read_image(photograph(height, width), "x")
    short = min(height, width)
    resized = image.resize((256 * width // short, 256 * height // short), Image.Resampling.BILINEAR)
    top, left = (int(round((side - 224) / 2.0)) for side in (resized.height, resized.width))
    expected = np.asarray(resized)[top : top + 224, left : left + 224].astype(int)
    assert np.abs(preprocessing.centre_pixels(image, TORCHVISION) - expected).max() <= 1


def test_normalize_gives_each_channel_its_own_mean():
    pixels = np.float32([[[10, 20, 30]]])
    np.testing.assert_allclose(
        preprocessing.normalize(pixels, CAFFE_SQUASH), [[[30 - 104, 20 - 117, 10 - 123]]]
    )
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    for normalized in (
        preprocessing.normalize(pixels, TORCHVISION),
        preprocessing.normalize(tf.constant(pixels), TORCHVISION).numpy(),
    ):
        np.testing.assert_allclose(normalized, expected, rtol=1e-5)


@pytest.mark.parametrize("images", CHOICES)
def test_augmentation_is_a_function_of_its_seed(images):
    data = photograph(300, 400)
    seeds = [tf.constant([0, 1], tf.int64), tf.constant([0, 2], tf.int64)]
    first, again, other = (
        augmentation.augmented(tf.constant(data), *sides(300, 400), images, seed).numpy()
        for seed in (seeds[0], seeds[0], seeds[1])
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape == (images.size, images.size, 3) and not np.array_equal(first, other)


def test_random_crops_are_windows_of_the_resized_image():
    images = dataclasses.replace(CAFFE_SQUASH, size=60, resize=64)
    data = photograph(64, 64)
    whole = preprocessing.read_image(data, "x")
    windows = {
        np.asarray(whole)[y : y + 60, x : x + 60].tobytes() for y in range(5) for x in range(5)
    }
    seen = set()
    for i in range(150):
        seed = tf.constant([0, i], tf.int64)
        crop = augmentation.augmented(tf.constant(data), *sides(64, 64), images, seed).numpy()
        seen.add(crop.tobytes())
    assert seen <= windows and len(seen) == 25  # all 5 x 5, both ends included


def test_flip_mirrors_half():
    images = dataclasses.replace(
        CAFFE_SQUASH, size=64, resize=64, augmentation=(RandomCrop(), HorizontalFlip())
    )
    data = photograph(64, 64)
    plain = preprocessing.centre_pixels(preprocessing.read_image(data, "x"), images)
    results = [
        augmentation.augmented(
            tf.constant(data), *sides(64, 64), images, tf.constant([0, i], tf.int64)
        ).numpy()
        for i in range(60)
    ]
    mirrored = [np.array_equal(result, plain[:, ::-1]) for result in results]
    assert all(m or np.array_equal(r, plain) for m, r in zip(mirrored, results, strict=True))
    assert 15 < sum(mirrored) < 45


def test_shift_scale_rotate_against_scipy():
    """One draw, computed again by scipy's affine_transform from the same random numbers."""
    from scipy import ndimage

    step = ShiftScaleRotate(shift=0.1, scale=0.2, rotate_degrees=30.0, probability=1.0)
    data = photograph(64, 64)
    image = np.asarray(preprocessing.read_image(data, "x"))
    seed = tf.constant([3, 5], tf.int64)
    ours = augmentation._shift_scale_rotate(seed, tf.constant(image), step).numpy()
    draws = tf.random.stateless_uniform([5], seed).numpy()[:4] * 2 - 1
    angle, factor = np.deg2rad(draws[3] * 30), 1 + draws[2] * 0.2
    inverse = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / factor
    moved = 31.5 + np.array([draws[1], draws[0]]) * 6.4
    for channel in range(3):
        theirs = ndimage.affine_transform(
            image[..., channel].astype(float), inverse, 31.5 - inverse @ moved, order=1,
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
    image = preprocessing.read_image(data, "x")
    assert image.mode == "RGB"
    assert np.asarray(image).mean() == pytest.approx(mean, abs=1.5)
    assert preprocessing.centre_pixels(image, CAFFE_SQUASH).shape == (227, 227, 3)


@pytest.mark.parametrize("data", [b"", b"text", photograph(64, 64)[:500], b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(data):
    with pytest.raises(InputError, match=r"photo\.jpg is not an image that can be read"):
        preprocessing.read_image(data, "photo.jpg")


def test_a_huge_image_is_refused_before_it_is_decoded():
    data = encoded(Image.new("1", (9_000, 9_000)), "PNG")
    with pytest.raises(InputError, match="9000 x 9000: over 50,000,000 pixels"):
        preprocessing.read_image(data, "x")
