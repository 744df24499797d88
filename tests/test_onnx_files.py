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
                            (SQUEEZENEXT, r"it has \d+ layers, the network \d+")):  # fmt: skip
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
    with pytest.raises(InputError, match=r"has shape \(.*\), not \("):
        read(model.SerializeToString(), SQUEEZENET)
    model = onnx.load_model_from_string(data)
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    next(x for x in node.attribute if x.name == "strides").ints[:] = [3, 3]
    with pytest.raises(InputError, match="strides, groups and dilates by"):
        read(model.SerializeToString(), SQUEEZENET)


def test_without_onnx_the_requirements_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(InputError, match=r"setup\.sh requirements-onnx\.txt"):
        read(b"\x08\x08\x12\x01a", SQUEEZENET)


def changed(style, change, config=SQUEEZENEXT):
    """A file whose nodes `change` has altered, given its graph."""
    model = onnx.load_model_from_string(onnx_of(config, trained(config), style))
    change(model.graph)
    return model.SerializeToString()


@pytest.mark.parametrize("op", ["Add", "Mul", "Sub", "Div"])
def test_a_bias_or_scale_outside_of_its_layer_is_refused(op):
    def split(content):
        node = next(node for node in content.node if node.op_type == "Conv")
        name = node.output[0]
        bias = next(x.name for x in content.initializer if x.name == node.input[2])
        del node.input[2]
        node.output[0] = "bare"
        content.node.append(onnx.helper.make_node(op, ["bare", bias], [name], f"the {op}"))

    message = "the Add adds a constant outside" if op == "Add" else f"it computes {op}, which no"
    with pytest.raises(InputError, match=message):
        read(changed("folded", split), SQUEEZENEXT)


@pytest.mark.parametrize("op", ["Identity", "QuantizeLinear"])
def test_a_batch_norm_that_follows_no_layer_directly_is_refused(op):
    def part(content):
        norm = next(node for node in content.node if node.op_type == "BatchNormalization")
        content.node.append(onnx.helper.make_node(op, [norm.input[0]], ["between"]))
        norm.input[0] = "between"

    with pytest.raises(InputError, match=r"\d+ of its \d+ batch norms follow a layer directly"):
        read(changed("norm", part), SQUEEZENEXT)


def test_numbers_of_float16_in_typed_fields_are_bits():
    def rounded(content, typed):
        for tensor in content.initializer:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            made = onnx.numpy_helper.from_array(array, tensor.name)
            if typed:
                kind = onnx.TensorProto.FLOAT16
                made = onnx.helper.make_tensor(tensor.name, kind, array.shape, array.ravel())
            tensor.CopyFrom(made)

    raw = read(changed("norm", lambda x: rounded(x, typed=False)), SQUEEZENEXT)
    typed = read(changed("norm", lambda x: rounded(x, typed=True)), SQUEEZENEXT)
    for name, array in raw.items():
        np.testing.assert_array_equal(typed[name], array)


def test_bombs_are_refused_before_an_array_is_made():
    def wide(content):
        norm = next(node for node in content.node if node.op_type == "BatchNormalization")
        tensor = next(x for x in content.initializer if x.name == norm.input[1])
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones((64, 1), np.float32), tensor.name))

    with pytest.raises(InputError, match=r"has shape \(64, 1\), not \("):
        read(changed("norm", wide), SQUEEZENEXT)

    def many(content):
        node = next(x for x in content.node if x.op_type == "DequantizeLinear")
        for place in range(10_000):
            content.node.append(node)
            content.node[-1].output[0] = f"copy {place}"

    read(changed("int8", many), SQUEEZENEXT)  # what no layer reads is never unpacked

    def crowded(content):
        content.node[0].input.extend(["a"] * 100)

    with pytest.raises(InputError, match="a node has too many inputs, outputs or attributes"):
        read(changed("folded", crowded), SQUEEZENEXT)

    def scaled(content):
        next(node for node in content.node if node.op_type == "Gemm").attribute.append(
            onnx.helper.make_attribute("alpha", 0.5)
        )

    with pytest.raises(InputError, match="multiplies its weights"):
        read(changed("folded", scaled), SQUEEZENEXT)


def test_too_little_memory_is_one_sentence(monkeypatch):
    def none(*_):
        raise MemoryError

    monkeypatch.setattr("squeezenext.formats.onnx_files._weights", none)
    with pytest.raises(InputError, match=r"of another network: MemoryError\.$"):
        read(onnx_of(SQUEEZENET, trained(SQUEEZENET), "folded"), SQUEEZENET)
