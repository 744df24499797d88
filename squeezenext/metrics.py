"""Accuracy, its confidence intervals, calibration and per-class scores, without TensorFlow."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

SHOWN = 5  # names of classes in a remark
FREQUENT = 3  # times the images of the rarest class, above which naming the commonest is compared
Z = 1.959964  # half width of the normal distribution's 95 % interval


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scores of every example of a split, in the order of the records.

    Attributes:
      labels: [examples] int64.
      loss: [examples] float32.
      top1: [examples] float32, 1 if the label is the first class.
      top5: [examples] float32, 1 if it is among the first five.
      predicted: [examples] int64, the first class.
      probability: [examples] float32, probability of the first class.
    """

    labels: np.ndarray
    loss: np.ndarray
    top1: np.ndarray
    top5: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    logits: np.ndarray | None = None  # [examples, classes], if they were kept
    known: np.ndarray | None = None  # [examples] float32, see network/known.py; None without it

    @classmethod
    def of_rows(cls, columns: list[np.ndarray], examples: int) -> "Evaluation":
        """Drops the padding and checks that each example occurs exactly once.

        Args:
          columns: the examples' numbers, negative for padding, then the attributes in order.
          examples: number of examples of the split.

        Raises:
          RuntimeError: an example is missing or occurs twice.
        """
        numbers = columns[0]
        real = numbers >= 0
        if not np.array_equal(np.sort(numbers[real]), np.arange(examples)):
            raise RuntimeError(
                f"Evaluation saw {real.sum()} examples, not each of {examples} once."
            )
        in_order = np.argsort(numbers[real])
        return cls(*(column[real][in_order] for column in columns[1:]))

    def summary(self) -> dict[str, float | int]:
        """Returns {"top1", "top5", "loss", "examples"}; the first two are shares, 0..1.

        Where the model says of each image whether it is known, "accepted" is the share that is.
        """
        accepted = {} if self.known is None else {"accepted": float((self.known >= 0.5).mean())}
        return accepted | {
            "top1": float(self.top1.mean(dtype=np.float64)),
            "top5": float(self.top5.mean(dtype=np.float64)),
            "loss": float(self.loss.mean(dtype=np.float64)),
            "examples": len(self.labels),
        }

    @property
    def is_constant(self) -> bool:
        """Whether all images get one class with one probability, none of them near 1."""
        spread = np.ptp(self.probability) if len(self.labels) > 1 else 1.0
        return bool(
            spread < 1e-6
            and self.probability[0] < 0.99
            and (self.predicted == self.predicted[0]).all()
        )


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """Scores of one class, in 0..1 (0 for a division by 0), and its number of examples."""

    index: int
    precision: float
    recall: float
    f1: float
    examples: int


@dataclasses.dataclass(frozen=True)
class Bin:
    """Predictions of similar probability: their mean probability and the share that is right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Number of examples of one class that were taken for another."""

    label: int
    predicted: int
    count: int


def wilson(hits: float, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share (Wilson's score interval, 1927)."""
    if not count:
        return 0.0, 1.0
    share, square = hits / count, Z * Z / count
    centre = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval of a mean, by the normal approximation."""
    values = values.astype(np.float64)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return float(values.mean() - Z * error), float(values.mean() + Z * error)


def per_class(result: Evaluation, classes: int) -> list[ClassScore]:
    """Returns precision, recall and F1 of every class, in label order."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        result.labels, result.predicted, labels=np.arange(classes), zero_division=0.0
    )
    rows = enumerate(zip(*columns, strict=True))
    return [ClassScore(i, float(p), float(r), float(f1), int(n)) for i, (p, r, f1, n) in rows]


def kappa(result: Evaluation) -> float | None:
    """Returns Cohen's kappa, 1 for all right and 0 for chance; None if only one class occurs."""
    from sklearn.metrics import cohen_kappa_score

    if len(np.union1d(result.labels, result.predicted)) < 2:
        return None
    return float(cohen_kappa_score(result.labels, result.predicted))


def reliability(result: Evaluation, bins: int = 15) -> list[Bin]:
    """Returns bins of equal width of the first class's probability (arXiv:1706.04599)."""
    edges = np.linspace(0, 1, bins + 1)
    indices = np.clip(np.ceil(result.probability * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for number in range(bins):
        inside = indices == number
        count = int(inside.sum())
        confidence = float(result.probability[inside].mean()) if count else 0.0
        accuracy = float(result.top1[inside].mean()) if count else 0.0
        found.append(Bin(edges[number], edges[number + 1], count, confidence, accuracy))
    return found


def expected_calibration_error(bins: list[Bin]) -> float:
    """Returns the mean gap between probability and accuracy, weighted by the bins' counts."""
    total = sum(bin.count for bin in bins)
    return sum(bin.count * abs(bin.confidence - bin.accuracy) for bin in bins) / max(total, 1)


def confusions(result: Evaluation, most: int) -> list[Confusion]:
    """Returns the most frequent mistakes, the most frequent first."""
    wrong = result.labels != result.predicted
    pairs = np.stack([result.labels[wrong], result.predicted[wrong]], -1)
    if not len(pairs):
        return []
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.lexsort((found[:, 1], found[:, 0], -counts))[:most]
    return [Confusion(int(found[i, 0]), int(found[i, 1]), int(counts[i])) for i in order]


def confusion_matrix(result: Evaluation, classes: int) -> np.ndarray:
    """Returns the number of examples by true and predicted class, [classes, classes] int64."""
    pairs = np.bincount(result.labels * classes + result.predicted, minlength=classes**2)
    return pairs.reshape(classes, classes)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature that makes the labels most probable (arXiv:1706.04599).

    The target of each of n labels is (n + 1) / (n + 2), the rest goes to the other classes (Platt,
    1999). Without this a perfect score, common on a few dozen images, would make every probability
    100 %.

    Args:
      logits: [examples, classes] float32.
      labels: [examples] integers.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    count, classes = logits.shape
    own = logits[np.arange(count), labels].astype(np.float64)
    others = (logits.sum(-1, dtype=np.float64) - own) / max(1, classes - 1)
    wanted = own + (others - own) / (count + 2)

    def loss(log_temperature: float) -> float:
        scaled = logits * np.float32(math.exp(-log_temperature))
        return float((logsumexp(scaled, axis=-1) - wanted * math.exp(-log_temperature)).mean())

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded")
    return math.exp(found.x)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the loss of each example, [examples] float64, for logits [examples, classes]."""
    from scipy.special import log_softmax

    return -log_softmax(logits.astype(np.float64), axis=-1)[np.arange(len(labels)), labels]


def balanced_accuracy(result: Evaluation) -> float:
    """Returns the mean over the classes that have examples of the share of each that is right."""
    counts = np.bincount(result.labels)
    right = np.bincount(result.labels, result.top1.astype(np.float64))
    return float((right[counts > 0] / counts[counts > 0]).mean())


def remarks(result: Evaluation, names: Sequence[str]) -> list[str]:
    """Returns sentences about what the figures hide, such as untested classes."""
    kinds, given = (np.unique(each) for each in (result.labels, result.predicted))
    tested = set(kinds.tolist())
    untested = [name for i, name in enumerate(names) if i not in tested]
    said = []
    if untested:
        more = f" and {len(untested) - SHOWN} more" if len(untested) > SHOWN else ""
        shown = ", ".join(untested[:SHOWN])
        said.append(f"Untested, since no image here is of these classes: {shown}{more}.")
    counts = np.bincount(result.labels)
    if len(kinds) > 1 and counts.max() > FREQUENT * counts[counts > 0].min():
        share = counts.max() / counts.sum()
        said.append(f"Naming {names[int(counts.argmax())]} for every image would give {share:.4f}.")
    if len(kinds) == 1:
        said.append(f"All images are of one class, {names[int(kinds[0])]}: the figures say little.")
    elif len(given) == 1 and len(result.labels) > 1:
        said.append(
            f"It names {names[given[0]]} for every image: it tells nothing apart, whatever top-1."
        )
    if result.known is not None:
        share = float(result.summary()["accepted"])
        said.append(f"It accepts {share:.1%} of these images; the others it calls unknown.")
    return said


def document(result: Evaluation, classes: int) -> dict:
    """Returns all figures as plain data, for `--json` and the report.

    Returns:
      The keys of `Evaluation.summary`, their 95 % intervals, "balanced_accuracy", "kappa", "ece",
      the macro averages over the classes that have examples, "per_class" and "confusions".
    """
    count = len(result.labels)
    rows = per_class(result, classes)
    seen = [row for row in rows if row.examples]
    macro = {
        f"macro_{name}": float(np.mean([getattr(row, name) for row in seen]))
        for name in ("precision", "recall", "f1")
    }
    return {
        **result.summary(),
        "top1_interval": wilson(float(result.top1.sum()), count),
        "top5_interval": wilson(float(result.top5.sum()), count),
        "loss_interval": mean_interval(result.loss) if count > 1 else None,
        "balanced_accuracy": balanced_accuracy(result),
        "kappa": kappa(result),
        "ece": expected_calibration_error(reliability(result)),
        **macro,
        "per_class": [dataclasses.asdict(row) for row in rows],
        "confusions": [dataclasses.asdict(pair) for pair in confusions(result, 20)],
    }
