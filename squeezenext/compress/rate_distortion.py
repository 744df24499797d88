"""Chooses shared values and codes by what they cost in bits and in error.

A weight's code is the one of least importance x (weight - value)^2 + slope x bits, the values and
the bits follow from the codes, and so on: entropy-constrained k-means (Chou, Lookabaugh and Gray,
1989). 0 is always one of the values, so that pruning is a choice like any other. With the second
moments of a layer's inputs, each row's error is made good by the rows that are still to come, as
in GPTQ (Frantar and others, arXiv:2210.17323), which is Optimal Brain Surgeon in a fixed order.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from squeezenext.sqz.kernels import Shared

FEW, MANY = 16, 512  # values to begin with; those that no weight takes die out
_ROUNDS = 20
_SAMPLE = 20_000  # weights that the values are fitted to
_DAMPING = 0.01  # of the moments, a share of their mean: keeps the inverse bounded
# What lies this many values away may still be the cheapest; 0 always may.
_NEIGHBOURS = np.array([-2, -1, 0, 1, 2])


@dataclasses.dataclass(frozen=True, eq=False)
class Quantizer:
    """Values, ascending with 0 among them, and the bits of each one's code."""

    values: np.ndarray
    bits: np.ndarray
    slope: float

    def choose(self, weights: np.ndarray, importance: np.ndarray) -> np.ndarray:
        """Returns the place of the cheapest value for each weight, [n]."""
        values = self.values
        nearest = np.searchsorted((values[1:] + values[:-1]) / 2, weights)
        near = nearest + _NEIGHBOURS[:, np.newaxis]
        places = np.concatenate(
            [
                np.clip(near, 0, len(values) - 1),
                np.full((1, len(weights)), np.searchsorted(values, 0.0)),
            ]
        )
        cost = importance * np.square(weights - values[places]) + self.slope * self.bits[places]
        return np.take_along_axis(places, cost.argmin(0)[np.newaxis], 0)[0]


def design(weights: np.ndarray, importance: np.ndarray, slope: float) -> Quantizer:
    """Fits a quantizer to weights, [n], of some importance, [n]."""
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
    """Returns evenly spaced values: what is best where many bits are spent.

    There the error is step^2 / 12 and a step half as wide costs a bit, so that the price of a bit
    is importance x step^2 x ln 2 / 6.
    """
    step = np.sqrt(6 * slope / (np.log(2) * max(importance.mean(), 1e-300)))
    low, high = weights.min(), weights.max()
    count = int(np.clip((high - low) / max(step, 1e-300), FEW, MANY))
    return np.unique(np.append(np.linspace(low, high, count), 0.0))


def _moved(before: Quantizer, codes, weights, importance) -> Quantizer:
    """Puts each value into the middle of its weights and drops those without any."""
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


def plans(moments: np.ndarray, scale: float) -> list["Plan"]:
    """Returns how the weights of each group are to be quantised, at whatever price of a bit.

    Args:
      moments: [groups, n, n] second moments of what a filter of each group reads, n being the
        weights of one filter in the kernel's order.
      scale: of the moments: what one unit of squared error of the outputs costs.
    """
    return [Plan.of(moment * scale) for moment in moments]


def share(kernel: np.ndarray, plans: Sequence["Plan"], slope: float) -> Shared:
    """Shares a kernel's weights.

    Args:
      kernel: [..., out] float32.
      plans: one a group.
      slope: what a bit costs.
    """
    outputs = kernel.shape[-1]
    matrix = kernel.reshape(-1, outputs).astype(np.float64)
    groups = np.split(matrix, len(plans), axis=1)
    wide = [np.repeat(p.importance, outputs // len(plans)) for p in plans]
    quantizer = design(np.concatenate([g.ravel() for g in groups]), np.concatenate(wide), slope)
    codes = [plan.codes(g, quantizer) for g, plan in zip(groups, plans, strict=True)]
    values = quantizer.values[np.concatenate(codes, axis=1)]
    return Shared.of(values.astype(np.float32).reshape(kernel.shape))


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """In which order rows are quantised, and how an error is passed on.

    Attributes:
      importance: [n] of each row, once the rows after it can make good.
      order: [n] rows, the most important inputs first.
      passed: [n, n] upper triangle, in that order.
    """

    importance: np.ndarray
    order: np.ndarray
    passed: np.ndarray

    @classmethod
    def of(cls, moments: np.ndarray) -> "Plan":
        diagonal = np.diag(moments)
        order = np.argsort(-diagonal, kind="stable")
        damped = moments + np.eye(len(moments)) * (_DAMPING * diagonal.mean() + 1e-12)
        inverse = np.linalg.inv(damped[np.ix_(order, order)])
        upper = np.linalg.cholesky(inverse).T
        importance = np.empty(len(moments))
        importance[order] = 1 / np.square(np.diag(upper))
        return cls(importance, order, upper / np.diag(upper)[:, np.newaxis])

    def codes(self, matrix: np.ndarray, quantizer: Quantizer) -> np.ndarray:
        """Returns the codes of [n, out] weights."""
        wide = np.broadcast_to(self.importance[:, np.newaxis], matrix.shape)
        left = matrix[self.order]
        found = np.empty(matrix.shape, np.int64)
        for place, row in enumerate(self.order):
            found[row] = quantizer.choose(left[place], wide[row])
            error = left[place] - quantizer.values[found[row]]
            left[place + 1 :] -= np.outer(self.passed[place, place + 1 :], error)
        return found
