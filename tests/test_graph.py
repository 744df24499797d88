"""Tests for `squeezenext/network/graph.py`: the folded network computes what Keras' does."""

import numpy as np
import pytest

from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.formats import variables
from squeezenext.network import graph, keras_model
from squeezenext.network.keras_model import model_variables
from tests.networks import built

# Between them: bypasses, ELU, groups, both bottleneck inputs, biases, padding of stem and head, odd
# and even pooling.
NAMES = ("squeezenet_v1_0_complex_bypass", "squeezenet_v1_1_caltech256", "v_1_0_G_SqNxt_23",
         "v_1_0_SqNxt_23_v5", "sqnxt23_w1")  # fmt: skip
SIZE = 79


def compute(nodes: graph.Graph, weights, images):
    """The network in numpy, straight from the nodes' definition: [1, h, w, 3] -> logits."""
    values = {"images": images[0].astype(np.float64)}
    for node in nodes.nodes[1:]:
        x, *rest = (values[name] for name in node.inputs)
        values[node.name] = activated(node, OPS[node.op](node, weights, x, *rest))
        assert values[node.name].shape == node.shape
    return values[nodes.nodes[-1].name]


def activated(node, x):
    if node.activation == "elu":
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    return np.maximum(x, 0) if node.activation == "relu" else x


def conv(node, weights, x):
    kernel, out = weights[f"{node.name}/kernel"], []
    x = np.pad(x, (*node.padding, (0, 0)))
    parts = zip(np.split(x, node.groups, -1), np.split(kernel, node.groups, -1), strict=True)
    for part, filters in parts:
        windows = np.lib.stride_tricks.sliding_window_view(part, node.kernel, (0, 1))
        windows = windows[:: node.strides, :: node.strides]
        out.append(np.tensordot(windows, filters, ((3, 4, 2), (0, 1, 2))))
    return np.concatenate(out, -1) + weights[f"{node.name}/bias"]


def max_pool(node, _, x):
    x = np.pad(x, (*node.padding, (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, node.kernel, (0, 1))
    return windows[:: node.strides, :: node.strides].max((-2, -1))


OPS = {
    "conv": conv,
    "max_pool": max_pool,
    "pad": lambda node, _, x: np.pad(x, (*node.padding, (0, 0))),
    "concat": lambda node, _, *xs: np.concatenate(xs, -1),
    "add": lambda node, _, x, y: x + y,
    "global_pool": lambda node, _, x: x.mean((0, 1)),
    "dense": lambda node, weights, x: (
        x @ weights[f"{node.name}/kernel"] + weights.get(f"{node.name}/bias", 0)
    ),
}


def trained(model, seed=0):
    """Random values in every variable, so that folding has something to fold."""
    random = np.random.default_rng(seed)
    for name, variable in model_variables(model).items():
        if variable.dtype.startswith("float"):
            spread = random.normal(0, 0.1, tuple(variable.shape)).astype(np.float32)
            one = name.endswith(("gamma", "variance"))
            variable.assign(np.abs(1 + spread) if one else variable + spread)
    return {name: np.asarray(variable) for name, variable in model_variables(model).items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_folded_network_computes_what_the_trained_one_does(name):
    config = config_io.load(name)
    model = keras_model.build_model(config, SIZE)
    weights = graph.fold(config, trained(model))
    images = np.random.default_rng(1).normal(0, 50, (1, SIZE, SIZE, 3)).astype(np.float32)
    expected = np.asarray(model(images, training=False))[0]
    actual = compute(graph.of(config, SIZE), weights, images)
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", config_io.configuration_names())
def test_layers_and_shapes_are_those_of_the_trained_network(name):
    config = config_io.load(name)
    model, nodes = built(name), graph.of(config)
    kernels = {layer.name: layer.kernel.shape for layer in model.layers if hasattr(layer, "kernel")}
    assert {n.name: nodes.kernel_shape(n.name) for n in nodes.weighted} == kernels
    for node in nodes.nodes:
        if node.op != "conv":
            assert node.shape == tuple(model.get_layer(node.name).output.shape[1:]), node
    counters = ("scale_factor", "calls")
    assert variables.shapes(config) == {
        name: tuple(variable.shape)
        for name, variable in model_variables(model).items()
        if not name.endswith(counters)
    }
    head = getattr(config.model, "head_filters", config.model.classes)
    assert nodes[nodes.features].shape[-1] == head


def test_weights_of_another_network_are_refused():
    with pytest.raises(InputError, match="conv1/kernel is absent"):
        graph.fold(config_io.load("squeezenet_v1_1"), {})
