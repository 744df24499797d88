"""Tests for `compress/probes.py`."""

import numpy as np
import pytest

from squeezenext import progress
from squeezenext.compress import probes
from squeezenext.compress.probes import Probe
from squeezenext.network import graph
from tests import tiny


@pytest.fixture(scope="module")
def probe():
    rng = np.random.default_rng(0)
    network = graph.of(tiny.SQUEEZENEXT)
    weights = {}
    for node in network.weighted:
        shape = network.kernel_shape(node.name)
        kernel = rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
        weights[f"{node.name}/kernel"] = kernel.astype(np.float32)
        if node.op == "conv" or node.bias:
            weights[f"{node.name}/bias"] = np.zeros(shape[-1], np.float32)
    return Probe(network, weights, probes.synthetic(tiny.IMAGES, 4))


def test_synthetic_images_are_pixels_and_differ():
    images = probes.synthetic(tiny.IMAGES, 4)
    for image in images:
        pixels = image * np.float32(tiny.IMAGES.std) + np.float32(tiny.IMAGES.mean)
        assert image.shape == (32, 32, 3) and image.dtype == np.float32
        assert -1e-3 < pixels.min() and pixels.max() < 255.001 and pixels.std() > 5
    assert not np.array_equal(images[0], images[2])
    again = probes.synthetic(tiny.IMAGES, 2)
    np.testing.assert_array_equal(again[1], images[1])


def test_moments_are_those_of_the_inputs(probe, monkeypatch):
    monkeypatch.setattr(probes, "SHRINKAGE", 0.0)
    moments = probe.moments
    for node in probe.graph.weighted:
        n = np.prod(probe.graph.kernel_shape(node.name)[:-1])
        assert moments[node.name].shape == (node.groups, n, n)
        np.testing.assert_allclose(moments[node.name], moments[node.name].transpose(0, 2, 1))
    assert any(node.groups > 1 for node in probe.graph.weighted)
    (head,) = [node for node in probe.graph.weighted if node.op == "dense"]
    seen = np.linalg.matrix_rank(moments[head.name][0])
    assert seen <= len(probe.inputs)


def test_the_error_of_outputs_is_predicted(probe, monkeypatch):
    """Of the stem: x W over all places, against the moments at some of them."""
    monkeypatch.setattr(probes, "SHRINKAGE", 0.0)
    monkeypatch.setattr(probes, "POSITIONS", 2000)
    node = probe.graph["stem"]
    kernel = probe.weights["stem/kernel"]
    windows = [probes._windows(image, node, np.random.default_rng(1))[0] for image in probe.inputs]
    outputs = np.concatenate(windows) @ kernel.reshape(-1, kernel.shape[-1])
    predicted = probes.squared(kernel, probe.moments["stem"])
    assert predicted == pytest.approx(np.square(outputs).sum(1).mean(), rel=0.1)


def test_the_first_layer_gives_no_estimate_of_the_remaining_time(probe, monkeypatch):
    """It takes longest: the moments of all layers are measured with it."""
    fresh = Probe(probe.graph, probe.weights, probe.inputs)
    bar, lines = progress.Bar, []
    monkeypatch.setattr(
        progress, "Bar", lambda *a, **more: bar(*a, seconds=0.0, log=lines.append, **more)
    )
    monkeypatch.setenv("CI", "1")
    assert fresh.sensitivities
    count = len(fresh.graph.weighted)
    assert lines[0] == f"Compressing: 1 of {count} layers measured"
    assert lines[1].endswith(" left") and lines[-1].endswith(", 0 s left")


def test_divergence_grows_with_noise(probe):
    rng = np.random.default_rng(0)
    assert probe.divergence(probe.weights) < 1e-6
    moved = []
    for share in (0.05, 0.5):
        noisy = {
            n: a + share * rng.normal(0, a.std() + 1e-9, a.shape) for n, a in probe.weights.items()
        }
        moved.append(probe.divergence({n: a.astype(np.float32) for n, a in noisy.items()}))
    assert 0 < moved[0] < moved[1]
    costs = probe.sensitivities
    assert set(costs) == {node.name for node in probe.graph.weighted}
    assert all(cost > 0 for cost in costs.values())


def test_the_information_of_answers_is_a_share_of_the_network_s(probe):
    assert probe.compare(probe.weights)[1] == pytest.approx(1.0)
    blind = {n: 0 * a if n == "classifier/kernel" else a for n, a in probe.weights.items()}
    nats, information = probe.compare(blind)
    assert nats > 0 and abs(information) < 1e-6


def test_certain_answers_are_softened(probe):
    """As a network's on what it was trained on: errors would else seem to cost nothing."""
    sure = {n: 40 * a if n.startswith("classifier") else a for n, a in probe.weights.items()}
    certain = Probe(probe.graph, sure, probe.inputs)
    assert certain.temperature >= 8 * probe.temperature
    rng = np.random.default_rng(0)
    noise = {n: a * (1 + 0.1 * rng.normal(size=a.shape)) for n, a in probe.weights.items()}
    noise = {n: a.astype(np.float32) for n, a in noise.items()}
    surely = {n: 40 * a if n.startswith("classifier") else a for n, a in noise.items()}
    assert certain.divergence(surely) > 0.02 * probe.divergence(noise)
