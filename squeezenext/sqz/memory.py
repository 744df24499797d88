"""The memory of the C runtime for a network without weights, layer by layer.

The figures are those of `plan.MemoryPlan`. The decoder's tables alone depend on the weights: here
each layer has the largest that the coder makes, for which the maps mostly leave room.
"""

import dataclasses
import math

from squeezenext.network import integer
from squeezenext.network.graph import Graph
from squeezenext.sqz import rans
from squeezenext.sqz.plan import LAST_CONV, MemoryPlan


@dataclasses.dataclass(frozen=True)
class LayerMemory:
    """What the C runtime needs for one layer.

    Attributes:
      layer: the layer's name.
      output: (height, width, channels), or (channels,).
      group: number of its group, whose layers are computed together, row by row; 0 of the image.
      rows: rows of the output that are kept at a time; 0 of the logits, which the caller keeps.
      activations: bytes of those rows.
      weights: bytes of the weights that are decoded together.
      tables: bytes of the decoder's tables, at most; the layers of a group share them.
      patch: bytes of the inputs of one filter; the same.
      in_use: bytes in use at most while its group runs, those of other layers included.
      macs: multiply-adds for one image.
    """

    layer: str
    output: tuple[int, ...]
    group: int
    rows: int
    activations: int
    weights: int
    tables: int
    patch: int
    in_use: int
    macs: int


def largest_plan(graph: Graph) -> MemoryPlan:
    """Returns the plan for a network; its `arena` is all memory that the caller gives."""
    graph = integer.without_pads(graph)
    shapes = {node.name: graph.kernel_shape(node.name) for node in graph.weighted}
    return MemoryPlan(graph, {name: rans.most_in_tables(shape) for name, shape in shapes.items()})


def of_layers(found: MemoryPlan) -> list[LayerMemory]:
    """Returns the memory of the image, then of each layer in the order of computation."""
    image, sizes = found.buffers[0], {key: item.size for key, item in found.items.items()}
    shape, kept = found.graph[image].shape, sizes[image]
    rows = [LayerMemory(image, shape, 0, found.rows[image], kept, 0, 0, 0, kept, 0)]
    group = 1
    for number, (stage, in_use) in enumerate(zip(found.stages, found.in_use(), strict=True)):
        node, macs = stage.node, 0
        height = found.rows[stage.target] if stage.kind < LAST_CONV else 0
        kept = height * math.prod(node.shape[1:])
        parts = (sizes.get((number, part), 0) for part in ("weights", "scratch", "patch"))
        if stage.length:
            macs = math.prod(found.graph.kernel_shape(node.name)) * math.prod(node.shape[:-1])
        rows.append(LayerMemory(node.name, node.shape, group, height, kept, *parts, in_use, macs))
        group += number in found.ends
    return rows
