"""A trained network in the form that is shipped: its graph, folded weights and classes.

TensorFlow is reached only for a run that keeps moving averages.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from squeezenext import checkpoint, description
from squeezenext.cli import tell
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.foreign import named
from squeezenext.labels import Label
from squeezenext.network import graph
from squeezenext.network.graph import Graph
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
      fitted_to: the split it was fitted to, see `shipped.read_fitted_to`.
    """

    name: str
    config: Config
    labels: tuple[Label, ...]
    graph: Graph
    weights: dict[str, np.ndarray]
    temperature: float = 1.0
    fitted_to: str = ""


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
    return Trained(
        name=Path(model).name,
        config=config,
        labels=known,
        graph=graph.of(config),
        weights=folded,
        temperature=shipped.read_temperature(directory),
        fitted_to=shipped.read_fitted_to(directory),
    )


def _of_sqz(path: Path) -> Trained:
    from squeezenext.sqz import file as sqz  # no model directory needs it

    found = sqz.read(path)
    return Trained(
        name=path.stem,
        config=found.config,
        labels=found.classes,
        graph=graph.of(found.config),
        weights=found.weights,
        temperature=found.temperature,
        fitted_to=found.fitted_to,
    )


def variables(directory: Path, report: Callable[[str], None] = tell) -> dict[str, np.ndarray]:
    """Returns a model directory's variables by "model/layer/variable", averages where kept.

    A checkpoint that is damaged is reported, and the one before it taken.

    Raises:
      InputError: there is no whole checkpoint, or none of the network that final.json tells of.
    """
    found = checkpoint.newest(directory / "checkpoints", report)
    if found is None:
        raise InputError(f"{directory} holds no checkpoint yet; train it first.")
    state, meta = found
    _check_last(directory, meta["step"])
    if not any(name.startswith("average/") for name in state):
        return {name: array for name, array in state.items() if name.startswith("model/")}
    from squeezenext import tf_import  # which variables are averaged, Keras knows

    tf_import.import_tensorflow()
    from squeezenext.training import model_directory

    return model_directory.evaluated(state, config_io.read_model(directory))


def _check_last(directory: Path, step: int) -> None:
    """Refuses an older network than the one whose scores and files lie in the directory."""
    try:
        ended = json.loads((directory / "final.json").read_text("utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):  # a run that goes on, imported weights
        return
    if ended != step:
        raise InputError(
            f"{directory} holds a run that ended at step {ended}, whose checkpoint is missing or "
            f"damaged (the newest whole one is of step {step}); bring it back from a copy, or "
            "train again, which goes on from there."
        )
