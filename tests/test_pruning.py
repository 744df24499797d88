"""Tests for `compression/pruning.py`."""

import numpy as np
import pytest

from squeezenext.compress import retraining


def test_the_schedule_falls_from_one_to_the_end():
    shares = [retraining.density(progress, 0.3) for progress in (-1, 0, 0.25, 0.5, 1, 7)]
    assert shares[0] == shares[1] == 1.0 and shares[-2] == shares[-1] == pytest.approx(0.3)
    assert shares[1] > shares[2] > shares[3] > shares[4]
    assert shares[1] - shares[2] > shares[2] - shares[3]  # fast first


def test_the_least_important_weights_go_whatever_their_layer():
    rng = np.random.default_rng(0)
    kernels = {name: rng.normal(size=(10, 10)).astype(np.float32) for name in "ab"}
    equal = retraining.masks(kernels, {"a": 1.0, "b": 1.0}, 0.4)
    assert sum(mask.sum() for mask in equal.values()) == 80
    for name, mask in equal.items():
        assert np.abs(kernels[name][mask]).min() > np.abs(kernels[name][~mask]).max()
    skewed = retraining.masks(kernels, {"a": 1e6, "b": 1.0}, 0.4)
    assert skewed["a"].sum() > 75 and 1 <= skewed["b"].sum() < 5
    assert all(mask.all() for mask in retraining.masks(kernels, {"a": 1.0, "b": 1.0}, 1.0).values())
    least = retraining.masks(kernels, {"a": 1e9, "b": 1.0}, 1e-9)
    assert least["a"].sum() == 1 and least["b"].sum() == 1


def test_pruned_weights_never_come_back():
    kernels = {"a": np.array([[0, 0, 1.0, 2.0]])}
    assert retraining.masks(kernels, {"a": 1.0}, 1.0)["a"].tolist() == [[False, False, True, True]]
