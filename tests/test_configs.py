"""Tests for `../configs` and `squeezenext/config/io.py`."""

import importlib
import math
import re
from pathlib import Path

import pytest

from squeezenext import stats
from squeezenext.config import Config
from squeezenext.config import io as config_io
from squeezenext.config.images import Images
from squeezenext.config.network import Stage
from squeezenext.config.reported import REPORTED
from squeezenext.config.training import Training
from squeezenext.config.zoo import PUBLISHED
from squeezenext.errors import InputError
from squeezenext.model import checkpoint
from squeezenext.network import keras_model
from tests.networks import built

# Parameters: of convolutions, dense layers and batch norm's scale and offset, counted from the
# official Caffe files. Multiply-adds in millions, of convolutions and dense layers at the
# network's own input size. The quickstart's is counted by hand.
SIZES = {
    "squeezenet_v1_0": (1_248_424, 861.3),
    "squeezenet_v1_0_simple_bypass": (1_248_424, 861.3),
    "squeezenet_v1_0_complex_bypass": (1_589_672, None),
    "squeezenet_v1_1": (1_235_496, 387.7),
    "squeezenet_v1_1_torchvision": (1_235_496, 349.2),  # at 224; torchvision tells 0.349 GMAC
    "squeezenet_v1_0_torchvision": (1_248_424, 818.9),  # 0.819
    "squeezeresnet_v1_0": (1_248_424, 818.9),
    "squeezeresnet_v1_1": (1_235_496, 349.2),
    "sqnxt23_w1": (724_056, None),
    "sqnxt23_w3d2": (1_511_824, None),
    "sqnxt23_w2": (2_583_752, None),
    "sqnxt23v5_w1": (921_816, None),
    "sqnxt23v5_w3d2": (1_953_616, None),
    "sqnxt23v5_w2": (3_366_344, None),
    # 1.1 with 256 classes: 744 x (512 + 1) fewer.
    "squeezenet_v1_1_caltech256": (1_235_496 - 744 * 513, None),
    "v_1_0_SqNxt_23": (717_280, 278.0),
    "v_1_0_SqNxt_23_mod": (717_280, 278.0),
    "v_1_0_G_SqNxt_23": (543_072, 224.2),
    "v_1_0_SqNxt_23_v2": (733_664, 224.9),
    "v_1_0_SqNxt_23_v3": (747_840, 224.9),
    "v_1_0_SqNxt_23_v4": (762_016, 224.9),
    "v_1_0_SqNxt_23_v5": (930_016, 224.9),
    "v_1_0_SqNxt_34": (1_052_560, 356.7),
    "v_1_0_SqNxt_44": (1_238_976, 428.2),
    "v_1_5_SqNxt_23": (1_406_384, 472.3),
    "v_1_5_SqNxt_34": (2_156_408, 649.4),
    "v_1_5_SqNxt_44": (2_572_544, 810.2),
    "v_2_0_SqNxt_23": (2_361_728, 742.1),
    "v_2_0_SqNxt_23_v4": (2_555_136, 702.6),
    "v_2_0_SqNxt_23_v5": (3_222_912, 702.6),
    "v_2_0_SqNxt_34": (3_691_232, 1056.9),
    "v_2_0_SqNxt_44": (4_428_096, 1342.9),
    # Stem 2,464; units 3,568, 11,744, 9,568, 46,016, 37,568; head 16,640; classifier 1,280.
    "quickstart": (128_848, None),
}


def keras_statistics(name):
    """(output, parameters, macs) of the Keras layers that have weights, batch norms apart."""
    found, norms = {}, {}
    for layer in built(name).layers:
        count = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
        if layer.name.endswith("_norm"):
            norms[layer.name.removesuffix("_norm")] = count
        elif count:
            output = tuple(layer.output.shape[1:])
            macs = math.prod(layer.kernel.shape) * math.prod(output[:-1])
            found[layer.name] = output, count, macs
    return {name: (x, count + norms.get(name, 0), macs) for name, (x, count, macs) in found.items()}


def test_published_figures_are_those_of_the_docstrings():
    assert REPORTED.keys() < SIZES.keys() | PUBLISHED.keys()
    for name, reported in REPORTED.items():
        if name not in SIZES:
            continue
        module = importlib.import_module(f"configs.{name}")
        for figure, what in ((reported.top_1, "top-1"), (reported.top_5, "top-5")):
            found = re.search(rf"([\d.]+)\s+{what}", module.__doc__)
            assert (found and float(found[1])) == figure, name


def test_the_page_of_variants_is_the_table_of_stats(capsys):
    assert stats.main(["stats", "--all"]) == 0
    page = (Path(__file__).parents[1] / "docs" / "variants.md").read_text("utf-8")
    assert capsys.readouterr().out in page


def test_every_configuration_has_its_size_here():
    assert set(config_io.configuration_names()) == set(SIZES)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_size(name):
    rows = stats.layers(config_io.load(name))
    weighted = {row.name: (row.output, row.parameters, row.macs) for row in rows if row.parameters}
    assert weighted == keras_statistics(name)
    total = stats.totals(rows)
    parameters, million_macs = SIZES[name]
    assert total["parameters"] == parameters
    if million_macs:
        assert total["macs"] / 1e6 == pytest.approx(million_macs, rel=1e-3)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_trained_variables_are_known_without_keras(name):
    """So the numbered moving averages of old checkpoints find their weights."""
    variables = keras_model.model_variables(built(name))
    names = {id(variable): name for name, variable in variables.items()}
    assert checkpoint.trained(variables) == [names[id(v)] for v in built(name).trainable_variables]


@pytest.mark.parametrize("name", sorted(SIZES))
def test_json_gives_the_same_configuration_back(name):
    config = config_io.load(name)
    assert config_io.from_json(config_io.to_json(config), "test") == config


def test_unknown_name_tells_the_nearest():
    with pytest.raises(InputError, match="v_1_0_SqNxt_23"):
        config_io.load("v_1_0_SqNext_23")


@pytest.mark.parametrize("name", ["../configs/quickstart", "", "os", "quickstart\0"])
def test_a_name_is_never_a_path(name):
    with pytest.raises(InputError, match="no configuration"):
        config_io.load(name)


def test_own_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from squeezenext.config.io import load\nCONFIG = load('quickstart')\n")
    assert config_io.load(str(path)) == config_io.load("quickstart")
    path.write_text("CONFIG = 3\n")
    with pytest.raises(InputError, match="CONFIG is int"):
        config_io.load(str(path))
    with pytest.raises(InputError, match="no configuration file"):
        config_io.load(str(tmp_path / "absent.py"))


def test_override():
    config = config_io.load("quickstart")
    assert config_io.override(config, "training.epochs=2").training.epochs == 2.0
    assert config_io.override(config, "images.mean=(1,2,3)").images.mean == (1, 2, 3)
    assert config_io.override(config, "images.channels=RGB").images.channels == "RGB"
    assert config.training.epochs != 2.0


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.epoks=2", "no field 'epoks'; it has epochs"),
        ("training.epochs=two", "epochs takes float, not 'two'"),
        ("training.epochs=-1", r"^training\.epochs=-1: .*must be positive"),
        ("training.batch_size=2.5", "batch_size takes int"),
        ("training=3", "name a field of training"),
        ("training.epochs.x=3", "has no fields of its own"),
        ("images.channels=GBR", "must be one of"),
        ("model.stages=(1, 2)", "stages takes tuple"),
        ("epochs=2", "^epochs=2: Config has no field 'epochs'"),
        ("training.epochs", "there is no = in it"),
        ("training.epochs=1e300", "epochs is 1e[+]300; it must be at most 1,000,000"),
        pytest.param(f"training.epochs={'-' * 100_000}1", "epochs takes float", id="deep"),
        ("training.distillation.temperature=1e999", "Distillation.temperature is inf; it must be"),
        ("training.power=1e999", "Training.power is inf; it must be finite"),
        ("training.late_epoch=1e999", "Training.late_epoch is inf; it must be finite"),
        ("images.mean=(1e999, 0.0, 0.0)", "Images.mean is .inf, 0.0, 0.0.; it must be finite"),
    ],
)
def test_bad_override(assignment, message):
    with pytest.raises(InputError, match=message):
        config_io.override(config_io.load("quickstart"), assignment)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Training(batch_size=0), "batch_size is 0; it must be positive"),
        (lambda: Training(momentum=1.0), r"momentum is 1.0; it must be in \[0, 1\)"),
        (lambda: Training(schedule="steps"), "schedule is 'steps'"),
        (lambda: Images(size=300), "size is 300"),
        (lambda: Images(augmentation=()), "must be one crop, then"),
        (lambda: Config(), "model"),
        (lambda: Stage(filters=1), "missing"),
    ],
)
def test_bad_values_fail_in_the_constructor(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {"type": "os"}}', '{"model": 3}'])
def test_bad_json_is_one_sentence(text):
    with pytest.raises(InputError, match="somewhere is not a configuration"):
        config_io.from_json(text, "somewhere")
