"""Tests for the random numbers of augmentation: functions of (seed, epoch, example)."""

import numpy as np
from scipy import stats

from squeezenext.config.augmentation import HorizontalFlip, Mixup, RandomCrop, RandomResizedCrop
from squeezenext.images import augment

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
    assert augment.places(steps) == [slice(0, 40), slice(40, 41), slice(41, 43)]
    assert augment.of_steps(steps, 0, np.zeros(2, int), np.arange(2)).shape == (2, 43)


def test_alternating_flips_show_both_sides_in_any_two_epochs():
    steps = (RandomCrop(), HorizontalFlip(alternating=True))
    flips = [
        augment.of_steps(steps, 5, np.full(4_000, epoch), EXAMPLES)[:, 2] < 0.5
        for epoch in range(4)
    ]
    assert 1_850 < flips[0].sum() < 2_150
    np.testing.assert_array_equal(flips[0], ~flips[1])
    np.testing.assert_array_equal(flips[0], flips[2])
    np.testing.assert_array_equal(flips[1], flips[3])
