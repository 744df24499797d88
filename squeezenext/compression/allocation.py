"""Shares out the bits of a budget among the layers, by what errors in each have been measured to
cost.

Two ways of sharing weights are offered, each a function of one number, the price of a bit: the
published one, k-means of 4 to 8 bits a layer, and rate_distortion.py's. A search finds the price
that fills the budget, or that keeps the network's answers as near as was asked.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import numpy as np

from squeezenext.compression import calibration, rate_distortion, sharing
from squeezenext.compression.calibration import Probe
from squeezenext.compression.sharing import Initialization, Shared
from squeezenext.compression.sqz import Encoded
from squeezenext.errors import InputError

Kernels = Mapping[str, Shared]
Sharing = Literal["rate_distortion", "k_means"]
BITS = range(4, 9)  # of a code of k-means; the paper's files have 4 and 8
NEAR = 0.02  # nats an image: how far the answers may move where no budget is given
# Beyond this a network's answers are no longer its own; noise of a tenth of each weight takes the
# published network there, and its top-1 from 64 to 36 of 100 images.
LOST = 1.5
CHEAPEST, DEAREST = 1e-10, 1e-3  # nats a bit
_STEPS = 14  # of the search: the price is found to half a hundredth of its size
_ENOUGH = 0.99  # of the budget


class Sharer(Protocol):
    """Shares all kernels at a price of a bit, in nats."""

    def __call__(self, slope: float) -> Kernels: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """What one price leads to."""

    slope: float
    kernels: Kernels
    encoded: Encoded
    nats: float


def by_rate_distortion(probe: Probe) -> Sharer:
    """Returns the sharer that weighs every weight's error against its bits."""
    moments = probe.moments()
    costs = probe.costs(moments)

    def shared(slope: float) -> Kernels:
        return {
            node.name: rate_distortion.share(
                probe.weights[f"{node.name}/kernel"], moments[node.name], costs[node.name], slope
            )
            for node in probe.graph.weighted
        }

    return shared


def by_k_means(probe: Probe, initialization: Initialization) -> Sharer:
    """Returns the published sharer: k-means, of as many bits a layer as are worth their price."""
    moments = probe.moments()
    costs = probe.costs(moments)
    choices: dict[str, list[tuple[float, float, Shared]]] = {}
    for node in probe.graph.weighted:
        kernel = probe.weights[f"{node.name}/kernel"]
        choices[node.name] = []
        for bits in BITS:
            made = sharing.k_means(kernel, bits, initialization)
            error = calibration.squared(made.values - kernel, moments[node.name])
            choices[node.name].append((costs[node.name] * error, information(made), made))

    def shared(slope: float) -> Kernels:
        return {
            name: min(ways, key=lambda way: way[0] + slope * way[1])[2]
            for name, ways in choices.items()
        }

    return shared


def information(kernel: Shared) -> float:
    """Returns the bits of a kernel's codes by their frequencies alone, zeros included."""
    counts = np.bincount(kernel.codes.ravel())
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def search(
    sharer: Sharer,
    encode: Callable[[Kernels], Encoded],
    probe: Probe,
    max_bytes: int | None,
    report: Callable[[str], None] = lambda text: None,
) -> Trial:
    """Finds the price of a bit.

    Args:
      sharer: of `by_rate_distortion` or `by_k_means`.
      encode: makes the file.
      probe: of the network, to see how far the answers move.
      max_bytes: of the file; None: the smallest whose answers are within `NEAR`.
      report: is told of each trial.

    Raises:
      InputError: no file so small gives the network's answers.
    """

    def attempt(slope: float) -> Trial:
        kernels = sharer(slope)
        values = {f"{name}/kernel": kernel.values for name, kernel in kernels.items()}
        trial = Trial(
            slope, kernels, encode(kernels), probe.divergence({**probe.weights, **values})
        )
        size = len(trial.encoded.data)
        report(f"{slope:.2e} nats a bit: {size:,} bytes, answers move by {trial.nats:.4f} nats")
        return trial

    if max_bytes is None:
        found = _bisect(attempt, lambda trial: trial.nats > NEAR, lambda trial: False)
        return found[0] or found[1]
    small = _bisect(
        attempt,
        lambda trial: len(trial.encoded.data) <= max_bytes,
        lambda trial: _ENOUGH * max_bytes <= len(trial.encoded.data) <= max_bytes,
    )[1]
    if small is None or small.nats > LOST:
        raise InputError(
            f"--max_bytes {max_bytes:,} is too little for this network: "
            + ("no file is so small." if small is None else "its answers would be others.")
            + " Retrain it (--num_epochs with --data_dir), or allow more."
        )
    return small


def _bisect(
    attempt: Callable[[float], Trial],
    beyond: Callable[[Trial], bool],
    enough: Callable[[Trial], bool],
) -> tuple[Trial | None, Trial | None]:
    """Returns the dearest trial found that is not `beyond` and the cheapest that is."""
    low, high = math.log(CHEAPEST), math.log(DEAREST)
    before, after = None, None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        trial = attempt(math.exp(middle))
        if enough(trial):
            return before, trial
        if beyond(trial):
            high, after = middle, trial
        else:
            low, before = middle, trial
    return before, after
