"""Tests for `config/recipes.py` and `train/phases.py`."""

import dataclasses

import pytest
from absl import flags

from squeezenext.config import io as config_io
from squeezenext.config import recipes
from squeezenext.config.images import HorizontalFlip, Images, RandomResizedCrop
from squeezenext.errors import InputError
from squeezenext.train import command, phases
from tests import tiny


@pytest.mark.parametrize("name", recipes.NAMES)
@pytest.mark.parametrize("configuration", config_io.configuration_names())
def test_every_recipe_fits_every_configuration_and_its_file(configuration, name):
    config = config_io.load(configuration)
    other = recipes.apply(name, config)
    assert other.model == config.model
    assert (other == config) == (name == "published")
    assert other.images.size == config.images.size and other.images.mean == config.images.mean
    assert config_io.from_json(config_io.to_json(other), "x") == other
    changed = config_io.override(other, "training.learning_rate=0.123")
    assert changed.training.learning_rate == 0.123


def test_an_unknown_recipe_is_named():
    with pytest.raises(InputError, match="--recipe old: there are published, modern"):
        recipes.apply("old", tiny.SQUEEZENEXT)


def test_units_never_start_dead():
    """A ReLU before the addition passes no gradient at 0."""
    with pytest.raises(ValueError, match="residual_scale is 0.0; it must be positive"):
        training = dataclasses.replace(tiny.TRAINING, residual_scale=0.0)
        dataclasses.replace(tiny.SQUEEZENEXT, training=training)
    assert recipes.modern(tiny.SQUEEZENEXT).training.residual_scale > 0
    other = dataclasses.replace(tiny.SQUEEZENEXT.model, relu_before_add=False)
    modern = recipes.modern(dataclasses.replace(tiny.SQUEEZENEXT, model=other))
    assert modern.training.residual_scale == 0


def phased(epochs, **options):
    images = dataclasses.replace(tiny.IMAGES, progressive=options.pop("progressive", ()))
    training = dataclasses.replace(tiny.TRAINING, epochs=epochs, **options)
    return dataclasses.replace(tiny.SQUEEZENEXT, images=images, training=training)


def test_sizes_share_the_epochs_equally():
    config = phased(6.0, progressive=(16, 24, 32))
    assert [phases.phase(config, e).size for e in range(7)] == [16, 16, 24, 24, 32, 32, 32]
    assert phases.phase(phased(6.0), 5) == phases.Phase(32, False)
    assert [phases.phase(phased(6.0, frozen_epochs=2), e).frozen for e in range(4)] == [
        True, True, False, False,
    ]  # fmt: skip


def test_another_size_keeps_the_crop_s_share():
    images = Images(augmentation=(RandomResizedCrop(), HorizontalFlip()), progressive=(160,))
    smaller = phases.resized(images, 160)
    assert (smaller.size, smaller.resize, smaller.progressive) == (160, 180, ())
    assert phases.resized(smaller, 160) == smaller


def test_what_cannot_be_trained_is_refused():
    config = recipes.fine_tune(tiny.SQUEEZENEXT)
    with pytest.raises(InputError, match="frozen_epochs is 1; it must be at most epochs"):
        config_io.override(config, "training.epochs=0.5")
    with pytest.raises(InputError, match=r"progressive is \(4,\); it must be sizes of 8"):
        config_io.override(config, "images.progressive=(4,)")


def whole(*arguments):
    values = flags.FlagValues()
    command._define(values)
    values(["train", *arguments])
    return command._configured(values)


def configured(*arguments):
    return whole(*arguments).training


def test_a_recipe_reckons_with_the_command_line():
    """`modern` warms up for a twentieth of the epochs: of those that will be trained."""
    training = configured("--recipe", "modern", "--num_epochs", "40", "--batch_size", "64")
    assert (training.epochs, training.warmup_epochs, training.batch_size) == (40, 2, 64)
    assert training.ema == 0.998
    training = configured("--recipe", "fine_tune", "--num_epochs", "40", "--teacher", "x")
    assert (training.epochs, training.batch_size) == (40, 32)
    assert training.distillation.teacher == "x"
    training = configured("--recipe", "modern", "--set", "training.warmup_epochs=7")
    assert training.warmup_epochs == 7
    training = configured("--recipe", "fine_tune", "--set", "training.frozen_epochs=20",
                          "--num_epochs", "30")  # fmt: skip
    assert (training.frozen_epochs, training.epochs) == (20, 30)


def test_adam_s_rates_follow_the_root_of_the_batch():
    """At 512 images they were 16 times those of 32, and SqueezeNet learned nothing."""
    names = ("--configuration", "squeezenet_v1_1", "--recipe", "modern", "--batch_size")
    found = [configured(*names, str(batch)) for batch in (32, 128, 512)]
    rates = [each.learning_rate * each.rate_factor for each in found]
    assert rates == pytest.approx([6.25e-4, 1.25e-3, 2.5e-3])
    normed = configured("--recipe", "modern", "--batch_size", "512")
    assert normed.learning_rate * normed.rate_factor == 1.0
    assert not {"rate_scaling", "reference_batch"} & set(
        config_io.to_json(tiny.SQUEEZENET).split('"')
    )


@pytest.mark.parametrize("recipe", recipes.NAMES)
def test_the_order_of_changes_means_nothing(recipe):
    """Each alone would be refused: 300 is above the configuration's 256."""
    changes = ["--set=images.resize=320", "--set=images.size=300", "--num_epochs=3"]
    first = whole("--recipe", recipe, *changes)
    assert first == whole(*reversed(changes), "--recipe", recipe)
    assert (first.images.size, first.images.resize, first.training.epochs) == (300, 320, 3)


def test_another_size_brings_all_other_sizes_with_it():
    """Training at 160, 192, 227 for an evaluation at 128 is never what was meant."""
    names = ("--configuration", "squeezenet_v1_1", "--set", "images.size=128")
    images = whole("--recipe", "fine_tune", *names).images
    assert (images.size, images.resize, images.progressive) == (128, 144, (88, 112, 128))
    images = whole("--recipe", "modern", *names).images
    assert images.resize == 144 and max(images.progressive) <= 128
    assert whole(*names).images.resize == 144
    images = whole("--recipe", "fine_tune", *names, "--set", "images.progressive=(64,)").images
    assert images.progressive == (64,)
    tuned = recipes.fine_tune(config_io.load("squeezenet_v1_1"))
    assert config_io.override(tuned, "images.size=29").images.progressive == (24, 24, 29)


@pytest.mark.parametrize("size", ["0", "-8", "7"])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(InputError, match=f"size is {size}; it must be 8..resize"):
        whole("--set", f"images.size={size}")


def test_an_average_may_last_a_share_of_the_run():
    share = ("--set", "training.average_share=0.01")
    training = configured("--recipe", "modern", "--set", "training.ema=0", *share)
    assert training.averages and training.average_momentum(10_000) == pytest.approx(0.99)
    assert training.average_momentum(50) == 0  # of one step alone
    assert configured("--recipe", "modern").average_momentum(10_000) == 0.998
    assert not configured().averages
    with pytest.raises(InputError, match=r"training\.ema=0"):
        configured("--recipe", "modern", *share)
