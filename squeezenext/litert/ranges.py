"""The ranges of a network's activations on real images, as eight bits can hold them best."""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from squeezenext.litert import writer
from squeezenext.network.graph import Graph

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Ranges:
    """Of every activation by its node's name: the range to be held, and its channels' means."""

    held: dict[str, Range]
    means: dict[str, np.ndarray]


def of(graph: Graph, weights: Mapping[str, np.ndarray], images: Iterable[np.ndarray]) -> Ranges:
    """Measures a network that reads pixels, on images of [size, size, 3] uint8, RGB."""
    statistics: dict[str, _Statistics] = {}
    for activations in _activations(graph, weights, images):
        for name, values in activations.items():
            statistics.setdefault(name, _Statistics(values.shape[-1])).add(values)
    ranges = {name: known.range() for name, known in statistics.items()}
    ranges[graph.nodes[0].name] = (0.0, 255.0)
    _bound_sums(graph, ranges)
    _share(graph, ranges)
    return Ranges(ranges, {name: known.mean() for name, known in statistics.items()})


def _activations(graph: Graph, weights, images: Iterable[np.ndarray]):
    """Yields, for each image, the activations of all nodes by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it takes memory: some ten megabytes here
        interpreter = Interpreter(
            model_content=writer.write(graph, weights),
            experimental_preserve_all_tensors=True,
        )
    interpreter.allocate_tensors()
    first = interpreter.get_input_details()[0]["index"]
    constants = {f"{node.name}/{part}" for node in graph.weighted for part in ("kernel", "bias")}
    watched = {
        tensor["name"]: tensor["index"]
        for tensor in interpreter.get_tensor_details()
        if tensor["dtype"] == np.float32 and tensor["name"] not in constants
    }
    for image in images:
        interpreter.set_tensor(first, image[np.newaxis].astype(np.float32))
        interpreter.invoke()
        yield {name: interpreter.get_tensor(index) for name, index in watched.items()}


class _Statistics:
    """Of one activation over all images: its extremes, its channels' means and a sample."""

    def __init__(self, channels: int):
        self._low = self._high = 0.0
        self._sums, self._count = np.zeros(channels), 0
        self._sample: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        flat = values.reshape(-1)
        self._low = min(self._low, float(flat.min()))
        self._high = max(self._high, float(flat.max()))
        places = values.reshape(-1, values.shape[-1])
        self._sums += places.mean(0)
        self._count += 1
        self._sample.append(flat[:: max(1, len(flat) // 997)].copy())

    def mean(self) -> np.ndarray:
        return self._sums / self._count

    def range(self) -> Range:
        """Returns the part of the extremes with the least squared error of 256 steps over it."""
        if self._high - self._low < 1e-9:
            return 0.0, 1.0  # nothing ever passes; XNNPACK refuses scales that are next to 0
        sample = np.concatenate(self._sample)
        shares = np.linspace(0.4, 1.0, 25)
        errors = [self._error(sample, share) for share in shares]
        best = shares[int(np.argmin(errors))]
        return self._low * best, self._high * best

    def _error(self, sample: np.ndarray, share: float) -> float:
        scale = (self._high - self._low) * share / 255
        kept = sample.clip(self._low * share, self._high * share)
        return float(np.square(np.round(kept / scale) * scale - sample).mean())


def _bound_sums(graph: Graph, ranges: dict[str, Range]) -> None:
    """Keeps a sum's range and its terms' within XNNPACK's 2^-10 to 2^8 of each other."""
    for node in graph.nodes:
        if node.op == "add":
            widths = [high - low for low, high in (ranges[name] for name in node.inputs)]
            ranges[node.name] = _widened(ranges[node.name], max(widths) / 128)
            low, high = ranges[node.name]
            for name in node.inputs:
                ranges[name] = _widened(ranges[name], (high - low) / 512)


def _widened(pair: Range, width: float) -> Range:
    low, high = pair
    factor = max(1.0, width / (high - low))
    return low * factor, high * factor


def _share(graph: Graph, ranges: dict[str, Range]) -> None:
    """Gives what only moves numbers and what it reads one range, the widest of them."""
    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            if node.op in ("concat", "max_pool", "pad"):
                names = (node.name, *node.inputs)
                lows, highs = zip(*(ranges[name] for name in names), strict=True)
                widest = (min(lows), max(highs))
                for name in names:
                    changed |= ranges[name] != widest
                    ranges[name] = widest
