"""Moves channel order and normalization into the first layer, so that a network takes RGB pixels.

Runtimes preprocess RGB with one mean and one deviation for all three channels; MediaPipe refuses
anything else. A configuration may have a deviation per channel, or BGR.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from squeezenext.config.images import Images
from squeezenext.network.graph import Graph, Node

NORMALIZE = "normalize"  # name of the layer that is inserted before a first layer that pads


def take_rgb(
    graph: Graph,
    weights: Mapping[str, np.ndarray],
    images: Images,
    mean: float = 0.0,
    std: float = 1.0,
) -> tuple[Graph, dict[str, np.ndarray]]:
    """Returns a network that takes (pixel - mean) / std of RGB pixels in 0..255.

    Args:
      graph: the network.
      weights: its weights, for the inputs that `geometry.normalize` makes.
      images: its preprocessing.
      mean: subtracted from every channel by the caller of the new network.
      std: divides every channel.

    Returns:
      The graph, and the weights with the first layer's changed. If the first layer pads, a layer is
      inserted before it instead: zero padding means the mean colour only for normalized inputs.
    """
    order = slice(None, None, -1) if images.channels == "BGR" else slice(None)
    # The old input is scale * new input + offset, in the configuration's channel order.
    scale = np.float64(std) / np.float64(images.std)
    offset = (mean - np.float64(images.mean)) / np.float64(images.std)
    weights = dict(weights)
    graph, before = graph_of_rgb(graph), graph
    first = _first(graph)
    if first == _first(before):
        kernel = weights[f"{first.name}/kernel"].astype(np.float64)
        bias = weights[f"{first.name}/bias"] + np.einsum("hwio,i->o", kernel, offset)
        kernel = (kernel * scale[:, np.newaxis])[:, :, order]
    else:
        kernel = np.zeros((1, 1, 3, 3))
        kernel[0, 0][range(3), range(3)] = scale
        kernel, bias = kernel[:, :, order], offset
    weights[f"{first.name}/kernel"] = kernel.astype(np.float32)
    weights[f"{first.name}/bias"] = bias.astype(np.float32)
    return graph, weights


def graph_of_rgb(graph: Graph) -> Graph:
    """Returns the graph that `take_rgb` returns."""
    source, first = graph.nodes[0].name, _first(graph)
    if first.op == "conv" and first.groups == 1 and first.padding == ((0, 0), (0, 0)):
        return graph
    pixels, *rest = graph.nodes
    normalize = Node(op="conv", name=NORMALIZE, inputs=(source,), shape=pixels.shape)
    return Graph((pixels, normalize, *(_renamed(node, source, NORMALIZE) for node in rest)))


def _first(graph: Graph) -> Node:
    """Returns the node that reads the images."""
    (first,) = (node for node in graph.nodes if graph.nodes[0].name in node.inputs)
    return first


def _renamed(node: Node, old: str, new: str) -> Node:
    """Returns a node that reads `new` where it read `old`."""
    return dataclasses.replace(node, inputs=tuple(new if x == old else x for x in node.inputs))
