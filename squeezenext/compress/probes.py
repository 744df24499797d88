"""Measures each layer on a few images: the second moments of its inputs and its sensitivity.

The images are photographs or, without any, synthetic images: half are clouds whose spectrum falls
like that of natural images, half "dead leaves" (occluding shapes whose sizes follow a power law,
with edges like those of natural images). Networks can even be pretrained on such images (Baradad
and others, arXiv:2106.05963).
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from squeezenext import progress
from squeezenext.cli import cores
from squeezenext.config.images import Images
from squeezenext.images import geometry
from squeezenext.litert import writer
from squeezenext.litert.runner import Runner
from squeezenext.network.graph import Graph, Node

Weights = Mapping[str, np.ndarray]
POSITIONS = 60  # random positions of each map whose windows enter the moments
PROBE = 0.03  # noise whose effect on the answers is measured, as a share of each weight
# Share of the moments that is spread evenly over all inputs. Measured on the published network with
# synthetic images, against the logits of real ones: docs/compression.md.
SHRINKAGE = 0.1
CERTAIN = 0.7  # greatest mean probability of the first class; above it answers are softened
# Synthetic images understate the sensitivity of the outermost layers: in the published network by
# these factors against the layers between them. That both ends need more bits is well known.
FIRST, LAST = 6.0, 2.0


def synthetic(images: Images, count: int) -> list[np.ndarray]:
    """Returns `count` normalized synthetic images, [size, size, 3] float32."""
    rng = np.random.default_rng(0)
    kinds = (_clouds, _dead_leaves)
    pixels = (kinds[number % 2](rng, images.size) for number in range(count))
    return [geometry.normalize(np.float32(p.clip(0, 255)), images) for p in pixels]


def _cloud(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns a field of deviation 1 whose amplitude falls as 1 / frequency."""
    rows, columns = np.fft.fftfreq(size)[:, np.newaxis], np.fft.rfftfreq(size)
    frequency = np.maximum(np.hypot(rows, columns), 1 / size)
    spectrum = np.fft.rfft2(rng.normal(size=(size, size))) / frequency
    field = np.fft.irfft2(spectrum, s=(size, size))
    return field / field.std()


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    light = _cloud(rng, size)
    colours = np.stack([light + 0.35 * _cloud(rng, size) for _ in range(3)], -1)
    return colours * rng.uniform(30, 70) + rng.normal(118, 35) + rng.normal(0, 12, 3)


def _dead_leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    texture = _cloud(rng, size)
    picture = rng.uniform(40, 210, 3) + texture[..., np.newaxis] * rng.uniform(5, 40)
    palette = rng.uniform(0, 255, (rng.integers(2, 7), 3))
    # The density is ~ radius^-3, like that of object sizes in photographs; large ones lie below.
    radii = 0.01 * size / np.sqrt(rng.uniform(4e-4, 1, rng.integers(20, 250)))
    for radius in np.sort(radii)[::-1]:
        middle, angle, flat = rng.uniform(0, size, 2), rng.uniform(0, np.pi), rng.uniform(0.4, 1)
        x, y = columns - middle[0], rows - middle[1]
        along = (x * np.cos(angle) + y * np.sin(angle)) / radius
        across = (y * np.cos(angle) - x * np.sin(angle)) / (radius * flat)
        inside = _SHAPES[rng.integers(len(_SHAPES))](along, across) < 1
        shade = texture * rng.choice([2, 8, 25]) + along * rng.uniform(-25, 25)
        colour = palette[rng.integers(len(palette))] + rng.normal(0, 15, 3)
        picture[inside] = (colour + shade[..., np.newaxis])[inside]
    return picture + rng.normal(0, rng.uniform(0, 6), picture.shape)


_SHAPES = (
    lambda x, y: x * x + y * y,
    lambda x, y: np.maximum(abs(x), abs(y)),
    lambda x, y: abs(x) + abs(y),
)


class Probe:
    """A network, and the images on which its compressed forms are compared with it.

    Args:
      graph: the network's graph.
      weights: its folded weights.
      inputs: normalized images, [size, size, 3] float32 each.
      is_synthetic: True if they are synthetic images rather than photographs.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Weights,
        inputs: Sequence[np.ndarray],
        is_synthetic: bool = False,
    ):
        self.graph, self.weights, self.inputs = graph, weights, inputs
        self.is_synthetic = is_synthetic
        dense = self._logits(weights)
        # No network is trained on synthetic images, so none is overconfident on them.
        self.temperature = 1.0 if is_synthetic else _softening(dense)
        self._expected = _log_softmax(dense / self.temperature)

    def _logits(self, weights: Weights) -> np.ndarray:
        runner = Runner(writer.write(self.graph, weights), cores(), "the network")
        return np.stack([runner.run(image)[0] for image in self.inputs])

    def divergence(self, weights: Weights) -> float:
        """Returns the Kullback-Leibler divergence of other weights' answers, in nats an image."""
        return self.compare(weights)[0]

    def compare(self, weights: Weights) -> tuple[float, float]:
        """Compares other weights' answers, softmax(logits / temperature), with the network's.

        Returns:
          Their divergence from the network's, and the information about the image that they hold,
          as a share of the network's.
        """
        return self.compare_logits(self._logits(weights))

    def compare_logits(self, logits: np.ndarray) -> tuple[float, float]:
        """Compares logits of the images, [images, classes], as `compare` does."""
        found = _log_softmax(logits / self.temperature)
        gap = np.exp(self._expected) * (self._expected - found)
        whole = _information(self._expected)
        share = _information(found) / whole if whole > 1e-9 else 1.0
        return float(max(gap.sum(1).mean(), 0.0)), share

    @functools.cached_property
    def moments(self) -> dict[str, np.ndarray]:
        """The second moments of the inputs of each layer's filters, by layer.

        Each is [groups, n, n] float64, n being the weights of a filter in its kernel's order.
        """
        sources = sorted({n.inputs[0] for n in self.graph.weighted} - {"images"})
        content = writer.write(self.graph, self.weights, outputs=sources)
        runner, rng = Runner(content, cores(), "the network"), np.random.default_rng(0)
        totals: dict[str, np.ndarray] = {}
        for image in self.inputs:
            maps = dict(zip(sources, runner.run(image)[1:], strict=True)) | {"images": image}
            for node in self.graph.weighted:
                seen = _windows(maps[node.inputs[0]], node, rng)
                totals[node.name] = totals.get(node.name, 0) + seen.transpose(0, 2, 1) @ seen
        count = len(self.inputs) * POSITIONS
        return {name: _shrunk(total / count) for name, total in totals.items()}

    @functools.cached_property
    def sensitivities(self) -> dict[str, float]:
        """The nats that a unit of squared error of a layer's outputs costs, by layer.

        Each is measured with noise on the layer's weights, of which `moments` give the error.
        """
        rng, found = np.random.default_rng(0), {}
        layers = self.graph.weighted
        with progress.Bar("Measuring layers", len(layers), timed_from_first=True) as bar:
            for number, node in enumerate(layers, 1):
                name = f"{node.name}/kernel"
                kernel = self.weights[name]
                noise = (PROBE * rng.normal(size=kernel.shape) * kernel).astype(np.float32)
                nats = self.divergence({**self.weights, name: kernel + noise})
                error = max(squared(noise, self.moments[node.name]), 1e-30)
                found[node.name] = max(nats, 1e-9) / error
                # The first layer also waits for `moments`, so it gives no estimate of the others.
                bar.update(number, f"Compressing: {number} of {len(layers)} layers measured")
        if self.is_synthetic:
            first, *_, last = found
            found[first] *= FIRST
            found[last] *= LAST
        return found


def _information(answers: np.ndarray) -> float:
    """Returns the mutual information of image and class, in nats; answers: logarithms."""
    mean = np.log(np.exp(answers).mean(0) + 1e-300)
    return float((np.exp(answers) * (answers - mean)).sum(1).mean())


def _softening(logits: np.ndarray) -> float:
    """Returns the least power of 2 by which to divide logits so that answers react to errors.

    A network is overconfident on its training images, so their answers hardly react to an error
    that already changes the answers to other images.
    """
    temperature = 1.0
    while np.exp(_log_softmax(logits / temperature).max(1)).mean() > CERTAIN and temperature < 1024:
        temperature *= 2
    return temperature


def squared(error: np.ndarray, moments: np.ndarray) -> float:
    """Returns the squared error, summed over a layer's outputs, that a weight error makes."""
    matrix = error.reshape(-1, error.shape[-1]).astype(np.float64)
    parts = zip(np.split(matrix, len(moments), axis=1), moments, strict=True)
    return float(sum((part * (moment @ part)).sum() for part, moment in parts))


def _shrunk(moments: np.ndarray) -> np.ndarray:
    size = moments.shape[-1]
    level = np.trace(moments, axis1=1, axis2=2)[:, np.newaxis, np.newaxis] / size
    return (1 - SHRINKAGE) * moments + SHRINKAGE * level * np.eye(size)


def _windows(layer_input: np.ndarray, node: Node, rng: np.random.Generator) -> np.ndarray:
    """Returns a layer's windows at random positions: [groups, positions, n] float64."""
    if node.op == "dense":
        return np.repeat(layer_input[np.newaxis, np.newaxis].astype(np.float64), POSITIONS, 1)
    padded = np.pad(layer_input, (*node.padding, (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(padded, node.kernel, (0, 1))
    view = view[:: node.strides, :: node.strides]
    rows = rng.integers(0, view.shape[0], POSITIONS)
    columns = rng.integers(0, view.shape[1], POSITIONS)
    seen = view[rows, columns].astype(np.float64)  # [positions, channels, height, width]
    parts = np.split(seen, node.groups, axis=1)
    return np.stack([part.transpose(0, 2, 3, 1).reshape(POSITIONS, -1) for part in parts])


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
