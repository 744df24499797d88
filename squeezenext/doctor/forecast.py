"""What more photographs would bring, from the learning curve of a linear classifier."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from squeezenext.doctor import suspects

MOST = 1000  # photographs; of more, a twentieth is already a good test
SHARES = (0.25, 0.5, 1.0)  # points of the curve: shares of the photographs outside of a fold
NAMED = 2  # most classes that are named


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A forecast from cross-validation.

    Attributes:
      doubled: accuracy with twice as many photographs.
      gained: the classes that gained most from the latter half of the photographs.
    """

    doubled: float
    gained: tuple[str, ...]


def forecast(
    values: np.ndarray, labels: np.ndarray, groups: np.ndarray, names: Sequence[str]
) -> Forecast | None:
    """Fits a power law to the error of classifiers that see parts of the photographs.

    Args:
      values: [n, channels] float32 features, at least 0.
      labels: [n] integers, 0 to classes - 1.
      groups: [n] integers, equal for photographs that belong together.
      names: the classes' names.

    Returns:
      The forecast; None for more than `MOST` photographs, where testing some is enough.
    """
    if len(labels) > MOST:
        return None
    right = {}
    for share in SHARES:
        answers = suspects.out_of_fold(values, labels, groups, len(names), share).argmax(1)
        right[share] = (answers == labels).astype(float)
    errors = [max(1 - right[share].mean(), 1 / len(labels)) for share in SHARES]
    slope = min(0.0, np.polyfit(np.log(SHARES), np.log(errors), 1)[0])
    gains = right[SHARES[-1]] - right[SHARES[-2]]
    counts = np.bincount(labels, minlength=len(names)).clip(1)
    of_class = np.bincount(labels, gains, len(names)) / counts
    order = np.argsort(-of_class, kind="stable")
    gained = tuple(names[label] for label in order[:NAMED] if of_class[label] > 0)
    return Forecast(float(1 - errors[-1] * 2.0**slope), gained)
