"""Tests for `foreign/pytorch_weights.py`, against what PyTorch itself computed.

`pytorch_twins.json` was made with torch 2.14.1, torchvision and pytorchcv 0.0.74; what it holds is
checked without them. What needs torch is skipped where it is not installed.
"""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from squeezenext.config import io as config_io
from squeezenext.config.images import TORCHVISION
from squeezenext.errors import InputError
from squeezenext.formats import pytorch, variables
from squeezenext.model import importing
from squeezenext.network import graph
from tests import pytorch_twins
from tests.pytorch_twins import TWINS
from tests.test_graph import compute

RECORD = json.loads(Path(__file__).with_name("pytorch_twins.json").read_text())


def twin_state(name):
    """The state dictionary of a twin, as numpy arrays, made without PyTorch."""
    config, layout = config_io.load(name), TWINS[name][0]
    blank = {n: np.zeros(shape, np.float32) for n, shape in variables.shapes(config).items()}
    shapes = {k: a.shape for k, a in pytorch.to_state(blank, config, layout).items()}
    return {key: pytorch_twins.values(key, shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", TWINS)
def test_names_and_shapes_are_the_library_s_own(name):
    shapes = {key: array.shape for key, array in twin_state(name).items()}
    assert pytorch_twins.signature(shapes) == RECORD[name]["signature"]
    assert config_io.load(name).images == TORCHVISION


@pytest.mark.parametrize("name", TWINS)
def test_logits_are_pytorch_s(name):
    config = config_io.load(name)
    arrays = pytorch.from_state(twin_state(name), config, TWINS[name][0], "twin")
    weights = graph.fold(config, variables.complete(config, arrays, "twin"))
    logits = compute(graph.of(config), weights, pytorch_twins.images())
    expected = np.array(RECORD[name]["logits"])
    assert np.abs(expected).max() > 0.5  # else 1e-4 would say nothing
    np.testing.assert_allclose(logits[::50], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["sqnxt23v5_w1", "squeezenet_v1_0_torchvision"])
def test_there_and_back(name):
    config, layout = config_io.load(name), TWINS[name][0]
    state = twin_state(name)
    arrays = pytorch.from_state(state, config, layout, "twin")
    again = pytorch.to_state(arrays, config, layout)
    assert again.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(again[key], array)


def test_pytorchcv_s_squeezenet_is_torchvision_s_under_other_names():
    config = config_io.load("squeezenet_v1_1_torchvision")
    keys = pytorch.keys(config, "pytorchcv")
    assert keys["model/fire4_expand3x3/kernel"] == "features.stage2.unit1.expand3x3.conv.weight"
    assert keys["model/conv10/bias"] == "output.final_conv.bias"


def test_a_state_of_another_network_is_refused():
    state = twin_state("sqnxt23_w1")
    config = config_io.load("sqnxt23v5_w1")
    with pytest.raises(InputError, match=r"it has no features\.stage3\.unit10"):
        pytorch.from_state(state, config, "pytorchcv", "a.pth")
    state = twin_state("sqnxt23v5_w1") | {"extra.weight": np.zeros(1, np.float32)}
    with pytest.raises(InputError, match=r"it has extra\.weight, too"):
        pytorch.from_state(state, config, "pytorchcv", "a.pth")
    for name, layout in (("v_1_0_SqNxt_23", "pytorchcv"), ("sqnxt23_w1", "torchvision"),
                         ("squeezeresnet_v1_0", "torchvision")):  # fmt: skip
        with pytest.raises(InputError, match="has no network like this"):
            pytorch.keys(config_io.load(name), layout)
    shapes = twin_state("sqnxt23_w1")
    wrong = pytorch.from_state(shapes, config_io.load("sqnxt23_w1"), "pytorchcv", "a")
    with pytest.raises(InputError, match="stem/kernel has shape"):
        variables.complete(config_io.load("sqnxt23_w2"), wrong, "a.pth")


def test_a_configuration_that_shows_other_pixels_is_refused():
    config = config_io.load("squeezenet_v1_1")  # BGR
    with pytest.raises(InputError, match=r"other pixels.*RGB.*--set 'images\.channels=RGB'"):
        importing.read("torchvision", [b""], config, "a.pth")


def test_without_pytorch_the_sentence_names_the_requirements(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    config = config_io.load("squeezenet_v1_1_torchvision")
    with pytest.raises(InputError, match=r"requirements-torch\.txt"):
        pytorch.decode(b"", config, "torchvision", "a.pth")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: requirements-torch.txt.")


def test_a_file_of_pytorch_there_and_back(torch):
    config = config_io.load("squeezenet_v1_1_torchvision")
    state = twin_state("squeezenet_v1_1_torchvision")
    arrays = pytorch.from_state(state, config, "torchvision", "twin")
    data = pytorch.encode(arrays, config, "torchvision")
    again = pytorch.decode(data, config, "torchvision", "a.pth")
    assert all(np.array_equal(again[name], array) for name, array in arrays.items())


def test_files_that_are_no_state_dictionary(torch, tmp_path):
    config = config_io.load("squeezenet_v1_1_torchvision")

    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    for content in ([1, 2], {"a": 3}, Evil(), torch.zeros(3)):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(InputError, match="is no state dictionary"):
            pytorch.decode((tmp_path / "a.pth").read_bytes(), config, "torchvision", "a")
    for data in (b"", b"PK\x03\x04", b"\x80\x02", bytes(1000)):
        with pytest.raises(InputError):
            pytorch.decode(data, config, "torchvision", "a")


def test_a_tensor_is_measured_before_it_is_made(torch):
    """Of any shape it may stand on two bytes, and thousands may stand on the same ones."""
    config = config_io.load("squeezenet_v1_1_torchvision")
    state = {k: torch.from_numpy(a) for k, a in twin_state("squeezenet_v1_1_torchvision").items()}
    huge = torch.zeros(1, dtype=torch.float16).expand(65536, 65536)
    for changed, message in (
        ({"features.0.bias": huge}, "features.0.bias has shape"),
        ({"x.weight": huge}, "it has x.weight, too"),
        ({"a.num_batches_tracked": huge}, "has shape"),
    ):
        file = io.BytesIO()
        torch.save({**state, **changed}, file)
        with pytest.raises(InputError, match=message):
            pytorch.decode(file.getvalue(), config, "torchvision", "a.pth")


def test_a_squeezenet_that_pytorch_does_not_have():
    for name in ("squeezenet_v1_0", "squeezenet_v1_1_caltech256"):
        for layout in ("torchvision", "pytorchcv"):
            with pytest.raises(InputError, match="pads no classifier and has ReLU"):
                pytorch.keys(config_io.load(name), layout)
