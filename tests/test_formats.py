"""Tests for `formats/ncnn.py`, `caffe.py` and `variables.py`.

The files are made by `foreign_files.py`; ncnn's published ones are read in test_weights.py.
"""

import dataclasses

import numpy as np
import pytest

from squeezenext.config import io as config_io
from squeezenext.config.network import Stage
from squeezenext.errors import InputError
from squeezenext.formats import caffe, ncnn, variables
from tests import foreign_files
from tests.foreign_files import BYPASS, SQUEEZENET, SQUEEZENEXT, VERSION_5, field, trained

WITHOUT_RELU = dataclasses.replace(
    SQUEEZENEXT, model=dataclasses.replace(SQUEEZENEXT.model, relu_before_add=False)
)
WITH_ELU = dataclasses.replace(
    SQUEEZENET, model=dataclasses.replace(SQUEEZENET.model, activation="elu")
)


def equal(actual, expected, tolerance=0.0):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_ncnn(half, fused):
    arrays = trained(SQUEEZENET)
    files = foreign_files.ncnn_of(SQUEEZENET, arrays, half, fused)
    found, notes = ncnn.decode(*files, SQUEEZENET, "twin")
    equal(found, arrays)
    assert notes == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("7767517", "7767518", "first two lines"),
        ("Softmax prob", "Softmax prob 1", "not ncnn's text"),
        (" 9=1", "", "conv10 has other attributes"),
        (" 3=2", " 3=1", "conv1 has other attributes"),
        (" 4=1 5=1 6=72", " 4=0 5=1 6=72", "fire[23]_expand3x3 has other attributes"),
        (" 4=1 5=1 6=72", " 4=1 14=0 5=1 6=72", "fire[23]_expand3x3 has other attributes"),
        (" 4=1 5=1 6=72", " 4=1 5=1 6=72 8=2", "fire[23]_expand3x3 has other attributes"),
        ("0=0 1=3 2=2", "0=1 1=3 2=2", "pool2 has other attributes"),
        ("0=0 1=3 2=2", "0=0 1=3 2=2 5=1", "pool2 has other attributes"),
        ("Concat fire3_concat 2 1 fire3_expand1x1 fire3_expand3x3",
         "Concat fire3_concat 2 1 fire3_expand3x3 fire3_expand1x1", "has other attributes"),
        ("Softmax prob 1 1 global_pool", "Softmax prob 1 1 conv10", "2 outputs"),
        ("fire2_squeeze 1 1 pool1", "fire2_squeeze 1 1 nowhere", "reads or makes no blob"),
        ("Concat fire2", "InnerProduct fire2", "stands where fire2_concat is"),
        ("0=32 1=32", "0=227 1=227", "images"),
    ],
)  # fmt: skip
def test_an_ncnn_graph_that_computes_something_else_is_refused(old, new, message):
    param, weights = foreign_files.ncnn_of(SQUEEZENET, trained(SQUEEZENET))
    assert old.encode() in param
    with pytest.raises(InputError, match=message):
        ncnn.decode(param.replace(old.encode(), new.encode()), weights, SQUEEZENET, "my.param")


def test_ncnn_s_bin_is_as_long_as_the_param_says_and_of_floats():
    param, weights = foreign_files.ncnn_of(SQUEEZENET, trained(SQUEEZENET))
    for damaged in (weights[:-1], weights[:3], b"", weights + b"\0"):
        with pytest.raises(InputError, match=r"my\.param"):
            ncnn.decode(param, damaged, SQUEEZENET, "my.param")
    with pytest.raises(InputError, match="neither float16 nor float32"):
        ncnn.decode(param, b"\x38\x4b\x0d\x00" + weights[4:], SQUEEZENET, "int8.param")
    with pytest.raises(InputError, match="without bypass"):
        ncnn.decode(param, weights, BYPASS, "my.param")


def test_the_padding_of_ncnn_s_classifier_may_differ_and_is_told():
    files = foreign_files.ncnn_of(SQUEEZENET, trained(SQUEEZENET))
    other = dataclasses.replace(SQUEEZENET.model, head_padding=0)
    found, notes = ncnn.decode(*files, dataclasses.replace(SQUEEZENET, model=other), "my.param")
    equal(found, trained(SQUEEZENET))
    assert len(notes) == 1 and "pads the classifier by 1" in notes[0]


@pytest.mark.parametrize("style", ["", "legacy", "double"])
@pytest.mark.parametrize("config", [SQUEEZENET, BYPASS])
def test_caffe_s_squeezenet(config, style):
    arrays = trained(config)
    data = foreign_files.caffemodel_of(config, arrays, style)
    equal(caffe.decode(data, config, "twin"), arrays)


@pytest.mark.parametrize("style", ["", "merged", "merged_before_mkl"])
@pytest.mark.parametrize("name", ["v_1_0_G_SqNxt_23", "v_1_0_SqNxt_23_v5"])
def test_caffe_s_squeezenext(name, style):
    config = config_io.load(name)
    arrays = trained(config)
    data = foreign_files.caffemodel_of(config, arrays, style)
    found = caffe.decode(data, config, "twin")
    equal(found, arrays, 1e-6)  # divided by the scale factor again
    complete = variables.complete(config, found, "twin")
    assert complete["model/stem_norm/scale_factor"] == 1.0


# The first two units in the order of 1.0-SqNxt-23/train_val.prototxt
# (amirgholami/SqueezeNext), typed in by hand, then the head: outputs, kernel, our layer.
OFFICIAL = [
    (64, (7, 7), "stem"),
    (32, (1, 1), "stage1_unit1_shortcut"),
    (16, (1, 1), "stage1_unit1_reduce1"),
    (8, (1, 1), "stage1_unit1_reduce2"),
    (16, (3, 1), "stage1_unit1_conv3x1"),
    (16, (1, 3), "stage1_unit1_conv1x3"),
    (32, (1, 1), "stage1_unit1_expand"),
    "Eltwise",
    (16, (1, 1), "stage1_unit2_reduce1"),
    (8, (1, 1), "stage1_unit2_reduce2"),
    (16, (1, 3), "stage1_unit2_conv1x3"),
    (16, (3, 1), "stage1_unit2_conv3x1"),
    (32, (1, 1), "stage1_unit2_expand"),
    "Eltwise",
    (128, (1, 1), "head"),
]


def test_caffe_s_order_is_the_official_prototxt_s():
    model = dataclasses.replace(
        SQUEEZENEXT.model, stem_filters=64, stem_kernel=7, stages=(Stage(32, 2, 1),), groups=1,
        head_filters=128,
    )  # fmt: skip
    config = dataclasses.replace(SQUEEZENEXT, model=model)
    shapes, data = variables.shapes(config), b""
    for number, row in enumerate(OFFICIAL, start=1):
        if row == "Eltwise":
            data += foreign_files.caffe_layer(f"Eltwise{number}", "Eltwise")
        else:
            outputs, sides, name = row
            inputs = shapes[f"model/{name}/kernel"][2]
            kernel = foreign_files.blob(np.full((outputs, inputs, *sides), float(number)))
            data += foreign_files.caffe_layer(f"Convolution{number}", "Convolution", [kernel])
            three = [np.zeros(outputs), np.ones(outputs), np.ones(1)]
            norms = (("BatchNorm", three), ("Scale", [np.ones(outputs), np.zeros(outputs)]))
            for kind, values in norms:
                blobs = map(foreign_files.blob, values)
                data += foreign_files.caffe_layer(f"{kind}{number}", kind, blobs)
        data += foreign_files.caffe_layer(f"ReLU{number}", "ReLU")
    last = [foreign_files.blob(np.zeros((3, 128)))]
    data += foreign_files.caffe_layer("fc", "InnerProduct", last)
    found = caffe.decode(data, config, "twin")
    for number, row in enumerate(OFFICIAL, start=1):
        if row != "Eltwise":
            assert (found[f"model/{row[2]}/kernel"] == number).all(), row


def test_caffe_s_batch_norm_without_batches_is_zero_and_its_epsilon_counts():
    arrays = trained(SQUEEZENEXT)
    data = foreign_files.caffemodel_of(SQUEEZENEXT, arrays, factor=0.0)
    found = caffe.decode(data, SQUEEZENEXT, "twin")
    assert not found["model/stem_norm/moving_variance"].any()
    larger = foreign_files.caffemodel_of(SQUEEZENEXT, arrays).replace(
        field(3, 1e-5), field(3, 1e-3)
    )
    found = caffe.decode(larger, SQUEEZENEXT, "twin")
    expected = arrays["model/stem_norm/moving_variance"] + (1e-3 - 1e-5)
    np.testing.assert_allclose(found["model/stem_norm/moving_variance"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("of", "read_as", "message"),
    [
        (BYPASS, SQUEEZENET, r"2 Eltwise \(0\)"),
        (SQUEEZENET, BYPASS, r"0 Eltwise \(2\)"),
        (SQUEEZENET, SQUEEZENEXT, "of each type it has"),
        (SQUEEZENEXT, VERSION_5, "stage2_unit1_reduce1 strides"),
        (SQUEEZENEXT, WITHOUT_RELU, r"22 ReLU layers, the network should have 17"),
        (SQUEEZENET, WITH_ELU, r"8 ReLU layers, the network should have 0"),
    ],
)
def test_a_caffemodel_of_another_network_is_refused(of, read_as, message):
    data = foreign_files.caffemodel_of(of, trained(of))
    with pytest.raises(InputError, match=message):
        caffe.decode(data, read_as, "my.caffemodel")


def test_a_caffemodel_of_too_many_parts_is_refused_soon():
    blobs = foreign_files.caffe_layer("conv1", "Convolution", [b""] * 1000)
    for data in (b"\x12\x00" * 10**6, foreign_files.field(100, b"") * 20_000, blobs):
        with pytest.raises(InputError, match="it has too many fields"):
            caffe.decode(data, SQUEEZENEXT, "my.caffemodel")


def test_a_caffemodel_with_other_strides_padding_or_norms_is_refused():
    data = foreign_files.caffemodel_of(SQUEEZENEXT, trained(SQUEEZENEXT))
    strided, padded, grouped = field(13, 2) + field(14, 2), field(9, 1) + field(10, 0), field(5, 2)
    for old, new in ((strided, field(13, 1) + field(14, 1)), (padded, field(9, 0) + field(10, 0)),
                     (grouped, field(5, 1)), (field(2, "Scale"), field(2, "PReLU")),
                     (field(2, "ReLU"), field(2, "Scale"))):  # fmt: skip
        assert old in data and len(old) == len(new) or b"Scale" in new
        with pytest.raises(InputError, match="my.caffemodel"):
            caffe.decode(data.replace(old, new), SQUEEZENEXT, "my.caffemodel")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model/conv1/kernel", None, "conv1/kernel is absent"),
        ("model/conv1/extra", np.zeros(1), "has no model/conv1/extra"),
        ("model/conv1/bias", np.full(8, np.nan), "conv1/bias holds a number that is not finite"),
        ("model/conv1/bias", np.full(8, 1e300), "not finite"),
        ("model/conv1/bias", np.zeros((8, 1)), r"has shape \(8, 1\), not \(8,\)"),
    ],
)
def test_what_is_no_network_is_refused(name, value, message):
    arrays = trained(SQUEEZENET) | {name: value}
    with pytest.raises(InputError, match=message):
        variables.complete(SQUEEZENET, {n: a for n, a in arrays.items() if a is not None}, "file")


def test_a_negative_variance_is_refused():
    arrays = trained(SQUEEZENEXT)
    arrays["model/head_norm/moving_variance"] = -arrays["model/head_norm/moving_variance"]
    with pytest.raises(InputError, match="negative variance"):
        variables.complete(SQUEEZENEXT, arrays, "file")
