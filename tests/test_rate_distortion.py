"""Tests for `compress/rate_distortion.py`."""

import numpy as np
import pytest

from squeezenext.compress import probes, rate_distortion
from squeezenext.sqz.kernels import Shared


@pytest.fixture(scope="module")
def layer():
    """A kernel of two groups and the moments of correlated, positive inputs."""
    rng = np.random.default_rng(0)
    mixed = np.abs(rng.normal(size=(2, 500, 12)) @ rng.normal(size=(12, 12)))
    moments = mixed.transpose(0, 2, 1) @ mixed / 500
    kernel = rng.laplace(size=(1, 3, 4, 40)).astype(np.float32)
    return kernel, moments


def plans(moments):
    return [rate_distortion.GroupPlan.of(each) for each in moments]


def error(kernel, shared, moments):
    return probes.squared(shared.values - kernel, moments)


def information(kernel):
    """The bits of a kernel's codes by their frequencies alone, zeros included."""
    counts = np.bincount(kernel.codes.ravel())
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def test_a_dearer_bit_means_fewer_bits_and_more_error(layer):
    kernel, moments = layer
    made = [rate_distortion.quantize(kernel, plans(moments), slope) for slope in (1e-4, 1e-1, 10.0)]
    errors = [error(kernel, shared, moments) for shared in made]
    bits = [information(shared) for shared in made]
    assert errors[0] < errors[1] < errors[2] and bits[0] > bits[1] > bits[2]
    assert made[0].values.shape == kernel.shape and made[0].values.dtype == np.float32


def test_errors_are_made_good_by_later_rows(layer):
    """At no more bits the outputs err less than with the diagonal of the moments alone."""
    kernel, moments = layer
    diagonal = np.stack([np.diag(np.diag(moment)) for moment in moments])
    alone = rate_distortion.quantize(kernel, plans(diagonal), 0.1)
    for slope in np.geomspace(0.01, 1, 15):  # the first with no more bits
        passed = rate_distortion.quantize(kernel, plans(moments), slope)
        if information(passed) <= information(alone):
            break
    assert information(passed) <= information(alone)
    assert error(kernel, passed, moments) < 0.8 * error(kernel, alone, moments)


def test_each_value_is_in_the_middle_of_its_weights():
    rng = np.random.default_rng(0)
    weights = np.concatenate([rng.normal(-2, 0.01, 500), rng.normal(1, 0.01, 500)])
    found = rate_distortion.design(weights, np.ones(1000), 1e-2)
    used = found.values[np.unique(found.choose(weights, np.ones(1000)))]
    np.testing.assert_allclose(used, [-2, 1], atol=0.01)
    assert 0.0 in found.values and (np.diff(found.values) > 0).all()


@pytest.mark.parametrize("kernel", [np.zeros((2, 3)), np.full((2, 3), 0.5), np.full((1, 1), -1.0)])
def test_edge_cases(kernel):
    moments = np.eye(len(kernel))[np.newaxis]
    for scale in (1.0, 0.0):
        shared = rate_distortion.quantize(kernel.astype(np.float32), plans(moments * scale), 1e-6)
        assert isinstance(shared, Shared) and np.isfinite(shared.values).all()
    exact = rate_distortion.quantize(kernel.astype(np.float32), plans(moments), 1e-9)
    np.testing.assert_allclose(exact.values, kernel, atol=1e-3)
