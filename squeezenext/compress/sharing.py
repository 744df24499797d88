"""Weight sharing (Deep Compression, arXiv:1510.00149, section 3): many weights, few values."""

from typing import Literal, get_args

import numpy as np

from squeezenext.errors import InputError
from squeezenext.sqz.kernels import Shared

Initialization = Literal["linear", "density", "random"]


def initial(weights: np.ndarray, count: int, kind: Initialization, seed: int = 0) -> np.ndarray:
    """Returns `count` first centroids for `weights`, [n], ascending.

    "linear" spaces them evenly from the least weight to the greatest (the paper's choice: large
    weights are few and matter most), "density" at equal shares of the weights, "random" takes
    weights by chance.
    """
    if kind not in get_args(Initialization):
        raise InputError(f"{kind!r} must be one of {', '.join(get_args(Initialization))}.")
    if kind == "linear":
        return np.linspace(weights.min(), weights.max(), count)
    if kind == "density":
        return np.quantile(weights, (np.arange(count) + 0.5) / count)
    return np.sort(np.random.default_rng(seed).choice(weights, count, replace=len(weights) < count))


def k_means(
    kernel: np.ndarray, bits: int, kind: Initialization = "linear", rounds: int = 30
) -> Shared:
    """Shares a kernel's weights that are not zero among 2 ** bits - 1 values; zeros stay.

    Args:
      kernel: float32 of any shape.
      bits: of a code, 1..8.
      kind: of the first centroids.
      rounds: of Lloyd's algorithm at most.
    """
    weights = kernel[kernel != 0].astype(np.float64)
    if not len(weights):
        return Shared(np.zeros(0, np.float32), np.zeros(kernel.shape, np.int64))
    centroids = initial(weights, (1 << bits) - 1, kind)
    for _ in range(rounds):
        codes = nearest(weights, centroids)
        counts = np.bincount(codes, minlength=len(centroids))
        sums = np.bincount(codes, weights, minlength=len(centroids))
        moved = np.sort(np.where(counts, sums / np.maximum(counts, 1), centroids))
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    shared = np.zeros(kernel.shape, np.float32)
    shared[kernel != 0] = centroids[nearest(weights, centroids)]
    return Shared.of(shared)


def nearest(weights: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Returns the place of the nearest of the ascending `centroids` for each weight."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, weights)
