"""The shipped network that takes RGB pixels: channel order and normalisation become weights.

A runtime's own preprocessing knows one mean and one deviation for all three channels (MediaPipe
refuses others), and RGB alone. What a configuration wants beyond that goes into the first layer.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from squeezenext.config import Images
from squeezenext.network.graph import Graph, Node

NORMALIZE = "normalize"  # the layer put before a network whose first layer pads


def take_rgb(
    graph: Graph,
    weights: Mapping[str, np.ndarray],
    images: Images,
    mean: float = 0.0,
    std: float = 1.0,
) -> tuple[Graph, dict[str, np.ndarray]]:
    """Returns a network that reads (pixel - mean) / std, RGB, pixels in 0..255.

    Args:
      graph, weights: of the network that reads what `preprocessing.normalize` makes.
      images: its preprocessing.

    Returns:
      The same graph and its weights, the first layer's changed; or, where that layer pads (zeros
      are then the mean colour, which only normalised images have), with a layer before it.
    """
    order = slice(None, None, -1) if images.channels == "BGR" else slice(None)
    # What the network reads is scale * input + offset, in its own order of channels.
    scale = np.float64(std) / np.float64(images.std)
    offset = (mean - np.float64(images.mean)) / np.float64(images.std)
    weights = dict(weights)
    source = graph.nodes[0].name
    (first,) = (node for node in graph.nodes if source in node.inputs)
    if first.op == "conv" and first.groups == 1 and first.padding == ((0, 0), (0, 0)):
        kernel = weights[f"{first.name}/kernel"].astype(np.float64)
        bias = weights[f"{first.name}/bias"] + np.einsum("hwio,i->o", kernel, offset)
        kernel = (kernel * scale[:, np.newaxis])[:, :, order]
    else:
        kernel = np.zeros((1, 1, 3, 3))
        kernel[0, 0][range(3), range(3)] = scale
        kernel, bias = kernel[:, :, order], offset
        first = Node(op="conv", name=NORMALIZE, inputs=(source,), shape=graph.nodes[0].shape)
        graph = _insert(graph, first)
    weights[f"{first.name}/kernel"] = kernel.astype(np.float32)
    weights[f"{first.name}/bias"] = bias.astype(np.float32)
    return graph, weights


def _insert(graph: Graph, node: Node) -> Graph:
    """Puts a node right after the images."""
    images, *rest = graph.nodes
    moved = [
        dataclasses.replace(
            other, inputs=tuple(node.name if x == images.name else x for x in other.inputs)
        )
        for other in rest
    ]
    return Graph((images, node, *moved))
