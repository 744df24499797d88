"""A trained network with all that is needed to run it, whatever file it was read from."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.labels import Label, as_texts
from squeezenext.network import graph as graphs
from squeezenext.network.graph import Graph
from squeezenext.network.integer import IntegerNetwork
from squeezenext.network.known import Known

# Bounds of a temperature. The fit gives 0.05 to 20; far below, float32 logits become infinite.
TEMPERATURES = (1e-3, 1e3)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained classifier.

    Attributes:
      name: the model's name in messages and in exported files.
      config: the configuration; running the model needs `config.images` alone.
      labels: the classes in the order of the logits.
      weights: the folded float32 weights by "layer/variable", see `graph.fold`; empty where
        `file` holds them.
      temperature: the divisor of the logits before the softmax.
      fitted_to: SHA-256 of the split that the temperature was fitted to, or "".
      known: what says whether an image shows one of the classes, or None.
      integer: the network in whole numbers that gives the logits, or None; `weights` are what its
        weights stand for.
      file: the content of the LiteRT file that runs the model, or None if it is to be made from
        the weights.
      rgb: (mean, deviation) of an exported `file`, which reads (pixel - mean) / deviation of RGB
        pixels and gives probabilities. None: normalised images in, see `geometry.normalize`, and
        logits out.
    """

    name: str
    config: Config
    labels: tuple[Label, ...]
    weights: dict[str, np.ndarray]
    temperature: float = 1.0
    fitted_to: str = ""
    known: Known | None = None
    integer: IntegerNetwork | None = None
    file: bytes | None = None
    rgb: tuple[float, float] | None = None

    @functools.cached_property
    def graph(self) -> Graph:
        """The folded network, without its weights."""
        return graphs.of(self.config)


def check_labels(labels: Sequence[Label], config: Config, source: str) -> None:
    """Raises InputError unless `source` names as many classes as the network has, as texts."""
    if len(labels) != config.model.classes:
        raise InputError(
            f"{source} names {len(labels)} classes, its network has {config.model.classes}."
        )
    try:
        as_texts(labels)
    except ValueError as error:
        raise InputError(f"The classes in {source} cannot be used: {error}.") from error


def check_temperature(value: object) -> float:
    """Returns a temperature that was read from a file.

    Raises:
      ValueError: it is no number, or out of bounds.
    """
    low, high = TEMPERATURES
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"a temperature of {value!r}"[:60])
    return float(value)
