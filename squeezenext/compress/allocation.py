"""Allocates the bits of a budget to the layers by their measured sensitivity.

One price of a bit, in nats, holds for all layers: rate_distortion.py quantizes each of them at that
price. A search finds the price that fills the budget or, without a budget, the price at which the
network's answers move by `NEAR` nats.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from squeezenext.compress import rate_distortion
from squeezenext.compress.probes import Probe
from squeezenext.errors import InputError
from squeezenext.sqz.file import Encoded
from squeezenext.sqz.kernels import Shared

Kernels = Mapping[str, Shared]
NEAR = 0.02  # nats an image: how far the answers may move where no budget is given
# Beyond this a network's answers are no longer its own; noise of a tenth of each weight takes the
# published network there, and its top-1 from 64 to 36 of 100 images.
LOST = 1.5
CHEAPEST, START, DEAREST = 1e-10, 1e-7, 1e-3  # nats a bit
_STEPS = 16
_NARROW = 0.02  # of the logarithm of the price
_ENOUGH = 0.01, 0.1  # how far below the budget of bytes, or of nats, may be given away


class BudgetTooSmall(InputError):
    """No file of so few bytes gives the network's answers; what to do depends on the command."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """What one price leads to.

    Attributes:
      slope: the price.
      kernels: the shared weights by layer.
      encoded: the file.
      weights: all that the file holds, rounded as it holds them.
      nats: how far the answers of these weights are.
    """

    slope: float
    kernels: Kernels
    encoded: Encoded
    weights: dict[str, np.ndarray]
    nats: float


def search(
    encode: Callable[[Kernels], Encoded],
    probe: Probe,
    max_bytes: int | None,
    report: Callable[[str], None] = lambda text: None,
) -> Trial:
    """Finds the price of a bit.

    Args:
      encode: makes the file.
      probe: of the network, to see how far the answers move.
      max_bytes: of the file; None: the smallest whose answers are within `NEAR`.
      report: is told of each trial.

    Raises:
      BudgetTooSmall: no file so small gives the network's answers.
      InputError: no file at all is near enough.
    """

    moments = probe.moments()
    costs = probe.costs(moments)
    plans = {  # computing them takes as long as all the rest of one trial
        name: rate_distortion.plans(moment, costs[name]) for name, moment in moments.items()
    }

    def attempt(slope: float) -> Trial:
        kernels = {
            name: rate_distortion.share(probe.weights[f"{name}/kernel"], plan, slope)
            for name, plan in plans.items()
        }
        encoded, weights = encode(kernels), stored(probe.weights, kernels)
        trial = Trial(slope, kernels, encoded, weights, probe.divergence(weights))
        size = len(encoded.data)
        report(f"{slope:.2e} nats a bit: {size:,} bytes, answers move by {trial.nats:.4f} nats")
        return trial

    if max_bytes is None:
        return _nearest(attempt)
    return _fitting(attempt, max_bytes)


def stored(weights: Mapping[str, np.ndarray], kernels: Kernels) -> dict[str, np.ndarray]:
    """Returns all weights as a file of float16 holds them, the kernels in place of their own."""
    values = {f"{name}/kernel": kernel.values for name, kernel in kernels.items()}
    with np.errstate(over="ignore"):  # `sqz.encode` refuses what overflows
        return {
            name: array.astype(np.float16).astype(np.float32)
            for name, array in {**weights, **values}.items()
        }


def _fitting(attempt: Callable[[float], Trial], max_bytes: int) -> Trial:
    """Returns a trial of at most `max_bytes`, and hardly less."""

    def excess(trial: Trial) -> float:
        over = len(trial.encoded.data) / max_bytes - 1
        if trial.nats > LOST and over > 0:  # a dearer bit only moves the answers further
            raise too_little(f"at {len(trial.encoded.data):,} bytes its answers are others")
        return over

    def too_little(why: str) -> BudgetTooSmall:
        return BudgetTooSmall(f"--max_bytes {max_bytes:,} is too little for this network: {why}.")

    places = math.log(CHEAPEST), math.log(START), math.log(DEAREST)
    found = _search(lambda place: attempt(math.exp(place)), excess, *places, _ENOUGH[0])
    size = len(found.encoded.data)
    if size > max_bytes:
        raise too_little(f"{size:,} is the least")
    if found.nats > LOST:
        raise too_little(f"at {size:,} bytes its answers are others")
    return found


def _nearest(attempt: Callable[[float], Trial]) -> Trial:
    """Returns a trial whose answers move by `NEAR`, or hardly less."""
    # Here the cheaper bit is the safer: the search goes the other way.
    places = -math.log(DEAREST), -math.log(START), -math.log(CHEAPEST)
    found = _search(
        lambda place: attempt(math.exp(-place)),
        lambda trial: math.log(max(trial.nats, 1e-12) / NEAR),
        *places,
        _ENOUGH[1],
    )
    if found.nats > NEAR:
        raise InputError(
            f"No sharing of this network's weights keeps its answers within {NEAR} nats (the best "
            f"moves them by {found.nats:.3g}); keep all with --lossless, or give --max_bytes."
        )
    return found


def _search(
    attempt: Callable[[float], Trial],
    excess: Callable[[Trial], float],
    low: float,
    start: float,
    high: float,
    enough: float,
) -> Trial:
    """Finds where the excess, which falls from `low` to `high` (nearly), reaches zero.

    Returns:
      A trial whose excess is in -enough..0; else the last one without any; else the last.
    """
    left, right = (low, math.inf), (high, -math.inf)  # place and excess; not tried yet
    place, best = start, None
    for _ in range(_STEPS):
        last = attempt(place)
        over = excess(last)
        if over > 0:
            left = (place, over)
        else:
            right, best = (place, over), last
        if -enough <= over <= 0 or right[0] - left[0] < _NARROW:
            break
        place = _between(left, right, enough)
    return best or last


def _between(left: tuple[float, float], right: tuple[float, float], enough: float) -> float:
    """Returns where to look next: on the line through both ends, away from either."""
    width = right[0] - left[0]
    if math.isinf(left[1]) or math.isinf(right[1]):  # one end has not been tried
        return left[0] + width * (0.7 if math.isinf(left[1]) else 0.3)
    share = (left[1] + enough / 2) / (left[1] - right[1])
    return left[0] + width * min(max(share, 0.1), 0.9)
