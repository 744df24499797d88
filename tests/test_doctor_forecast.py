"""The forecast of what more photographs would bring."""

import numpy as np
import pytest

from squeezenext.doctor import suspects
from squeezenext.doctor.forecast import MOST, forecast

NAMES = ["cat", "dog", "fox"]


def photographs(each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of three classes that overlap in 60 of 200 channels, the dog's with both others'."""
    chance = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), each)
    values = chance.normal(2.0, 0.5, (len(labels), 200))
    values[labels == 1, :60] += 0.4
    values[labels == 2, :60] += 0.8
    return np.square(values).astype(np.float32), labels, np.arange(len(labels))


def accuracy(values, labels, groups) -> float:
    return (suspects.out_of_fold(values, labels, groups, 3).argmax(1) == labels).mean()


def test_the_forecast_is_near_what_twice_as_many_photographs_give():
    found = [forecast(*photographs(40, seed), NAMES) for seed in range(5)]
    now = np.mean([accuracy(*photographs(40, seed)) for seed in range(5)])
    truth = np.mean([accuracy(*photographs(80, seed)) for seed in range(5)])
    assert truth > now + 0.01
    assert np.mean([each.doubled for each in found]) == pytest.approx(truth, abs=0.02)


def test_the_class_that_gains_is_named():
    values, labels, groups = photographs(40)
    values[labels == 2, 120:180] += 60.0  # nothing is mistaken for the fox, from the first on
    gained = forecast(values, labels, groups, NAMES).gained
    assert gained and "fox" not in gained


def test_where_nothing_is_wrong_nothing_is_gained():
    values, labels, groups = photographs(30)
    values[labels == 1, 60:120] += 60.0
    values[labels == 2, 120:180] += 60.0
    found = forecast(values, labels, groups, NAMES)
    assert found.gained == () and found.doubled == pytest.approx(1 - 1 / 90)


def test_many_photographs_need_no_forecast():
    assert forecast(*photographs(MOST // 3 + 1), NAMES) is None


def test_a_share_of_the_other_folds_is_learnt_from():
    values, labels, groups = photographs(50)
    whole = suspects.out_of_fold(values, labels, groups, 3)
    part = suspects.out_of_fold(values, labels, groups, 3, share=0.1)
    assert (part.argmax(1) == labels).mean() < (whole.argmax(1) == labels).mean()
    np.testing.assert_array_equal(whole, suspects.out_of_fold(values, labels, groups, 3, 1.0))
