"""The variables of a trained network by name ("model/layer/variable") and shape.

All readers of weight formats end here, in one check that a file gave every variable, with its
shape, and only finite numbers.
"""

from collections.abc import Mapping

import numpy as np

from squeezenext.config import Config
from squeezenext.config.network import SqueezeNet
from squeezenext.errors import InputError
from squeezenext.network import graph

NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all float variables except batch norm's counters, in network order."""
    network = graph.of(config)
    found = {}
    for node in network.weighted:
        found[f"model/{node.name}/kernel"] = network.kernel_shape(node.name)
        if node.bias:
            found[f"model/{node.name}/bias"] = node.shape[-1:]
        if node.norm:
            found |= {f"model/{node.norm}/{part}": node.shape[-1:] for part in NORM}
    return found


def complete(
    config: Config, arrays: Mapping[str, np.ndarray], source: str
) -> dict[str, np.ndarray]:
    """Checks arrays that were read from a file, and returns all variables of the network.

    Args:
      config: the network.
      arrays: its variables by name, of any float type; moving statistics as evaluation uses them,
        already divided by Caffe's `scale_factor`.
      source: the file's name in messages.

    Returns:
      The variables as float32, with `scale_factor` 1 for each batch norm and a dropout count of 0.

    Raises:
      InputError: a variable is missing, unknown, of another shape or not finite, or a variance is
        negative.
    """
    expected, found = shapes(config), {}
    if unknown := sorted(set(arrays) - set(expected)):
        raise InputError(f"{source} does not fit this network: it has no {unknown[0]}.")
    for name, shape in expected.items():
        array = arrays.get(name)
        if array is None or array.shape != shape:
            told = "is absent" if array is None else f"has shape {array.shape}"
            raise InputError(f"{source} does not fit this network: {name} {told}, not {shape}.")
        found[name] = _number(array, name, source)
        if name.endswith("/moving_variance"):
            found[name.replace("moving_variance", "scale_factor")] = np.ones((), np.float32)
    if isinstance(config.model, SqueezeNet):
        found["model/dropout/calls"] = np.zeros((), np.int64)
    return found


def unfold(config: Config, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns variables with which the network computes what the folded weights compute.

    Without batch norm this is the inverse of `graph.fold`; else each batch norm only adds the bias.
    """
    found = {}
    for node in graph.of(config).weighted:
        vector = node.shape[-1:]
        bias = weights.get(f"{node.name}/bias")
        found[f"model/{node.name}/kernel"] = weights[f"{node.name}/kernel"]
        if node.bias:
            found[f"model/{node.name}/bias"] = np.zeros(vector) if node.norm else bias
        if node.norm:
            values = (np.ones(vector), bias, np.zeros(vector), np.ones(vector) - graph.EPSILON)
            found |= {f"model/{node.norm}/{p}": v for p, v in zip(NORM, values, strict=True)}
    return complete(config, found, "the compressed network")


def _number(array: np.ndarray, name: str, source: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{source} is damaged: {name} holds a number that is not finite.")
    if name.endswith("/moving_variance") and array.size and array.min() < 0:
        raise InputError(f"{source} is damaged: {name} holds a negative variance.")
    return array
