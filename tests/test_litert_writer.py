"""Tests for `exporting/writer.py`, `int8.py` and `pixels.py`.

`test_graph.compute` is the network in numpy, which test_graph.py compares with Keras'.
"""

import dataclasses

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from squeezenext.config import io as config_io
from squeezenext.images import geometry
from squeezenext.litert import int8, writer
from squeezenext.network import graph, rgb
from squeezenext.network.graph import Graph, Node
from tests import tiny
from tests.test_graph import NAMES, compute

SIZE = 79


def random_weights(network: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """He's initialisation, so that the logits of a deep network stay near 1."""
    random, weights = np.random.default_rng(seed), {}
    for node in network.weighted:
        shape = network.kernel_shape(node.name)
        deviation = (2 / np.prod(shape[:-1])) ** 0.5
        weights[f"{node.name}/kernel"] = random.normal(0, deviation, shape).astype(np.float32)
        if node.op == "conv" or node.bias:
            weights[f"{node.name}/bias"] = random.normal(0, 0.1, shape[-1:]).astype(np.float32)
    return weights


def run(content: bytes, images: np.ndarray) -> list[np.ndarray]:
    """Every output of a LiteRT file for one image [size, size, 3]."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    interpreter.set_tensor(given["index"], images[np.newaxis].astype(given["dtype"]))
    interpreter.invoke()
    return [interpreter.get_tensor(o["index"])[0] for o in interpreter.get_output_details()]


def close(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", config_io.configuration_names())
def test_the_file_computes_what_the_network_does(name):
    config = config_io.load(name)
    size = min(SIZE, config.images.size)
    network = graph.of(config, size)
    weights = random_weights(network)
    images = np.random.default_rng(1).normal(0, 1, (size, size, 3)).astype(np.float32)
    (actual,) = run(writer.write(network, weights), images)
    close(actual, compute(network, weights, images[np.newaxis]), 1e-4)


def padded() -> Graph:
    """A network whose first convolution pads, unevenly, as those of other authors do."""
    pads = {"padding": ((1, 2), (0, 1)), "kernel": (3, 3), "strides": 2}
    return Graph(
        (
            Node(op="input", name="images", inputs=(), shape=(16, 16, 3)),
            Node(op="conv", name="stem", inputs=("images",), shape=(9, 8, 4), **pads),
            Node(op="global_pool", name="global_pool", inputs=("stem",), shape=(4,)),
            Node(op="dense", name="classifier", inputs=("global_pool",), shape=(5,)),
        )
    )


@pytest.mark.parametrize("channels", ["BGR", "RGB"])
@pytest.mark.parametrize("pads", [True, False])
def test_pixels_may_be_given_as_they_are(channels, pads):
    images = dataclasses.replace(tiny.IMAGES, channels=channels, mean=(90.0, 120.0, 150.0))
    network = padded() if pads else graph.of(tiny.SQUEEZENET)
    weights = random_weights(network)
    size = network.nodes[0].shape[0]
    shown = np.random.default_rng(1).integers(0, 256, (size, size, 3)).astype(np.float32)
    expected = compute(network, weights, geometry.normalize(shown, images)[np.newaxis])
    changed = rgb.take_rgb(network, weights, images, mean=127.5, std=127.5)
    (actual,) = run(writer.write(*changed), (shown - 127.5) / 127.5)
    close(actual, expected, 1e-4)


def test_float16_weights_halve_the_file_and_hardly_change_it():
    network = graph.of(config_io.load("squeezenet_v1_1"), SIZE)
    weights = random_weights(network)
    images = np.random.default_rng(1).normal(0, 1, (SIZE, SIZE, 3))
    whole = writer.write(network, weights)
    half = writer.write(network, weights, numbers=writer.Float16())
    assert len(half) < 0.51 * len(whole)
    close(run(half, images)[0], run(whole, images)[0], 1e-2)


def test_scores_and_features_are_outputs_with_names():
    network = graph.of(tiny.SQUEEZENEXT)
    weights = random_weights(network)
    images = np.random.default_rng(1).normal(0, 1, (32, 32, 3)).astype(np.float32)
    content = writer.write(network, weights, outputs=[network.features], softmax=1.0)
    runner = Interpreter(model_content=content).get_signature_runner("serving_default")
    found = runner(images=images[np.newaxis])
    assert set(found) == {"probabilities", network.features}
    assert found["probabilities"].sum() == pytest.approx(1, abs=1e-5)
    mean = found[network.features][0].mean((0, 1))
    logits = compute(network, weights, images[np.newaxis])
    close(mean @ weights["classifier/kernel"], logits, 1e-4)


@pytest.mark.parametrize("name", [*NAMES, "v_1_0_SqNxt_23"])
def test_integer_networks_come_near(name):
    network = graph.of(config_io.load(name), SIZE)
    weights = random_weights(network)
    random = np.random.default_rng(1)
    shown = [random.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8) for _ in range(4)]
    weights[f"{network.weighted[0].name}/kernel"] /= 128  # as if normalised
    expected = run(writer.write(network, weights), shown[0])[0]
    integers = int8.calibrated(network, weights, shown)
    content = writer.write(network, weights, numbers=integers)
    codes = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0)).operatorCodes
    assert schema.BuiltinOperator.CUSTOM not in {code.builtinCode for code in codes}
    (given,) = Interpreter(model_content=content).get_input_details()
    assert given["dtype"] == np.uint8
    spread = expected.std()
    assert np.abs(run(content, shown[0])[0] - expected).std() < 0.3 * spread
    dynamic = writer.write(network, weights, numbers=writer.DynamicRange())
    assert np.abs(run(dynamic, shown[0])[0] - expected).std() < 0.3 * spread


def test_buffers_lie_where_every_runtime_may_read_them():
    content = writer.write(graph.of(tiny.SQUEEZENET), random_weights(graph.of(tiny.SQUEEZENET)))
    model = schema.Model.GetRootAs(content, 0)
    sizes = []
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        if buffer.DataLength():
            table = buffer._tab
            assert table.Vector(table.Offset(4)) % 16 == 0
            sizes.append(buffer.DataLength())
    assert len(sizes) > 10
