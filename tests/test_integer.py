"""Tests for `network/integer.py` and `compress/integer.py`: networks in whole numbers."""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from squeezenext.compress import command, rate_distortion
from squeezenext.compress.integer import Calibration, pixels_of
from squeezenext.compress.rate_distortion import GroupPlan
from squeezenext.config.network import Fire
from squeezenext.errors import InputError
from squeezenext.images import geometry
from squeezenext.litert import writer
from squeezenext.litert.runner import Runner
from squeezenext.model import loading
from squeezenext.network import graph, integer
from squeezenext.network.model import Model
from squeezenext.predict.predictor import Predictor
from squeezenext.sqz import file as sqz
from tests import micro, tiny


def probabilities(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


@pytest.mark.parametrize("name", micro.CONFIGS)
def test_whole_numbers_give_the_answers_of_the_float_network(name):
    model, network, images = micro.network(name)
    runner = Runner(writer.write(model.graph, model.weights), 1, "test")
    for pixels in images:
        inputs = geometry.normalize(pixels.astype(np.float32), model.config.images)
        wanted = runner.run(inputs)[0]
        found = network.run(pixels) * network.logit_scale
        assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def exactly(network, node, maps):
    """Computes a rescaled convolution or dense sum with Python's own integers and fractions."""
    layer, source = network.layers[node.name], maps[node.inputs[0]]
    (top, _), (left, _) = node.padding
    first = node.inputs[0] == "images"
    border = network.border if first else [network.scales[node.inputs[0]].zero] * source.shape[2]
    rng = np.random.default_rng(0)
    height, width, inputs, outputs = layer.kernel.shape
    for _ in range(20):
        y, x, f = (int(rng.integers(side)) for side in node.shape)
        channels = slice(f // (outputs // node.groups) * inputs, None)
        total = int(layer.bias[f]) * 2**layer.bias_shift
        for i in range(height):
            for j in range(width):
                row, column = y * node.strides - top + i, x * node.strides - left + j
                inside = 0 <= row < source.shape[0] and 0 <= column < source.shape[1]
                seen = source[row, column] if inside else np.array(border)
                seen = seen[channels][:inputs]
                total += sum(
                    int(a) * int(b) for a, b in zip(seen, layer.kernel[i, j, :, f], strict=True)
                )
        zero = network.scales[node.name].zero
        value = zero + Fraction(total * layer.multiplier, 2**layer.shift) + Fraction(1, 2)
        low = zero if node.activation == "relu" else 0
        yield (y, x, f), min(max(value.__floor__(), low), 255)


@pytest.mark.parametrize("name", micro.CONFIGS)
def test_the_arithmetic_is_the_specified_one(name):
    _, network, images = micro.network(name)
    maps = network._maps(images[0])
    convolutions = [node for node in network.graph.weighted[:-1]]
    for node in convolutions:
        for place, wanted in exactly(network, node, maps):
            assert maps[node.name][place] == wanted


def test_logits_are_rounded_towards_zero():
    _, network, _ = micro.network("fires")
    network = dataclasses.replace(network, shift=2)
    assert network._logits(np.array([-5, -4, -3, 3, 4, 7])).tolist() == [-1, -1, 0, 0, 1, 1]


@pytest.mark.parametrize("name", micro.CONFIGS)
def test_the_float_weights_are_those_that_the_whole_ones_stand_for(name):
    model, network, _ = micro.network(name)
    found = integer.floats(network, model.config.images)
    assert found.keys() == model.weights.keys()
    for key, array in model.weights.items():
        step = np.abs(array).max() / 64
        assert found[key].shape == array.shape
        if key.endswith("kernel"):
            assert np.abs(found[key] - array).max() <= step / 2 + 1e-6


def test_a_file_gives_the_same_network():
    model, network, images = micro.network("units")
    found = sqz.decode(sqz.encode_whole(model, network).data, "test.sqz")
    assert found.labels == model.labels
    for pixels in images:
        assert (found.integer.run(pixels) == network.run(pixels)).all()
        for one, other in zip(found.integer.outputs(pixels), network.outputs(pixels), strict=True):
            assert (one == other).all()
    for key, array in integer.floats(network, model.config.images).items():
        assert (found.weights[key] == array).all()


def test_the_float_weights_do_not_depend_on_the_order_in_memory():
    """The kernels of a file that was read lie in another order than those that were written."""
    model, network, _ = micro.network("units")
    rng = np.random.default_rng(0)
    name = network.graph.weighted[0].name
    first = network.layers[name]
    outputs = first.kernel.shape[-1]
    for _ in range(20):
        half = rng.integers(-127, 128, (3, 7, 3, outputs), np.int8)
        kernel = np.concatenate([half, -half])  # whose sum is 0, but for what is lost in rounding
        found = []
        for array in (kernel, np.asfortranarray(kernel)):
            bias = np.zeros(outputs, np.int16)
            layers = network.layers | {name: dataclasses.replace(first, kernel=array, bias=bias)}
            other = dataclasses.replace(network, layers=layers)
            found.append(integer.floats(other, model.config.images)[f"{name}/bias"])
        assert (found[0] == found[1]).all()


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_refused_or_is_the_same(seed):
    """Also with the checksum of the damaged bytes."""
    model, network, images = micro.network("fires")
    data = bytearray(sqz.encode_whole(model, network).data)
    rng = np.random.default_rng(seed)
    for place in rng.integers(20, len(data) - 4, 3):
        data[place] ^= int(rng.integers(1, 256))
    with pytest.raises(InputError, match="test.sqz"):
        sqz.decode(bytes(data), "test.sqz")
    try:
        found = sqz.decode(micro.sealed(bytes(data)), "test.sqz")
    except InputError as error:
        assert "test.sqz" in str(error)
    else:
        assert found.integer.run(images[0]).shape == (len(model.labels),)


def test_values_on_a_grid_are_multiples_of_one_number():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(1, 1, 16, 32)).astype(np.float32)
    plans = [GroupPlan.of(np.eye(16))]
    values = rate_distortion.quantize(kernel, plans, 1e-4, whole=True).values
    ratios = values / (np.abs(values).max() / 127)
    assert np.abs(ratios - ratios.round()).max() < 1e-3
    assert len(np.unique(values)) > 8


def test_an_elu_and_lossless_are_refused():
    config = dataclasses.replace(
        tiny.SQUEEZENET, model=dataclasses.replace(tiny.SQUEEZENET.model, activation="elu")
    )
    with pytest.raises(InputError, match="ELU"):
        Calibration(graph.of(config), {}, config.images, [])
    with pytest.raises(InputError, match="--integer"):
        command.Method(lossless=True, integer=True)


def test_pixels_are_found_again():
    images = dataclasses.replace(tiny.IMAGES, channels="BGR", mean=(104.0, 117.0, 123.7))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    inputs = geometry.normalize(pixels.astype(np.float32), images)
    assert (pixels_of([inputs], images)[0] == pixels).all()


def test_predict_computes_what_the_file_says(tmp_path):
    model, network, _ = micro.network("fires", temperature=2.0)
    path = tmp_path / "tiny.sqz"
    path.write_bytes(sqz.encode_whole(model, network).data)
    image = Image.fromarray(np.random.default_rng(5).integers(0, 256, (32, 32, 3), np.uint8))
    predictor = Predictor(path, inside=True)
    view = predictor.view(image)
    pixels = geometry.centre_pixels(image, model.config.images)
    logits = network.run(pixels) * network.logit_scale
    assert np.allclose(view.probabilities, probabilities(logits / 2), atol=1e-6)
    assert (view.logits == logits.astype(np.float32)).all()
    assert np.allclose(view.class_map(1).mean(), view.logits[1], rtol=1e-3)
    assert view.features.shape == (16,)


def test_known_is_computed_from_whole_numbers(tmp_path):
    model, network, images = micro.network("fires")
    features = np.abs(np.random.default_rng(0).normal(size=(40, 16)))
    from squeezenext.network import known

    fitted = known.fit(model.graph, (features, features[:, :3]), (features, features[:, :3]))
    path = tmp_path / "tiny.sqz"
    path.write_bytes(sqz.encode_whole(dataclasses.replace(model, known=fitted), network).data)
    view = Predictor(path, inside=True).view(Image.fromarray(images[0]))
    wanted = fitted.scores(view.features[np.newaxis], view.logits[np.newaxis])[0]
    assert view.known == pytest.approx(1 / (1 + np.exp(-wanted)), abs=1e-6)


def test_the_command_makes_a_file_of_whole_numbers(tmp_path, capsys):
    model, _, _ = micro.network("fires")
    source, output = tmp_path / "float.sqz", tmp_path / "whole.sqz"
    kernels = {n.name: model.weights[f"{n.name}/kernel"] for n in model.graph.weighted}
    biases = {n.name: model.weights[f"{n.name}/bias"] for n in model.graph.weighted}
    source.write_bytes(sqz.encode(model, kernels, biases, True).data)
    data = tiny.data_set(
        tmp_path / "data", "validation", [tiny.payload(n, n % 3 + 1) for n in range(6)]
    )
    arguments = ["--model_dir", source, "--output", output, "--integer", "--json"]
    assert command.main(["compress", *map(str, arguments)]) == 0
    assert "warning: Without --data_dir" in capsys.readouterr().err
    assert command.main(["compress", *map(str, arguments), "--data_dir", str(data)]) == 0
    assert "warning: Without" not in capsys.readouterr().err
    found = loading.load(output)
    assert isinstance(found, Model) and found.integer is not None
    assert json.dumps(found.config.images.size) == "32"


def test_a_filter_of_too_many_weights_is_refused():
    wide = dataclasses.replace(
        tiny.SQUEEZENET.model, fires=(Fire(6000, 8, 8), Fire(4, 8, 8)), bypass="none"
    )
    config = dataclasses.replace(tiny.SQUEEZENET, model=wide)
    with pytest.raises(InputError, match="fire2_expand3x3"):
        Calibration(graph.of(config), {}, config.images, [])
