"""Which weights to take away, and when.

Deep Compression prunes what is small, layer by layer at thresholds found by hand. Here one ranking
holds for all layers: a weight's square times what that layer's errors have been measured to cost.
The share that stays falls along a cubic (Zhu and Gupta, arXiv:1710.01878), fast while most of what
goes is useless, slowly at the end.
"""

from collections.abc import Mapping

import numpy as np

from squeezenext.network.graph import Graph


def density(progress: float, final: float) -> float:
    """Returns the share of weights that stay at `progress`, 0..1, of the pruning."""
    left = 1.0 - min(max(progress, 0.0), 1.0)
    return final + (1.0 - final) * left**3


def importance(
    graph: Graph, moments: Mapping[str, np.ndarray], costs: Mapping[str, float]
) -> dict[str, float]:
    """Returns what a squared unit of each layer's weights costs, on average over them."""
    return {
        node.name: costs[node.name]
        * float(np.trace(moments[node.name], axis1=1, axis2=2).mean())
        / moments[node.name].shape[-1]
        for node in graph.weighted
    }


def masks(
    kernels: Mapping[str, np.ndarray], importance: Mapping[str, float], share: float
) -> dict[str, np.ndarray]:
    """Returns which weights stay, bool by layer: the most important `share` of all.

    Every layer keeps a weight, so that none goes blind.
    """
    scores = {
        name: np.square(k, dtype=np.float64) * importance[name] for name, k in kernels.items()
    }
    every = np.concatenate([score.ravel() for score in scores.values()])
    gone = min(int(round((1.0 - share) * len(every))), len(every) - 1)
    least = np.partition(every, gone)[gone]
    return {
        name: (score >= min(least, score.max())) & (kernels[name] != 0)
        for name, score in scores.items()
    }
