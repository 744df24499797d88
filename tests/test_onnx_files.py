"""Tests for `formats/onnx_files.py`, on files that onnx writes.

Files that PyTorch 2.13 exported of pytorchcv's sqnxt23_w1, with batch norm and with it folded, gave
PyTorch's logits within 1e-6 (2026-11-30).
"""

import numpy as np
import pytest

from squeezenext.errors import InputError
from squeezenext.formats import variables
from squeezenext.model import importing
from squeezenext.network import graph
from tests.foreign_files import BYPASS, SQUEEZENET, SQUEEZENEXT, onnx_of, trained
from tests.test_graph import compute

onnx = pytest.importorskip("onnx")


def read(data, config):
    arrays, _ = importing.read("onnx", [data], config, "a.onnx")
    return graph.fold(config, variables.complete(config, arrays, "a.onnx"))


@pytest.mark.parametrize("config", [SQUEEZENET, BYPASS, SQUEEZENEXT])
@pytest.mark.parametrize("style", ["norm", "folded", "int8"])
def test_the_network_computes_the_same(config, style):
    arrays = trained(config)
    expected = graph.fold(config, variables.complete(config, arrays, "twin"))
    found = read(onnx_of(config, arrays, style), config)
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    network = graph.of(config)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        close = np.abs(array).max() / 200 if style == "int8" and "kernel" in name else 1e-5
        np.testing.assert_allclose(found[name], array, atol=close, rtol=1e-5)
    if style != "int8":
        wanted = compute(network, expected, image)
        np.testing.assert_allclose(compute(network, found, image), wanted, rtol=1e-3, atol=1e-3)


def test_another_network_and_damage_are_refused():
    data = onnx_of(SQUEEZENET, trained(SQUEEZENET), "folded")
    for config, message in ((BYPASS, "adds 0 times, the network 2 times"),
                            (SQUEEZENEXT, r"it adds 0 times")):  # fmt: skip
        with pytest.raises(InputError, match=rf"a\.onnx is damaged or of another .*{message}"):
            read(data, config)
    for bad in (data[:-100], b"\x08\x08", b"\xff" * 20):
        with pytest.raises(InputError, match=r"a\.onnx is damaged or of another network: "):
            read(bad, SQUEEZENET)
    model = onnx.load_model_from_string(data)
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(InputError, match="lies in another file"):
        read(model.SerializeToString(), SQUEEZENET)
    model = onnx.load_model_from_string(data)
    model.graph.initializer[0].dims[0] = 1 << 40
    with pytest.raises(InputError, match="has .* numbers"):
        read(model.SerializeToString(), SQUEEZENET)
    model = onnx.load_model_from_string(data)
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    next(x for x in node.attribute if x.name == "strides").ints[:] = [3, 3]
    with pytest.raises(InputError, match="strides, groups and dilates by"):
        read(model.SerializeToString(), SQUEEZENET)


def test_without_onnx_the_requirements_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(InputError, match=r"requirements-onnx\.txt"):
        read(b"\x08\x08\x12\x01a", SQUEEZENET)
