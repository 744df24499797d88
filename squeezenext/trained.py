"""A trained network in the form that is shipped: its graph, folded weights and classes.

TensorFlow is reached only for a run that keeps moving averages.
"""

import dataclasses
from pathlib import Path

import numpy as np

from squeezenext import checkpoint, description, graph
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.foreign import named
from squeezenext.graph import Graph
from squeezenext.labels import Label
from squeezenext.prediction import shipped


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network and its weights.

    Attributes:
      name: of the model directory or the published model.
      config: its configuration.
      labels: the classes in the order of the logits.
      graph, weights: as `graph.of` and `graph.fold` make them.
      temperature: by which `predict.py` divides the logits before the softmax.
    """

    name: str
    config: Config
    labels: tuple[Label, ...]
    graph: Graph
    weights: dict[str, np.ndarray]
    temperature: float = 1.0


def load(model: str | Path) -> Trained:
    """Reads a model directory, a published model or a `.sqz` file.

    Raises:
      InputError: there is no such model, or it holds no checkpoint.
    """
    if Path(model).suffix == ".sqz" and Path(model).is_file():
        return _of_sqz(Path(model))
    directory = named.resolve(model)
    config, known = description.read(directory)
    folded = graph.fold(config, variables(directory))
    temperature = shipped.read_temperature(directory)
    return Trained(Path(model).name, config, known, graph.of(config), folded, temperature)


def _of_sqz(path: Path) -> Trained:
    from squeezenext.compression import sqz  # no model directory needs it

    found = sqz.read(path)
    network = graph.of(found.config)
    weights, temperature = found.weights, found.temperature
    return Trained(path.stem, found.config, found.classes, network, weights, temperature)


def variables(directory: Path) -> dict[str, np.ndarray]:
    """Returns a model directory's variables by "model/layer/variable", averages where kept.

    Raises:
      InputError: there is no whole checkpoint.
    """
    found = checkpoint.newest(directory / "checkpoints", lambda text: None)
    if found is None:
        raise InputError(f"{directory} holds no checkpoint yet; train it first.")
    state = found[0]
    if not any(name.startswith("average/") for name in state):
        return state
    from squeezenext import quiet  # which variables are averaged, Keras knows

    quiet.import_tensorflow()
    from squeezenext.training import model_directory

    return model_directory.read_weights(directory)
