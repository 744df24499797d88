"""Tests for `squeezenext/network/keras_model.py`: the details that predecessors got wrong."""

import math

import keras
import numpy as np
import pytest

from squeezenext.config import io as config_io
from squeezenext.network import keras_model
from squeezenext.network.convolutions import GroupedConv2D
from squeezenext.network.layers import BatchNorm
from tests.networks import built


def source(model, layer):
    """The layer whose output a layer reads, batch norm, ReLU and striding passed over."""
    tensor = model.get_layer(layer).input
    while True:
        producer = tensor._keras_history.operation
        if isinstance(producer, BatchNorm | keras.layers.ReLU | keras.layers.MaxPooling2D):
            tensor = producer.input
            if isinstance(producer, keras.layers.ReLU) and producer.name.endswith("unit1_relu"):
                return producer.name
        else:
            return producer.name


def test_v5_reads_the_shortcut_s_output_and_v1_the_unit_s_input():
    five, one = built("v_1_0_SqNxt_23_v5"), built("v_1_0_SqNxt_23")
    for stage in (1, 2, 3, 4):
        place = f"stage{stage}_unit1"
        assert source(five, f"{place}_reduce1") == f"{place}_shortcut"
        assert source(one, f"{place}_reduce1") == source(one, f"{place}_shortcut")
        strides = 1 if stage == 1 else 2
        assert five.get_layer(f"{place}_reduce1").strides == (1, 1)
        assert five.get_layer(f"{place}_shortcut").strides == (strides, strides)
        assert one.get_layer(f"{place}_reduce1").strides == (strides, strides)


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("v_1_0_SqNxt_23", (111, 55, 55, 28, 14, 7)),
        ("v_1_0_SqNxt_23_v5", (112, 56, 56, 28, 14, 7)),  # ceil: floor would give 55
    ],
)
def test_resolutions(name, sides):
    model = built(name)
    layers = ["stem", "stem_pool", *(f"stage{i}_unit1_relu" for i in (1, 2, 3, 4))]
    assert tuple(model.get_layer(layer).output.shape[1] for layer in layers) == sides


def test_squeezenet_resolutions_and_padding_of_the_classifier():
    model = built("squeezenet_v1_0")
    layers = ("conv1", "pool1", "pool4", "pool8", "fire9_concat", "conv10")
    sides = [model.get_layer(layer).output.shape[1] for layer in layers]
    assert sides == [111, 55, 27, 13, 13, 15]
    model = built("squeezenet_v1_1")
    layers = ("conv1", "pool1", "pool3", "pool5", "conv10")
    assert [model.get_layer(layer).output.shape[1] for layer in layers] == [113, 56, 28, 14, 14]


@pytest.mark.parametrize("name", ["v_1_0_SqNxt_23", "v_1_0_SqNxt_34", "v_2_0_SqNxt_23_v5"])
def test_the_separated_pair_alternates_through_the_whole_net(name):
    order = [layer.kernel.shape[:2] for layer in built(name).layers if "conv" in layer.name
             and isinstance(layer, keras.layers.Conv2D)]  # fmt: skip
    pairs = list(zip(order[::2], order[1::2], strict=True))
    tall_first, wide_first = ((3, 1), (1, 3)), ((1, 3), (3, 1))
    assert pairs == [wide_first if i % 2 else tall_first for i in range(len(pairs))]


def test_which_convolutions_are_grouped():
    model = built("v_1_0_G_SqNxt_23")
    grouped = {layer.name for layer in model.layers if isinstance(layer, GroupedConv2D)}
    all_of = {layer.name for layer in model.layers if hasattr(layer, "kernel")}
    assert grouped == {
        name for name in all_of if "reduce1" in name or "conv3x1" in name or "conv1x3" in name
    }
    assert len(grouped) == 63 and len(all_of - {"classifier"}) == 111
    assert all(model.get_layer(name).groups == 2 for name in grouped)


def test_relu_before_and_after_the_addition():
    model, without = built("v_1_0_SqNxt_23"), built("v_1_0_SqNxt_23_mod")
    for branch in model.get_layer("stage2_unit1_add").input:
        assert isinstance(branch._keras_history.operation, keras.layers.ReLU)
    for branch in without.get_layer("stage2_unit1_add").input:
        assert isinstance(branch._keras_history.operation, BatchNorm)
    for each in (model, without):
        add = each.get_layer("stage2_unit1_add")
        assert each.get_layer("stage2_unit1_relu").input is add.output


@pytest.mark.parametrize("name", ["v_1_0_SqNxt_23", "v_1_0_G_SqNxt_23", "v_2_0_SqNxt_23_v5"])
def test_head_bias_and_batch_norm(name):
    model = built(name)
    assert model.get_layer("head").filters == 128 and model.get_layer("stem").filters == 64
    assert not any("bias" in variable.path for variable in model.variables)
    norms = [layer for layer in model.layers if isinstance(layer, BatchNorm)]
    convolutions = [layer for layer in model.layers if hasattr(layer, "kernel")]
    assert len(norms) == len(convolutions) - 1  # all but the classifier
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(0.999, 1e-5)}


def test_caffe_s_initial_weights_scale_with_the_fan_in_of_their_group():
    model = built("v_1_0_G_SqNxt_23")
    for name in ("stem", "stage1_unit1_reduce2", "stage1_unit1_reduce1", "stage3_unit2_conv3x1"):
        kernel = model.get_layer(name).kernel.numpy()
        limit = math.sqrt(3 / math.prod(kernel.shape[:3]))
        assert 0.8 * limit < np.abs(kernel).max() <= limit
    classifier = model.get_layer("classifier").kernel.numpy()
    assert np.abs(classifier).max() == pytest.approx(math.sqrt(3 / 128), rel=1e-3)
    assert built("squeezenet_v1_0").get_layer("conv10").kernel.numpy().std() == pytest.approx(
        0.01, rel=0.02
    )


def test_bypass():
    def additions(name):
        return [layer.name for layer in built(name).layers if isinstance(layer, keras.layers.Add)]

    assert additions("squeezenet_v1_0_simple_bypass") == [f"fire{i}_add" for i in (3, 5, 7, 9)]
    assert additions("squeezenet_v1_0_complex_bypass") == [f"fire{i}_add" for i in range(2, 10)]
    complex_bypass = built("squeezenet_v1_0_complex_bypass")
    names = [layer.name for layer in complex_bypass.layers if layer.name.endswith("_bypass")]
    assert names == [f"fire{i}_bypass" for i in (2, 4, 6, 8)]


@pytest.mark.parametrize("precision", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_logits_are_float32_and_weights_too(precision, request):
    if precision == "mixed_bfloat16":
        request.getfixturevalue("bfloat16")
    before = keras.config.dtype_policy().name
    model = keras_model.build_model(config_io.load("quickstart"), precision=precision)
    logits = model(np.zeros((2, 64, 64, 3), np.float32))
    assert logits.dtype == "float32" and logits.shape == (2, 10)
    assert model.get_layer("classifier").compute_dtype == "float32"
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert model.get_layer("stem").compute_dtype == precision.removeprefix("mixed_")
    assert keras.config.dtype_policy().name == before
