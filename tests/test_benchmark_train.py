"""Tests for `../scripts/benchmark_train.py`: the same network as a peer, and honest ratios."""

import keras
import pytest

from scripts import benchmark_train
from scripts.peers import stock_keras
from squeezenext import config_io, models, networks


@pytest.mark.parametrize("name", ["v_1_0_G_SqNxt_23", "squeezenet_v1_1"])
def test_the_stock_network_is_the_same_network(name):
    config = config_io.load(name)
    stock = keras.Model(*networks.build(stock_keras.StockOps(config.training), config))
    own = models.build(config)
    shapes = {layer.name: layer.kernel.shape for layer in own.layers if hasattr(layer, "kernel")}
    for layer in stock.layers:
        if hasattr(layer, "kernel"):
            assert tuple(layer.kernel.shape) == tuple(shapes.pop(layer.name))
        assert not type(layer).__module__.startswith("squeezenext"), layer.name
    assert not shapes


def test_ratios_are_of_the_same_round():
    rows = {
        "ours float32": [60.0, 30.0, 60.0],
        "Keras float32": [30.0, 10.0, 30.0],
        "matmul float32": [100.0, 100.0, 100.0],
    }
    table = benchmark_train.told("squeezenet_v1_1", rows)
    assert "| Keras float32 | 30.0 | 2.00 | nan |" in table
    assert "| ours float32 | 60.0 | 1.00 |" in table
