"""Quantizes a layer's weights by rate and distortion: each code weighs bits against error.

A weight gets the code of least importance x (weight - value)^2 + slope x bits; values and bits are
then computed from the codes, and so on: entropy-constrained k-means (Chou, Lookabaugh and Gray,
1989). 0 is always one of the values, so that pruning is a choice like any other. With the second
moments of a layer's inputs, the rows that follow compensate each row's error, as in GPTQ (Frantar
and others, arXiv:2210.17323), which is Optimal Brain Surgeon in a fixed order.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from squeezenext.sqz.kernels import Shared

FEW, MANY = 16, 512  # bounds of the first codebook's size; unused values are dropped
_ROUNDS = 20  # rounds of k-means
_SAMPLE = 20_000  # weights that a codebook is fitted to
_DAMPING = 0.01  # share of the moments' mean that is added to their diagonal for the inverse
# Offsets from the nearest value's index at which the cheapest value is searched; 0 is tried, too.
_NEIGHBOURS = np.array([-2, -1, 0, 1, 2])


@dataclasses.dataclass(frozen=True, eq=False)
class Quantizer:
    """A codebook and the length of each code."""

    values: np.ndarray  # [values] float64, ascending, 0 among them
    bits: np.ndarray  # [values] float64, length of each value's code
    slope: float  # price of a bit, in units of the importance times a squared weight

    def choose(self, weights: np.ndarray, importance: np.ndarray) -> np.ndarray:
        """Returns the index of the cheapest value for each weight, [n]."""
        values = self.values
        nearest = np.searchsorted((values[1:] + values[:-1]) / 2, weights)
        near = nearest + _NEIGHBOURS[:, np.newaxis]
        zero = np.full(len(weights), np.searchsorted(values, 0.0))
        tried = np.vstack([near.clip(0, len(values) - 1), zero])
        cost = importance * np.square(weights - values[tried]) + self.slope * self.bits[tried]
        return np.take_along_axis(tried, cost.argmin(0)[np.newaxis], 0)[0]


def design(weights: np.ndarray, importance: np.ndarray, slope: float) -> Quantizer:
    """Fits a quantizer to weights, [n], of given importance, [n]."""
    if len(weights) > _SAMPLE:
        some = np.random.default_rng(0).choice(len(weights), _SAMPLE, replace=False)
        weights, importance = weights[some], importance[some]
    values = _grid(weights, importance, slope)
    found = Quantizer(values, np.full(len(values), np.log2(len(values))), slope)
    for _ in range(_ROUNDS):
        codes = found.choose(weights, importance)
        found = _moved(found, codes, weights, importance)
    return found


def _grid(weights: np.ndarray, importance: np.ndarray, slope: float) -> np.ndarray:
    """Returns evenly spaced values, which are the best at many bits a weight.

    There the mean squared error is step^2 / 12, and halving the step costs one bit, so that the
    best step satisfies slope = importance x step^2 x ln 2 / 6.
    """
    step = np.sqrt(6 * slope / (np.log(2) * max(importance.mean(), 1e-300)))
    low, high = weights.min(), weights.max()
    count = int(np.clip((high - low) / max(step, 1e-300), FEW, MANY))
    return np.unique(np.append(np.linspace(low, high, count), 0.0))


def _moved(before: Quantizer, codes, weights, importance) -> Quantizer:
    """Moves each value to the mean of its weights and drops values without weights."""
    count = len(before.values)
    counts = np.bincount(codes, minlength=count)
    mass = np.bincount(codes, importance, minlength=count)
    sums = np.bincount(codes, importance * weights, minlength=count)
    centres = np.where(mass > 0, sums / np.where(mass > 0, mass, 1), before.values)
    kept = (counts > 0) & (before.values != 0)
    values = np.append(centres[kept], 0.0)
    counts = np.append(counts[kept], max(counts[before.values == 0].sum(), 0.5))
    order = np.argsort(values)
    bits = -np.log2(counts[order] / counts.sum())
    return Quantizer(values[order], bits, before.slope)


def quantize(
    kernel: np.ndarray, plans: Sequence["GroupPlan"], slope: float, whole: bool = False
) -> Shared:
    """Quantizes a kernel.

    Args:
      kernel: [..., out] float32.
      plans: a plan per group.
      slope: price of a bit, in nats.
      whole: values are multiples of the greatest one's 127th part.
    """
    outputs = kernel.shape[-1]
    matrix = kernel.reshape(-1, outputs).astype(np.float64)
    groups = np.split(matrix, len(plans), axis=1)
    wide = [np.repeat(p.importance, outputs // len(plans)) for p in plans]
    quantizer = design(np.concatenate([g.ravel() for g in groups]), np.concatenate(wide), slope)
    quantizer = _on_grid(quantizer) if whole else quantizer
    codes = [plan.codes(g, quantizer) for g, plan in zip(groups, plans, strict=True)]
    values = quantizer.values[np.concatenate(codes, axis=1)]
    return Shared.of(values.astype(np.float32).reshape(kernel.shape))


def _on_grid(found: Quantizer) -> Quantizer:
    """Moves each value to a multiple of the greatest one's 127th part.

    The weights are chosen after that, so that rows which follow compensate for the moves, too.
    """
    step = max(np.abs(found.values).max() / 127, 1e-300)
    values, places = np.unique(np.round(found.values / step), return_inverse=True)
    return Quantizer(values * step, -np.log2(np.bincount(places, 2.0**-found.bits)), found.slope)


@dataclasses.dataclass(frozen=True, eq=False)
class GroupPlan:
    """The order in which a group's rows are quantized, and how later rows compensate errors.

    Attributes:
      importance: [n], cost of a row's squared error that later rows cannot compensate.
      order: [n], row indices, the inputs of greatest moment first.
      passed: [n, n], upper triangular in that order: the share of a row's error that is subtracted
        from each later row.
    """

    importance: np.ndarray
    order: np.ndarray
    passed: np.ndarray

    @classmethod
    def of(cls, moments: np.ndarray) -> "GroupPlan":
        """Returns the plan for [n, n] second moments of a filter's inputs, in nats.

        n is the number of a filter's weights; the plan holds at any price of a bit.
        """
        diagonal = np.diag(moments)
        order = np.argsort(-diagonal, kind="stable")
        damped = moments + np.eye(len(moments)) * (_DAMPING * diagonal.mean() + 1e-12)
        inverse = np.linalg.inv(damped[np.ix_(order, order)])
        upper = np.linalg.cholesky(inverse).T
        importance = np.empty(len(moments))
        importance[order] = 1 / np.square(np.diag(upper))
        return cls(importance, order, upper / np.diag(upper)[:, np.newaxis])

    def codes(self, matrix: np.ndarray, quantizer: Quantizer) -> np.ndarray:
        """Returns the indices of the values of [n, out] weights."""
        wide = np.broadcast_to(self.importance[:, np.newaxis], matrix.shape)
        rest = matrix[self.order]
        found = np.empty(matrix.shape, np.int64)
        for i, row in enumerate(self.order):
            found[row] = quantizer.choose(rest[i], wide[row])
            error = rest[i] - quantizer.values[found[row]]
            rest[i + 1 :] -= np.outer(self.passed[i, i + 1 :], error)
        return found
