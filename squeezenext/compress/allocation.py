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
from squeezenext.compress.rate_distortion import GroupPlan
from squeezenext.errors import InputError
from squeezenext.network.integer import IntegerNetwork
from squeezenext.sqz.file import Encoded
from squeezenext.sqz.kernels import Shared

Kernels = Mapping[str, Shared]
NEAR = 0.02  # greatest divergence of the answers without a budget, in nats an image
# Beyond this divergence the answers are another network's: noise of a tenth of each weight brings
# the published network there, and its top-1 from 64 to 36 of 100 images.
LOST = 1.5
# Least share of the information about the image that the network's answers hold. Below a tenth, a
# compressed network named one class for nearly all photographs in every model that was measured.
HARDLY = 0.1
# Logarithms of the least price of a bit, the first one to try and the greatest, in nats.
_PRICES = math.log(1e-10), math.log(1e-7), math.log(1e-3)
_TRIALS = 16  # trials of a search, at most
_NARROW = 0.02  # width of the logarithm of the price at which a search ends
_UNUSED_BYTES, _UNUSED_NATS = 0.01, 0.1  # share of the budget that a search may leave unused


class BudgetTooSmall(InputError):
    """No file within the budget gives the network's answers.

    The message leaves the advice to the command, whose flags differ.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class Compressed:
    """A file of a compressed network."""

    encoded: Encoded
    weights: Mapping[str, np.ndarray]  # all weights that the file must decode to
    kernels: Kernels = dataclasses.field(default_factory=dict)  # quantized ones by layer
    nats: float = 0.0  # divergence of the answers from the network's; 0 if not measured
    information: float = 1.0  # what the answers depend on the image, as a share of the network's
    retrained: bool = False  # the weights no longer approximate the network's
    # The file holds trained codebooks; else they did not fit the budget, or nothing was trained.
    values_trained: bool = False
    network: IntegerNetwork | None = None  # with --integer, what the file holds


def search(
    encode: Callable[[Kernels], Compressed],
    probe: Probe,
    max_bytes: int | None,
    report: Callable[[str], None],
    whole: bool = False,
) -> Compressed:
    """Finds the price of a bit and returns the trial with it.

    Args:
      encode: makes the file from quantized kernels, not yet compared with the network.
      probe: the network, to measure how far its answers move.
      max_bytes: budget of the file; None takes the smallest file whose answers stay within `NEAR`.
      report: receives a line about each trial.
      whole: the weights of a layer are multiples of one number, see `rate_distortion.quantize`.

    Raises:
      BudgetTooSmall: no file within the budget gives the network's answers.
      InputError: no price keeps the answers within `NEAR`.
    """
    plans = {  # computing them takes as long as all the rest of one trial
        name: [GroupPlan.of(moment * probe.sensitivities[name]) for moment in moments]
        for name, moments in probe.moments.items()
    }

    def attempt(slope: float) -> Compressed:
        kernels = {
            name: rate_distortion.quantize(probe.weights[f"{name}/kernel"], plan, slope, whole)
            for name, plan in plans.items()
        }
        made = encode(kernels)
        nats, information = probe.compare(made.weights)
        size = len(made.encoded.data)
        report(f"{size:,} bytes, answers move by {nats:.4f} nats")
        return dataclasses.replace(made, nats=nats, information=information)

    return _nearest(attempt) if max_bytes is None else _fitting(attempt, max_bytes)


def stored(weights: Mapping[str, np.ndarray], kernels: Kernels) -> dict[str, np.ndarray]:
    """Returns the weights with quantized kernels, all rounded to float16 as a file stores them."""
    values = {f"{name}/kernel": kernel.values for name, kernel in kernels.items()}
    with np.errstate(over="ignore"):  # `sqz.encode` refuses what overflows
        return {
            name: array.astype(np.float16).astype(np.float32)
            for name, array in {**weights, **values}.items()
        }


def lost(trial: Compressed) -> str | None:
    """Returns why a compressed network is of no use, None if it is of use."""
    if trial.nats > LOST:
        return "answers are others"
    return "answers hardly depend on the image" if trial.information < HARDLY else None


def _fitting(attempt: Callable[[float], Compressed], max_bytes: int) -> Compressed:
    """Returns a trial of at most `max_bytes` and nearly as many, whose answers are not lost."""

    def excess(trial: Compressed) -> float:
        over = len(trial.encoded.data) / max_bytes - 1
        # A higher price moves lost answers still further, so 0 ends the search.
        return 0.0 if over > 0 and lost(trial) else over

    found = _search(lambda x: attempt(math.exp(x)), excess, _PRICES, _UNUSED_BYTES)
    why, size = lost(found), len(found.encoded.data)
    if not why and size <= max_bytes:
        return found
    least = _least(attempt)
    if least and len(least.encoded.data) <= max_bytes:
        return least
    reasons = [f"at {size:,} bytes its {why}"] if why else []
    reasons += [f"{len(least.encoded.data):,} is the least that works"] if least else []
    raise BudgetTooSmall(
        f"--max_bytes {max_bytes:,} is too little for this network: {'; '.join(reasons)}."
    )


def _least(attempt: Callable[[float], Compressed]) -> Compressed | None:
    """Returns about the smallest trial whose answers are not lost; it depends on no budget."""
    low, _, high = _PRICES
    best = attempt(math.exp(high))
    if not lost(best):
        return best
    best = None
    for _ in range(_TRIALS // 2):
        middle = (low + high) / 2
        trial = attempt(math.exp(middle))
        low, high, best = (low, middle, best) if lost(trial) else (middle, high, trial)
    return best


def _nearest(attempt: Callable[[float], Compressed]) -> Compressed:
    """Returns a trial whose answers move by at most `NEAR` and nearly as much."""
    # The excess falls with the price here, so the search runs over the negative logarithm.
    found = _search(
        lambda x: attempt(math.exp(-x)),
        lambda trial: 1.0 if lost(trial) else math.log(max(trial.nats, 1e-12) / NEAR),
        tuple(-price for price in reversed(_PRICES)),
        _UNUSED_NATS,
    )
    if found.nats > NEAR or lost(found):
        raise InputError(
            f"No sharing of this network's weights keeps its answers within {NEAR} nats (the best "
            f"moves them by {found.nats:.3g}); keep all with --lossless, or give --max_bytes."
        )
    return found


def _search(
    attempt: Callable[[float], Compressed],
    excess: Callable[[Compressed], float],
    prices: tuple[float, float, float],
    unused: float,
) -> Compressed:
    """Finds the x, from the least over the first to try to the greatest, of nearly no excess.

    The excess of a trial, as a share of its bound, falls (nearly) along x.

    Returns:
      A trial whose excess is in -unused..0, else the last one without excess, else the last.
    """
    low, x, high = prices
    left, right = (low, math.inf), (high, -math.inf)  # x and excess of both ends, not tried yet
    best = None
    for _ in range(_TRIALS):
        last = attempt(x)
        over = excess(last)
        if over > 0:
            left = (x, over)
        else:
            right, best = (x, over), last
        if -unused <= over <= 0 or right[0] - left[0] < _NARROW:
            break
        x = _between(left, right, unused)
    return best or last


def _between(left: tuple[float, float], right: tuple[float, float], unused: float) -> float:
    """Returns the next x: where the line through both ends falls to -unused / 2, near neither."""
    width = right[0] - left[0]
    if math.isinf(left[1]) or math.isinf(right[1]):  # an end that was not tried
        return left[0] + width * (0.7 if math.isinf(left[1]) else 0.3)
    share = (left[1] + unused / 2) / (left[1] - right[1])
    return left[0] + width * min(max(share, 0.1), 0.9)
