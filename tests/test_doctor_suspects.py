"""Tests for `squeezenext/doctor/suspects.py`."""

import numpy as np
import pytest

from squeezenext.doctor import suspects
from squeezenext.doctor.features import PIXELS


def blobs(count, classes, seed=0, channels=16):
    """Features of classes that lie apart, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = rng.uniform(0, 4, (classes, channels))
    values = np.abs(centres[labels] + rng.normal(0, 0.3, (count, channels)))
    return values.astype(np.float32), labels


def test_exchanged_labels_are_named():
    values, labels = blobs(600, 3)
    rng = np.random.default_rng(1)
    wrong = rng.choice(600, 60, replace=False)
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + 1) % 3
    groups = np.arange(600)
    probabilities = suspects.out_of_fold(values, noisy, groups, 3)
    named = suspects.wrong_labels(noisy, probabilities, groups)
    assert len(set(named) & set(wrong)) >= 55 and len(named) <= 65
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_the_same_are_named_as_by_cleanlab():
    """By find_label_issues(..., filter_by="low_self_confidence") of cleanlab 2.9.0."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 4, 60)
    probabilities = rng.dirichlet(np.ones(4), 60) + np.eye(4)[labels]
    probabilities[::5] = rng.dirichlet(np.ones(4), 12)
    probabilities /= probabilities.sum(1, keepdims=True)
    named = suspects.wrong_labels(labels, probabilities, np.arange(60))
    assert sorted(named) == [5, 20, 40, 45, 50, 55]
    own = probabilities[named, labels[named]]
    assert (np.diff(own) >= 0).all()  # the least probable first


def test_a_class_of_few_photographs_is_not_judged():
    values, labels = blobs(103, 2)
    labels[-3:] = 2
    groups = np.arange(103)
    probabilities = suspects.out_of_fold(values, labels, groups, 3)
    assert not set(suspects.wrong_labels(labels, probabilities, groups)) & {100, 101, 102}


@pytest.mark.parametrize("seed", range(3))
def test_a_group_lies_in_one_fold_and_folds_hold_each_class(seed):
    groups = np.repeat(np.arange(50), 4)
    labels = groups % 5
    fold = suspects.folds(labels, groups, seed)
    assert all(len(set(fold[groups == group])) == 1 for group in range(50))
    assert all((np.bincount(fold[labels == label]) == 8).all() for label in range(5))


def test_a_single_group_of_a_class_does_not_stop_it():
    values, labels = blobs(20, 2)
    probabilities = suspects.out_of_fold(values, labels, labels, 2)
    np.testing.assert_allclose(probabilities, 0.5)


def test_a_size_that_tells_the_class_is_a_shortcut():
    labels, pixels = np.arange(100) % 2, np.zeros(100, PIXELS)
    pixels["width"] = np.where(labels, 400, 300)
    pixels["height"] = np.where(labels, 300, 400)
    pixels["border"] = np.random.default_rng(0).uniform(0, 255, (100, 3))
    (found,) = suspects.shortcuts(pixels, labels, np.arange(100))
    assert found.what == "the size of the picture" and found.accuracy == 1
    assert found.majority == 0.5
