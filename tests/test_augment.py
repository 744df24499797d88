"""Tests for `images/augment.py`: random numbers, and steps on the device."""

import colorsys
import dataclasses
import logging

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance
from scipy import stats

from squeezenext.config.images import (
    TORCHVISION,
    ColorJitter,
    CutMix,
    HorizontalFlip,
    Images,
    Mixup,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
)
from squeezenext.images import augment, crops
from squeezenext.network.fusing import fused

# Tests for the random numbers of augmentation: functions of (seed, epoch, example).


EXAMPLES = np.arange(4_000)


def test_the_numbers_are_uniform_and_independent():
    values = augment.uniform(7, np.full(4_000, 3), EXAMPLES, 8)
    assert values.dtype == np.float32 and values.min() >= 0 and values.max() < 1
    for column in values.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    others = [
        values,
        augment.uniform(7, np.full(4_000, 4), EXAMPLES, 8),
        augment.uniform(8, np.full(4_000, 3), EXAMPLES, 8),
        augment.uniform(7, np.full(4_000, 3), EXAMPLES + 1, 8),
    ]
    columns = np.concatenate([other.T for other in others])
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    # Example i + 1 of the last is example i + 1 of the first, one row down.
    assert np.abs(correlation).max() < 0.08
    np.testing.assert_array_equal(others[3][:-1], values[1:])


def test_a_number_depends_on_nothing_else():
    epochs, examples = np.array([0, 1, 5]), np.array([9, 2, 7])
    together = augment.uniform(1, epochs, examples, 6)
    for place in range(3):
        one = augment.uniform(1, epochs[place : place + 1], examples[place : place + 1], 6)
        np.testing.assert_array_equal(one[0], together[place])
    np.testing.assert_array_equal(augment.uniform(1, epochs, examples, 3), together[:, :3])


def test_each_step_has_its_own_numbers():
    steps = (RandomResizedCrop(), HorizontalFlip(), Mixup())
    assert augment.slices(steps) == [slice(0, 40), slice(40, 41), slice(41, 43)]
    assert augment.random_numbers(steps, 0, np.zeros(2, int), np.arange(2)).shape == (2, 43)


def test_alternating_flips_show_both_sides_in_any_two_epochs():
    steps = (RandomCrop(), HorizontalFlip(alternating=True))
    flips = [
        augment.random_numbers(steps, 5, np.full(4_000, epoch), EXAMPLES)[:, 2] < 0.5
        for epoch in range(4)
    ]
    assert 1_850 < flips[0].sum() < 2_150
    np.testing.assert_array_equal(flips[0], ~flips[1])
    np.testing.assert_array_equal(flips[0], flips[2])
    np.testing.assert_array_equal(flips[1], flips[3])


SIDE = 24
PIXELS = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 3, 0, 1])
STEPS = (
    HorizontalFlip(),
    ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    RandomErasing(),
    Mixup(probability=0.5),
    CutMix(probability=0.5),
)


def images(*steps):
    return dataclasses.replace(TORCHVISION, augmentation=(RandomResizedCrop(), *steps))


def numbers(config, examples=range(6), epoch=0):
    examples = np.array(examples)
    return augment.random_numbers(config.augmentation, 1, np.full(len(examples), epoch), examples)


def augmented(config, values, pixels=PIXELS, labels=LABELS):
    arguments = [tf.constant(x) for x in (pixels, labels, values)]
    return [part.numpy() for part in augment.augmented(*arguments, config, 4)]


@pytest.mark.parametrize("steps", [*[(step,) for step in STEPS], STEPS])
def test_each_is_the_same_eagerly_in_tf_data_and_compiled(steps):
    config = images(*steps)
    values = numbers(config)
    dataset = tf.data.Dataset.from_tensors((PIXELS, LABELS, values))
    mapped = dataset.map(lambda x, y, z: augment.augmented(x, y, z, config, 4))
    compiled = fused(lambda x, y, z: augment.augmented(x, y, z, config, 4))
    eager = augmented(config, values)
    given = [tf.constant(x) for x in (PIXELS, LABELS, values)]
    for ours, inside, one_pass in zip(eager, next(iter(mapped)), compiled(*given), strict=True):
        np.testing.assert_allclose(ours, inside, atol=2e-4)
        np.testing.assert_allclose(ours, one_pass, atol=1e-3)  # of 255
    pixels, targets = eager
    assert pixels.dtype == targets.dtype == np.float32
    assert pixels.min() >= 0 and pixels.max() <= 255.001
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
    assert not np.array_equal(pixels, PIXELS)


def test_without_steps_nothing_changes():
    pixels, targets = augmented(images(), numbers(images()))
    np.testing.assert_array_equal(pixels, PIXELS)
    np.testing.assert_array_equal(targets, np.eye(4)[LABELS])


def test_flip_mirrors_half():
    config = images(HorizontalFlip())
    values = numbers(config)
    for image, before, row in zip(augmented(config, values)[0], PIXELS, values, strict=True):
        np.testing.assert_array_equal(image, before[:, ::-1] if row[-1] < 0.5 else before)


@pytest.mark.parametrize(
    ("place", "enhance"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
@pytest.mark.parametrize("number", [0.0, 0.3, 0.95])
def test_colours_against_pillow(place, enhance, number):
    amounts = {("brightness", "contrast", "saturation")[place]: 0.4}
    row = np.full((6, 4), 0.5, np.float32)
    row[:, place] = number
    ours = augment.color_jitter(tf.constant(PIXELS, tf.float32), row, ColorJitter(**amounts))
    for image, before in zip(ours.numpy(), PIXELS, strict=True):
        factor = 1 + (number * 2 - 1) * 0.4
        theirs = np.asarray(enhance(Image.fromarray(before)).enhance(factor), float)
        assert np.abs(image - theirs).max() <= 1.5  # Pillow rounds to whole numbers on the way


def test_hue_against_colorsys():
    row = np.tile(np.float32([0.5, 0.5, 0.5, 0.9]), (6, 1))
    ours = augment.color_jitter(tf.constant(PIXELS, tf.float32), row, ColorJitter(hue=0.2)).numpy()
    for y, x in ((0, 0), (3, 7), (20, 11)):
        hue, saturation, value = colorsys.rgb_to_hsv(*PIXELS[2, y, x] / 255)
        theirs = np.array(colorsys.hsv_to_rgb((hue + 0.16) % 1, saturation, value)) * 255
        np.testing.assert_allclose(ours[2, y, x], theirs, atol=0.05)


def test_erasing_covers_a_rectangle_of_the_size_asked_for():
    step = RandomErasing(probability=0.5, scale=(0.1, 0.2), ratio=(0.5, 2.0))
    rows = augment.uniform(0, np.zeros(400, int), np.arange(400), 5)
    black = tf.zeros([400, SIDE, SIDE, 3])
    covered = augment.random_erasing(black, tf.constant(rows), step, (1.0, 2.0, 3.0)).numpy()
    assert set(np.unique(covered[..., 0])) == {0, 1} and covered.max() == 3
    for image, row in zip(covered[..., 0], rows, strict=True):
        if row[0] >= 0.5:
            assert not image.any()
            continue
        high, wide = (int(image.any(axis).sum()) for axis in (1, 0))
        assert high * wide == image.sum()  # one whole rectangle
        assert 0.07 < image.mean() < 0.24 and 0.4 < high / wide < 2.5


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_the_quantiles_are_scipy_s(alpha):
    values = np.linspace(0.001, 0.999, 50).astype(np.float32)
    ours = augment.beta_quantile(tf.constant(values), alpha).numpy()
    np.testing.assert_allclose(ours, stats.beta.ppf(values, alpha, alpha), atol=2e-4)


def test_mixup_blends_images_and_labels_alike():
    config = images(Mixup(alpha=1.0, probability=0.7))
    values = numbers(config)
    pixels, targets = augmented(config, values)
    for place, (chosen, share) in enumerate(values[:, -2:]):
        share = share if chosen < 0.7 else 1.0  # Beta(1, 1) is uniform
        blend = share * PIXELS[place] + (1 - share) * PIXELS[5 - place].astype(float)
        np.testing.assert_allclose(pixels[place], blend, atol=0.01)
        label = share * np.eye(4)[LABELS[place]] + (1 - share) * np.eye(4)[LABELS[5 - place]]
        np.testing.assert_allclose(targets[place], label, atol=1e-4)


def test_cutmix_labels_are_the_pixels_shares():
    count = 64
    config = images(CutMix(probability=0.8))
    values = numbers(config, range(count))
    plain = np.repeat(np.arange(count), SIDE * SIDE * 3).reshape(count, SIDE, SIDE, 3)
    labels = np.arange(count) % 4
    pixels, targets = augmented(config, values, plain.astype(np.uint8), labels)
    mixed = 0
    for place in range(count):
        foreign = pixels[place, ..., 0] == count - 1 - place
        assert (foreign | (pixels[place, ..., 0] == place)).all()
        high, wide = (int(foreign.any(axis).sum()) for axis in (1, 0))
        assert high * wide == foreign.sum()
        share = 1 - foreign.mean()
        expected = share * np.eye(4)[labels[place]] + (1 - share) * np.eye(4)[labels[-1 - place]]
        np.testing.assert_allclose(targets[place], expected, atol=1e-5)
        mixed += 0 < share < 1
    assert 25 < mixed < 60


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ColorJitter(hue=0.6), r"ColorJitter.hue is 0.6; it must be in \[0, 0.5\]"),
        (lambda: Mixup(alpha=0.0), "Mixup.alpha is 0.0; it must be positive"),
        (lambda: CutMix(probability=2.0), r"CutMix.probability is 2.0; it must be in \[0, 1\]"),
        (lambda: RandomErasing(scale=(0.5, 0.2)), "RandomErasing.scale .* two numbers in order"),
        (lambda: RandomResizedCrop(scale=(0.0, 1.0)), "RandomResizedCrop.scale .* above 0"),
        (lambda: images(Mixup(), HorizontalFlip()), "augmentation is .* in this order"),
    ],
)
def test_what_the_words_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_autograph_takes_all_of_it(caplog):
    """Else each training would begin with a warning of TensorFlow that nobody can act on."""
    logging.getLogger("tensorflow").addHandler(caplog.handler)
    for crop in (RandomCrop(), RandomResizedCrop()):
        images = Images(augmentation=(crop, HorizontalFlip(), ColorJitter(), Mixup()))
        numbers = augment.random_numbers(images.augmentation, 0, np.zeros(2, int), np.arange(2))
        cut, change = tf.function(crops.windows), tf.function(augment.augmented)
        sides, pixels = np.full(2, 300), np.zeros([2, 8, 8, 3], np.uint8)
        assert cut(sides, sides, images, numbers).shape == (2, 4)
        assert change(pixels, np.array([0, 1]), numbers, images, 2)[0].shape == pixels.shape
    logging.getLogger("tensorflow").removeHandler(caplog.handler)
    assert "AutoGraph could not" not in caplog.text
