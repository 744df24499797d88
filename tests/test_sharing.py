"""Tests for `compression/sharing.py`."""

import numpy as np
import pytest

from squeezenext.compress import sharing
from squeezenext.errors import InputError
from squeezenext.sqz.kernels import Shared


def test_a_kernel_taken_as_it_is():
    kernel = np.array([[0.5, 0, -1], [0.5, -0.0, 2]], np.float32)
    shared = Shared.of(kernel)
    np.testing.assert_array_equal(shared.values, kernel)
    np.testing.assert_array_equal(shared.codebook, np.float32([-1, 0.5, 2]))
    assert shared.codes.tolist() == [[2, 0, 1], [2, 0, 3]]
    empty = Shared.of(np.zeros((2, 3), np.float32))
    assert not len(empty.codebook) and not empty.values.any()


@pytest.mark.parametrize("kind", ["linear", "density", "random"])
def test_clusters_far_apart_are_found(kind):
    rng = np.random.default_rng(0)
    centres = np.array([-3.0, -1.0, 2.0])
    kernel = centres[rng.integers(0, 3, (3, 3, 4, 5))] + rng.normal(0, 0.01, (3, 3, 4, 5))
    kernel[0] = 0
    shared = sharing.k_means(kernel.astype(np.float32), 2, kind)
    assert len(shared.codebook) <= 3 and not shared.values[0].any()
    if kind != "random":  # which may begin with two centroids in one cluster
        np.testing.assert_allclose(shared.codebook, centres, atol=0.01)
        assert np.abs(shared.values - kernel).max() < 0.1


def test_each_kind_begins_where_the_paper_says():
    weights = np.array([0.0, 0.1, 0.2, 0.3, 10.0])
    np.testing.assert_allclose(sharing.initial(weights, 3, "linear"), [0, 5, 10])
    assert sharing.initial(weights, 3, "density")[1] == pytest.approx(0.2)
    assert set(sharing.initial(weights, 3, "random")) <= set(weights)
    with pytest.raises(InputError, match="linear, density, random"):
        sharing.initial(weights, 3, "other")


def test_more_bits_are_nearer_and_edge_cases_hold():
    kernel = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    errors = [np.square(sharing.k_means(kernel, bits).values - kernel).mean() for bits in (1, 4, 8)]
    assert errors[0] > errors[1] > errors[2]
    one = sharing.k_means(kernel, 1)
    assert len(one.codebook) == 1
    assert not sharing.k_means(np.zeros((3, 3), np.float32), 4).values.any()
    single = np.array([[0, 7, 7]], np.float32)
    np.testing.assert_array_equal(sharing.k_means(single, 8).values, single)
