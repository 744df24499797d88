"""Says of an image whether it shows one of the classes at all, as one number beside the answer.

Where a network sees what it was not trained on, its features (the classifier's input, averaged
over height and width) lie far from those of the training images, or no class has a great logit:

    unit = features / length of the features
    score = greatest logit / deviation - sum((unit - mean)^2 / variance) / deviation of the sum
    known = 1 / (1 + exp(threshold - score))

Mean, variance and both deviations are those of training images; `threshold` is the score that 95 %
of held-out images reach. The sum is Mahalanobis's distance (arXiv:1807.03888) with one diagonal
covariance, and the greatest logit is that of arXiv:1911.11132. The score is linear in the unit, its
squares and the greatest logit, so that it takes 2 x channels + 2 numbers whatever the number of
classes, and every runtime has the operators. Where there are images of none of the classes, a
linear classifier of the unit that tells them apart is added. docs/adapt.md says what it refuses.
"""

import base64
import dataclasses
from collections.abc import Mapping

import numpy as np

from squeezenext.network.graph import Graph, Node

NAME = "known"  # of the node, its weights and the output of exported files
LEAST = 19  # held-out images, below which none of twenty can be refused
ACCEPTED = 0.95  # share of the held-out images that reach the threshold
# Share of the mean variance in each channel's: one that is always 0 in training would refuse all
# images in which it is not. 0.02 and 0.1 differ by less than the interval of what docs/adapt.md
# measures; from 60 training images on 0.1 is the steadier.
_SHRUNK = 0.1
# Weight of what photographs of no class teach, in deviations of the score over training images.
# Of other photographs of their kind, the network of clothing accepts 12 % without, 6 % with 32 of
# ImageNet to learn from at a weight of 0.5, and 5 % at 1, where it takes 17 % of drawn textures for
# clothes instead of 9 %. Learning alone, without the distance, takes 80 % of them.
_TAUGHT = 0.5
_MOST = 1e30  # of a number in a file; float32 ends at 3e38


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """The score of a network, less its threshold, as a linear function.

    Attributes:
      kernel: [2 * channels + 1] float32, factors of the unit, of its squares and of the greatest
        logit; rounded to 11 bits, which `to_json` keeps.
      bias: the number added.
    """

    kernel: np.ndarray
    bias: float

    def scores(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Returns scores less the threshold, [images] float64.

        Args:
          features: [images, channels], not negative.
          logits: [images, classes].
        """
        return _inputs(features, logits) @ self.kernel.astype(np.float64) + self.bias

    def value(self, features: np.ndarray, logits: np.ndarray) -> np.float32:
        """Returns what the node gives for an image's [channels] and [classes], 0 to 1."""
        (score,) = self.scores(features[np.newaxis], logits[np.newaxis])
        return np.float32(1 / (1 + np.exp(-np.clip(score, -80, 80))))

    def to_json(self) -> dict:
        """Returns the plain form that files carry, see `from_document`."""
        scale = float(np.abs(self.kernel).max())
        stored = (self.kernel / np.float32(scale)).astype("<f2").tobytes()
        return {"bias": self.bias, "scale": scale, "kernel": base64.b64encode(stored).decode()}


def from_document(document: object, graph: Graph) -> Known | None:
    """Reads what `to_json` returned; None where `document` is.

    Raises:
      ValueError: it is damaged, or of another network than `graph`.
    """
    if document is None:
        return None
    if not isinstance(document, dict):
        raise ValueError(f"{NAME} is no JSON object")
    bias, scale, text = (document.get(name) for name in ("bias", "scale", "kernel"))
    numbers = [x for x in (bias, scale) if type(x) is float and abs(x) < _MOST]
    if len(numbers) != 2 or not isinstance(text, str):
        raise ValueError(f"{NAME} lacks a number, or it is out of bounds")
    stored = np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(np.float32)
    if stored.shape != (2 * _channels(graph) + 1,) or not np.abs(stored).max() <= 1:
        raise ValueError(f"{NAME} is of another network")
    return Known(stored * np.float32(numbers[1]), numbers[0])


def fit(
    graph: Graph,
    train: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    direction: np.ndarray | None = None,
) -> Known:
    """Fits the score to images of the classes.

    Args:
      graph: the network.
      train: features [images, channels] and logits [images, classes] of training images.
      held_out: the same of images that nothing was trained on, which set the threshold: all but
        one in twenty reach it; with fewer than 19, it is the least score of them.
      direction: [channels], a linear function of `units` that is greater for images of the classes
        than for images of none, if there are any to learn from.
    """
    inputs, channels = _inputs(*train), train[0].shape[1]
    units, greatest = inputs[:, :channels], inputs[:, -1]
    mean, variance = units.mean(0), units.var(0)
    # The smallest number keeps one image, or many equal ones, from a division by 0.
    factors = 1 / ((1 - _SHRUNK) * variance + _SHRUNK * variance.mean() + 1e-12)
    factors /= max(float(((units - mean) ** 2 @ factors).std()), 1e-6)
    kernel = np.concatenate([2 * factors * mean, -factors, [1 / max(float(greatest.std()), 1e-6)]])
    if direction is not None:
        spread = float((inputs @ kernel).std()) / max(float((units @ direction).std()), 1e-6)
        kernel[:channels] += _TAUGHT * spread * direction
    found = from_document(Known(kernel.astype(np.float32), 0.0).to_json(), graph)
    if found is None or not np.isfinite(found.kernel).all():
        raise ValueError("the features are not finite")
    scores = found.scores(*held_out)
    # Of n + 1 images in random order, the last is below this quantile of the others in 5 %.
    threshold = np.quantile(scores, 1 - ACCEPTED, method="weibull")
    return dataclasses.replace(found, bias=-float(threshold))


def _inputs(features: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns what the score is linear in, [images, 2 * channels + 1] float64."""
    directions = units(features)
    return np.concatenate([directions, directions**2, logits.max(1, keepdims=True)], 1)


def units(features: np.ndarray) -> np.ndarray:
    """Returns features, [images, channels], as vectors of length 1, float64."""
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)


def append(
    graph: Graph, weights: Mapping[str, np.ndarray], known: Known | None
) -> tuple[Graph, dict[str, np.ndarray]]:
    """Returns a network with the node after its logits; without `known` the same network.

    The node's output, [1], is 0 to 1, and 0.5 at the threshold.
    """
    if known is None:
        return graph, dict(weights)
    stored = {f"{NAME}/kernel": known.kernel, f"{NAME}/bias": np.float32([known.bias])}
    return with_node(graph), {**weights, **stored}


def with_node(graph: Graph) -> Graph:
    """Returns the graph that `append` returns."""
    inputs = (classifier_input(graph), graph.logits.name)
    return Graph((*graph.nodes, Node(op="known", name=NAME, inputs=inputs, shape=(1,))))


def classifier_input(graph: Graph) -> str:
    """Returns the name of the map whose mean over height and width are the features.

    A convolution or a mean reads it, after the classifier's padding.
    """
    before = graph[graph.logits.inputs[0]]
    source = graph[before.inputs[0]]
    return source.inputs[0] if source.op == "pad" else source.name


def _channels(graph: Graph) -> int:
    return graph[classifier_input(graph)].shape[-1]
