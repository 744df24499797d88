"""The plan by which the C runtime computes an integer network in little memory.

Each node is a stage that reads and writes buffers. Stages in a row may form a group: its weights
are decoded at once, and its stages take turns, a row each, so that a buffer between them holds only
the rows that its reader still needs. A stage alone is computed with one block of filters after the
other, whose weights alone are in memory. The groups are those with the least peak that a search
finds; then every buffer gets its place in one arena. docs/micro.md has the layout in the file.
"""

import dataclasses
import itertools
import struct
from collections.abc import Iterable, Mapping

import numpy as np

from squeezenext.errors import InputError
from squeezenext.network.graph import Graph, Node
from squeezenext.network.integer import IntegerLayer, IntegerNetwork, IntegerSum

CONV, MAX_POOL, ADD, LAST_CONV, LAST_DENSE = range(5)  # kinds of stages
RELU, END, MASK = 1, 2, 4  # flags of a stage; the last in version 2 alone
BLOCK_BYTES = 12 << 10  # weights of a block of filters, about
_MOST_STAGES = 8  # stages of a group
_END_BYTES = 2  # of a value in a table
_BUFFER = struct.Struct("<IHHHHfB3x")
_STAGE = struct.Struct("<8B4H3H4B2x4I")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of the runtime.

    Attributes:
      kind: one of the constants above.
      node: the node it computes.
      sources: names of the buffers it reads.
      target: name of the buffer it writes; of a classifier the one it reads.
      channel: the first channel that it writes.
      length: weights of a filter.
      block: filters whose weights are coded, and decoded, together.
    """

    kind: int
    node: Node
    sources: tuple[str, ...]
    target: str
    channel: int = 0
    length: int = 0
    block: int = 1

    @property
    def blocks(self) -> list[int]:
        """The numbers of filters in each block, in order."""
        filters = self.node.shape[-1] // self.node.groups
        sizes = [self.block] * (filters // self.block) + [filters % self.block]
        return [size for size in sizes if size] * self.node.groups


def stages(graph: Graph) -> list[Operation]:
    """Returns the operations of a graph without pads, in order."""
    joined = {
        name: (node.name, sum(graph[before].shape[-1] for before in node.inputs[:place]))
        for node in graph.nodes
        if node.op == "concat"
        for place, name in enumerate(node.inputs)
    }
    classifier, found = graph.weighted[-1], []
    for node in graph.nodes:
        if node.op in ("input", "concat", "global_pool"):
            continue
        sources, target = node.inputs, joined.get(node.name, (node.name, 0))
        if node.op in ("conv", "dense"):
            kind, shape = CONV, graph.kernel_shape(node.name)
            if node.name == classifier.name:
                kind = LAST_CONV if node.op == "conv" else LAST_DENSE
                sources = graph[sources[0]].inputs if node.op == "dense" else sources
                target = sources[0], 0
            length = int(np.prod(shape[:-1]))
            most = max(1, min(BLOCK_BYTES // length, shape[-1] // node.groups))
            found.append(Operation(kind, node, sources, *target, length, most))
        else:
            kind = MAX_POOL if node.op == "max_pool" else ADD
            found.append(Operation(kind, node, sources, *target))
    return found


@dataclasses.dataclass
class Item:
    """Bytes that are needed from one time to another; `place` is found later."""

    size: int
    first: int
    last: int
    place: int = 0


class MemoryPlan:
    """Groups, rows of buffers and places in the arena.

    Attributes:
      arena: number of bytes.
      items: what takes them, by the name of a buffer, or by a stage's number and "weights",
        "scratch" (tables of the decoder) or "patch" (inputs of a filter); some share their bytes.
      places: offset of each item.
      rows: number of rows of each buffer that are kept.
      ends: number of the last stage of each group.
    """

    def __init__(self, graph: Graph, values: Mapping[str, int]):
        """Finds a plan; `values` gives how many values a layer's tables have together."""
        self.graph, self._values = graph, values
        self.stages = stages(graph)
        self.buffers = [graph.nodes[0].name]
        self.buffers += dict.fromkeys(s.target for s in self.stages if s.kind < LAST_CONV)
        self._readers = {
            name: [i for i, s in enumerate(self.stages) if name in s.sources]
            for name in self.buffers
        }
        self._writers = {
            name: [i for i, s in enumerate(self.stages) if s.target == name and s.kind < LAST_CONV]
            for name in self.buffers
        }
        self.ends = self._best_ends()
        self.items, self.rows = self._items(self.ends, range(len(self.stages)))
        self.arena = _allocate(self.items.values())
        self.places = {key: item.place for key, item in self.items.items()}

    def _best_ends(self) -> tuple[int, ...]:
        """Returns the grouping with the least peak memory; of equal ones, that with most groups."""
        best: list[tuple[int, int, tuple[int, ...]]] = [(0, 0, ())]  # of the first stages
        for end, stage in enumerate(self.stages):
            first = end if stage.kind >= LAST_CONV else max(0, end - _MOST_STAGES + 1)
            tried = []
            for start in range(first, end + 1):
                peak, groups, ends = best[start]
                tried.append((max(peak, self._peak(start, end)), groups - 1, (*ends, end)))
            best.append(min(tried))
        return best[-1][-1]

    def _peak(self, start: int, end: int) -> int:
        """Returns the peak memory of a group of stages, in bytes; no other group changes it."""
        ends = tuple(i for i in range(len(self.stages)) if not start <= i < end)
        items, _ = self._items(ends, range(start, end + 1))
        return _most(items.values(), start)

    def in_use(self) -> list[int]:
        """Returns for each stage the bytes that are in use at most while its group runs."""
        groups = np.searchsorted(self.ends, range(len(self.stages)))
        return [_most(self.items.values(), int(group)) for group in groups]

    def _items(self, ends: tuple[int, ...], span: range) -> tuple[dict, dict[str, int]]:
        """Returns what needs memory when, and the rows of each buffer, while stages `span` run.

        Group g decodes at time 2g and computes at 2g + 1; a stage alone does both at both.
        """
        group = {}
        for number, (before, end) in enumerate(itertools.pairwise((-1, *ends))):
            group |= dict.fromkeys(range(before + 1, end + 1), number)
        sizes = np.bincount(list(group.values()))
        items: dict = {}
        rows = {}
        for name in self.buffers:
            if max(self._readers[name]) < span[0] or min(self._writers[name], default=0) > span[-1]:
                continue
            height, width, channels = self.graph[name].shape
            rows[name] = self._rows(name, group, height)
            writers = [group[i] for i in self._writers[name]]
            first = min((2 * g + (sizes[g] > 1) for g in writers), default=0)
            last = max(2 * group[i] + 1 for i in self._readers[name])
            items[name] = Item(rows[name] * width * channels, int(first), last)
        shared: dict = {}  # stages of a group decode, and compute a row, one after the other
        for i in span:
            stage, alone, time = self.stages[i], sizes[group[i]] == 1, 2 * group[i]
            if stage.length:
                filters = stage.block if alone else stage.node.shape[-1]
                items[i, "weights"] = Item(filters * stage.length, time, time + 1)
                scratch = shared.setdefault((time, "scratch"), Item(0, time, time + bool(alone)))
                scratch.size = max(scratch.size, _END_BYTES * self._values[stage.node.name])
                patch = shared.setdefault((time, "patch"), Item(0, time + (not alone), time + 1))
                patch.size = max(patch.size, stage.length * (4 if stage.kind == LAST_DENSE else 1))
                items[i, "scratch"], items[i, "patch"] = scratch, patch
        self._alias(items, rows, group)
        return items, rows

    def _rows(self, name: str, group: Mapping[int, int], height: int) -> int:
        """Returns how many rows of a buffer are kept: all, or what the readers' windows span."""
        readers = [self.stages[i] for i in self._readers[name]]
        users = {group[i] for i in (*self._readers[name], *self._writers[name])}
        strip = len(users) == 1 and len({s.target for s in readers}) == 1 and self._writers[name]
        if not strip or any(s.kind >= LAST_CONV for s in readers):
            return height
        return min(height, max(s.node.kernel[0] for s in readers))

    def _alias(self, items: dict, rows: Mapping[str, int], group: Mapping[int, int]) -> None:
        """Lets a sum take the place of its shortcut, which nothing reads later.

        Another reader in the sum's group could come too late: its stages take turns.
        """
        for i, stage in enumerate(self.stages):
            names = (*stage.sources, stage.target)
            if stage.kind != ADD or any(rows.get(n) != self.graph[n].shape[0] for n in names):
                continue
            for name in stage.sources:
                before, after = items[name], items[stage.target]
                late = any(j != i and group[j] >= group[i] for j in self._readers[name])
                if before.size == after.size and before is not after and not late:
                    before.last, items[stage.target] = max(before.last, after.last), before
                    break


def _most(items: Iterable[Item], group: int) -> int:
    """Returns the bytes that are needed at most while a group decodes and computes."""
    unique = {id(item): item for item in items}.values()
    times = 2 * group, 2 * group + 1
    return max(sum(x.size for x in unique if x.first <= time <= x.last) for time in times)


def _allocate(items: Iterable[Item]) -> int:
    """Gives each item the lowest place that is free while it is needed; returns the bytes of all.

    The largest come first, as in TensorFlow Lite Micro's greedy memory planner.
    """
    placed: list[Item] = []
    unique = list({id(item): item for item in items}.values())
    for item in sorted(unique, key=lambda item: -item.size):
        item.place = 0
        for other in sorted(placed, key=lambda other: other.place):
            if other.first <= item.last and item.first <= other.last:
                if item.place + item.size <= other.place:
                    break
                item.place = max(item.place, -(-(other.place + other.size) // 8) * 8)
        placed.append(item)
    return -(-max(item.place + item.size for item in placed) // 8) * 8


def pack(
    plan: MemoryPlan, network: IntegerNetwork, forms: Mapping[str, tuple[int, int, int]]
) -> bytes:
    """Returns the buffers and stages as the file holds them.

    Args:
      plan: the plan.
      network: its network.
      forms: `rans.Form.size` of each layer.
    """
    parts = []
    for name in plan.buffers:
        scale = network.scales[name]
        shape, rows = plan.graph[name].shape, plan.rows[name]
        parts.append(_BUFFER.pack(plan.places[name], *shape, rows, scale.scale, scale.zero))
    for i, stage in enumerate(plan.stages):
        places = [plan.places.get((i, part), 0) for part in ("weights", "scratch", "patch")]
        layer = network.layers.get(stage.node.name)
        rule = network.sums.get(stage.node.name)
        form = forms.get(stage.node.name, (0, 0, 0))
        parts.append(_packed(stage, plan, i in plan.ends, layer, rule, form, places))
    return b"".join(parts)


def _packed(
    stage: Operation,
    plan: MemoryPlan,
    end: bool,
    layer: IntegerLayer | None,
    rule: IntegerSum | None,
    form,
    places,
) -> bytes:
    node = stage.node
    flags = RELU * (node.activation == "relu") + END * end
    numbers = layer or rule
    multiplier = layer.multiplier if layer else 0
    if rule:
        multiplier, places[0] = rule.multipliers
    sources = [plan.buffers.index(name) for name in (*stage.sources, *stage.sources)[:2]]
    (top, _), (left, _) = node.padding
    return _STAGE.pack(
        *(stage.kind, *node.kernel, node.strides, top, left),
        *(flags, numbers.shift if numbers else 1),
        *(*sources, plan.buffers.index(stage.target), stage.channel),
        *(node.shape[-1], node.groups, stage.block),
        *(layer.bias_shift if layer else 0, *form),
        *(multiplier, *places),
    )


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What a stage of a file says beside its shape.

    Attributes:
      mask: whether a mask is coded, in version 2.
      form: `rans.Form.size`; in version 2 the numbers of negative and positive values, and 0.
      bias_shift, shift, multipliers: as in `integer.IntegerLayer` and `integer.IntegerSum`.
    """

    mask: bool
    form: tuple[int, int, int]
    bias_shift: int
    shift: int
    multipliers: tuple[int, int]


def unpack(
    data: bytes, graph: Graph, arena: int, source: str
) -> tuple[list[Operation], dict[str, tuple[float, int]], list[Numbers]]:
    """Reads what `pack` wrote for a graph, whose places must lie in `arena` bytes.

    Returns:
      The stages, (scale, zero) of each buffer, and the numbers of each stage.

    Raises:
      InputError: it is of another network.
    """
    expected = stages(graph)
    buffers = [graph.nodes[0].name]
    buffers += dict.fromkeys(s.target for s in expected if s.kind < LAST_CONV)
    start = len(buffers) * _BUFFER.size
    if len(data) != start + len(expected) * _STAGE.size:
        raise InputError(f"{source} is damaged: its plan is of another network.")
    scales, numbers = {}, []
    for name, row in zip(buffers, _BUFFER.iter_unpack(data[:start]), strict=True):
        inside = 1 <= row[4] <= row[1] and row[0] + row[4] * row[2] * row[3] <= arena
        if row[1:4] != graph[name].shape or not inside:
            raise InputError(f"{source} is damaged: its plan is of another network.")
        scales[name] = row[5:]
    for stage, row in zip(expected, _STAGE.iter_unpack(data[start:]), strict=True):
        node, ((top, _), (left, _)) = stage.node, stage.node.padding
        indices = [buffers.index(name) for name in (*stage.sources, *stage.sources)[:2]]
        shape = [stage.kind, *node.kernel, node.strides, top, left, *indices]
        shape += [buffers.index(stage.target), stage.channel, node.shape[-1], node.groups]
        relu = RELU * (node.activation == "relu")
        inside = not stage.length or (
            row[20] + stage.block * stage.length <= arena and max(row[21:]) < arena
        )
        same = [*row[:6], *row[8:14]] == shape and row[6] & RELU == relu and row[14] == stage.block
        if not (same and inside and row[6] < 8):
            raise InputError(f"{source} is damaged: its plan is of another network.")
        numbers.append(Numbers(bool(row[6] & MASK), row[16:19], row[15], row[7], row[19:21]))
    return expected, scales, numbers
