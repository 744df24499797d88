"""Tests of training that changes on its way (`train/phases.py`), and of teachers."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from squeezenext.config.images import (
    ColorJitter,
    CutMix,
    HorizontalFlip,
    Mixup,
    RandomErasing,
    RandomResizedCrop,
)
from squeezenext.config.training import Distillation
from squeezenext.errors import InputError
from squeezenext.images.geometry import normalize
from squeezenext.network import keras_model
from squeezenext.records import reader as records_reader
from squeezenext.records.dataset import find_dataset
from squeezenext.records.reader import Reader
from squeezenext.train import devices, loop, losses, measure, phases
from tests import tiny

EVERYTHING = (
    RandomResizedCrop(),
    HorizontalFlip(alternating=True),
    ColorJitter(brightness=0.2, hue=0.1),
    RandomErasing(),
    Mixup(probability=0.5),
    CutMix(probability=0.5),
)


def make(config, teacher=None):
    return loop.Loop(
        config,
        strategy=devices.strategy(1),
        precision="float32",
        examples=40,
        micro_batch=8,
        seed=3,
        teacher=teacher,
    )


def walk(made, reader, steps):
    """Trains as `Run` does, with new batches where a phase ends."""
    iterator = made.batches(reader)
    for _ in range(steps):
        if made.phase_is_over:
            iterator = made.batches(reader)
        made.train(iterator, 1)
    return made.state()


@pytest.mark.parametrize("kind", ["balanced", "adjusted"])
def test_uneven_classes_count_equally_in_the_loss(tmp_path, monkeypatch, kind):
    """Also where a class has no image, and with images that are mixed of two classes."""
    payloads = [tiny.payload(number, 1 + (number >= 6)) for number in range(8)]
    uneven = Reader(
        find_dataset(tiny.data_set(tmp_path, "train", payloads), None, None).splits["train"]
    )
    monkeypatch.setattr(records_reader, "_READ_AHEAD", 3)
    assert uneven.labels(3).tolist() == [0] * 6 + [1] * 2  # in order, though threads read them
    training = dataclasses.replace(tiny.TRAINING, class_weights=kind, batch_size=8)
    assert losses.class_weights(tiny.TRAINING, uneven, 3) is None
    weights = losses.class_weights(training, uneven, 3)
    assert weights[:2].tolist() == pytest.approx([8 / (2 * 6), 8 / (2 * 2)])
    config = dataclasses.replace(tiny.SQUEEZENEXT, training=training)
    reports = []  # to the watchdog of several workers, which wait for the reading of all records
    made = loop.create(
        config, devices.strategy(1), uneven, precision="float32",
        report_progress=lambda: reports.append(1),
    )  # fmt: skip
    assert len(reports) == 8
    plain = loop.create(
        dataclasses.replace(config, training=dataclasses.replace(training, class_weights="none")),
        devices.strategy(1), uneven, precision="float32", batch_statistics=False,
    )  # fmt: skip
    for name, variable in keras_model.model_variables(made.model).items():
        variable.assign(variable * (30.0 if "classifier/kernel" in name else 1.0))
        keras_model.model_variables(plain.model)[name].assign(variable)
    made.backward._batch_statistics = False
    images, labels, _ = next(made.batches(uneven))
    logits = plain.model(normalize(tf.cast(images, tf.float32), config.images), training=False)
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits).numpy()
    frequent = logits + np.log([6 / 8, 2 / 8, 1 / 8])  # a class without images counts as one
    adjusted = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, frequent).numpy()
    wanted = each * weights[labels] if kind == "balanced" else adjusted
    sums, _ = made.train(made.batches(uneven), 1)
    assert sums.loss == pytest.approx(float(wanted.sum()), rel=1e-4)
    assert sums.loss != pytest.approx(float(each.sum()), rel=1e-3)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return tiny.reader(tmp_path_factory.mktemp("records"))


def test_a_run_through_all_phases_resumes_exactly(reader):
    """Frozen, then growing images, with every augmentation: from the thaw, and from inside."""
    config = dataclasses.replace(
        tiny.SQUEEZENEXT,
        images=dataclasses.replace(
            tiny.IMAGES, augmentation=EVERYTHING, progressive=(24, 32)
        ),
        training=dataclasses.replace(
            tiny.TRAINING, epochs=2.0, optimizer="lamb", learning_rate=1.0, frozen_epochs=1,
            classifier_multiplier=2.0, ema=0.9, label_smoothing=0.1, residual_scale=0.2, echo=2,
        ),
    )  # fmt: skip
    made = make(config)
    start = made.state()
    thaw = walk(made, reader, 5)
    assert made.phase == phases.Phase(24, True) and made.phase_is_over
    moved = [n for n in start if n.startswith("model/") and not np.array_equal(start[n], thaw[n])]
    assert moved == ["model/classifier/kernel"]
    inside = walk(made, reader, 3)
    end = walk(made, reader, 2)
    assert made.phase == phases.Phase(32, False)
    for state, steps in ((thaw, 5), (inside, 2)):
        made.restore(state)
        again = walk(made, reader, steps)
        for name in end:
            np.testing.assert_array_equal(again[name], end[name], err_msg=name)


@pytest.mark.parametrize("config", [tiny.SQUEEZENEXT, tiny.SQUEEZENET])
def test_a_network_of_another_size_is_the_one_built_for_it(config):
    model = keras_model.build_model(config)
    for size in (37, 40):
        other = keras_model.build_model(config, size)
        other.set_weights(model.get_weights())
        pixels = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")
        resized = keras_model.with_size(model, size)
        np.testing.assert_array_equal(resized(pixels), other(pixels))
        assert {id(v) for v in resized.variables} == {id(v) for v in model.variables}


def test_the_distilled_loss_is_the_divergence():
    answers = tf.constant([[1.0, 2.0, -1.0], [0.0, 0.0, 3.0]])
    logits = tf.constant([[0.5, 0.0, 1.0], [0.0, 0.0, 3.0]])
    how = Distillation(teacher="x", temperature=2.0)
    expected = 4 * keras.losses.KLDivergence(reduction=None)(
        tf.nn.softmax(answers / 2), tf.nn.softmax(logits / 2)
    )
    labels = tf.constant([7.0, 9.0])
    soft = losses.distilled(labels, answers, logits, how)
    np.testing.assert_allclose(soft, expected, atol=1e-5)
    assert abs(float(soft[1])) < 1e-6
    half = losses.distilled(labels, answers, logits, dataclasses.replace(how, label_share=0.25))
    np.testing.assert_allclose(half, 0.25 * labels + 0.75 * soft, rtol=1e-5)


def test_a_student_learns_what_its_teacher_says(reader):
    """The teacher tells only how green an image is, which no label does."""

    def teacher(pixels):
        green = tf.reduce_mean(pixels[..., 1], (1, 2))
        logit = (green - 60.0) / 20.0
        return tf.stack([tf.zeros_like(logit), logit, tf.zeros_like(logit)], -1)

    how = Distillation(teacher="green")
    training = dataclasses.replace(tiny.TRAINING, epochs=8.0, distillation=how)
    made = make(dataclasses.replace(tiny.SQUEEZENEXT, training=training), teacher)
    iterator = made.batches(reader)
    first, _ = made.train(iterator, 2)
    made.train(iterator, 25)
    last, _ = made.train(iterator, 5)
    assert last.loss / last.examples < 0.6 * first.loss / first.examples


def test_keras_teachers_get_their_own_preprocessing_and_side():
    inputs = keras.Input((20, 20, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    answer = losses._answering(model, losses.preprocess_of("MobileNetV2"))
    pixels = tf.ones([2, 32, 32, 3]) * [0.0, 127.5, 255.0]
    np.testing.assert_allclose(answer(pixels), [[-1, 0, 1]] * 2, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("keras:NoNet", 1000, "keras.applications has no NoNet"),
        ("keras:EfficientNetB0", 10, "has 1000 classes, the data has 10"),
        ("nowhere", 10, "nowhere"),
    ],
)
def test_what_is_no_teacher_is_named(name, classes, message):
    with pytest.raises(InputError, match=message):
        losses.teacher(Distillation(teacher=name), classes, "float32")


def test_what_lies_before_the_first_epoch_is_its_phase():
    """As of a run whose batch is larger than its epoch, which asks what was before."""
    images = dataclasses.replace(tiny.IMAGES, progressive=())
    config = dataclasses.replace(tiny.SQUEEZENEXT, images=images)
    assert phases.phase(config, -3) == phases.phase(config, 0)


def test_a_profile_changes_nothing_and_says_what_limits(reader):
    made = make(tiny.SQUEEZENEXT)
    before = made.state()
    measured = measure.profile(made, reader, seconds=0.1)
    assert measured.input_rate > 0 and measured.model_rate > 0 and measured.shared
    for name, value in made.state().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.parametrize(
    ("rates", "shared", "told"),
    [
        ((1_000.0, 4_000.0), False, ["wait for input 75% of the time", "training.echo=3"]),
        ((4_000.0, 1_000.0), False, ["wait for input 0% of the time", "The network is the limit"]),
        ((300.0, 300.0), True, ["150 images/s, 50% input", "--max_side 400"]),
        ((1_000.0, 100.0), True, ["91 images/s, 9% input", "The network is the limit"]),
    ],
)
def test_the_report_of_a_profile(rates, shared, told):
    text = measure.Profile(*rates, shared).report(echo=2)
    assert all(part in text for part in told), text
