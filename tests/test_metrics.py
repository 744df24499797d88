"""Tests for `reporting/metrics.py`."""

import json

import numpy as np
import pytest

from squeezenext import metrics
from squeezenext.metrics import Evaluation


def evaluation(labels, predicted, probability=None):
    labels, predicted = np.array(labels), np.array(predicted)
    right = (labels == predicted).astype(np.float32)
    probability = np.full(len(labels), 0.5) if probability is None else np.array(probability)
    return Evaluation(labels, 1 - right, right, right, predicted, probability)


def test_wilson_s_interval():
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    for hits, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
                                   (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):  # fmt: skip
        assert metrics.wilson(hits, count) == pytest.approx((low, high), abs=5e-5)
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_classes_by_hand():
    result = evaluation([0, 0, 0, 1, 1, 3], [0, 0, 1, 1, 0, 3])
    rows = metrics.per_class(result, 4)
    assert [row.examples for row in rows] == [3, 2, 0, 1]
    assert rows[0].precision == pytest.approx(2 / 3) and rows[0].recall == pytest.approx(2 / 3)
    assert rows[1].f1 == pytest.approx(0.5) and rows[2].f1 == 0.0
    # observed 4/6; by chance (3*3 + 2*2 + 1*1) / 36
    assert metrics.kappa(result) == pytest.approx((4 / 6 - 14 / 36) / (1 - 14 / 36))
    assert metrics.kappa(evaluation([1, 1], [1, 1])) is None
    pairs = metrics.confusions(result, 5)
    assert [(pair.label, pair.predicted, pair.count) for pair in pairs] == [(0, 1, 1), (1, 0, 1)]
    document = metrics.document(result, 4)
    assert document["macro_recall"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    json.loads(json.dumps(document, allow_nan=False))
    json.loads(json.dumps(metrics.document(evaluation([0], [1]), 2), allow_nan=False))


def test_calibration_error_by_hand():
    result = evaluation([0, 0, 0, 0], [0, 0, 1, 1], [0.9, 0.9, 0.9, 0.2])
    bins = metrics.reliability(result, 10)
    assert [bin.count for bin in bins] == [0, 1, 0, 0, 0, 0, 0, 0, 3, 0]
    expected = 3 / 4 * abs(0.9 - 2 / 3) + 1 / 4 * 0.2
    assert metrics.expected_calibration_error(bins) == pytest.approx(expected)


def test_the_fitted_temperature_undoes_a_known_one():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 5)).astype(np.float32)
    powers = np.exp(logits)
    chances = (powers / powers.sum(1, keepdims=True)).cumsum(1)
    labels = (rng.random((20_000, 1)) > chances).sum(1).clip(0, 4)
    for temperature in (0.5, 3.0):
        fitted = metrics.fit_temperature(logits * np.float32(temperature), labels)
        assert fitted == pytest.approx(temperature, rel=0.05)


def test_a_perfect_score_of_a_few_images_makes_nothing_certain():
    """Of n answers that were all right, n + 1 of n + 2 (Laplace), not all that are to come."""
    labels = np.arange(30) % 3
    logits = 4 * np.eye(3, dtype=np.float32)[labels]
    temperature = metrics.fit_temperature(logits, labels)
    powers = np.exp(logits / temperature)
    assert (powers.max(1) / powers.sum(1)) == pytest.approx(31 / 32, abs=1e-3)


def test_a_missing_or_doubled_example_is_an_error():
    columns = [np.array([0, 1, 1])] + [np.zeros(3)] * 6
    with pytest.raises(RuntimeError, match="not each of 3 once"):
        Evaluation.of_rows(columns, 3)


def named(labels, predicted):
    labels, predicted = np.array(labels), np.array(predicted)
    right = (labels == predicted).astype(np.float32)
    return metrics.Evaluation(labels, 1 - right, right, right, predicted, right)


def test_naming_the_largest_class_always_is_no_success():
    """50, 4, 3 and 1 photographs: top-1 is 0.86, and nothing is told apart."""
    result = named([0] * 50 + [1] * 4 + [2] * 3 + [3], [0] * 58)
    document = metrics.document(result, 4)
    assert document["top1"] > 0.85 and document["balanced_accuracy"] == 0.25
    compared, said = metrics.remarks(result, ["cat", "dog", "owl", "fox"])
    assert compared == "Naming cat for every image would give 0.8621."
    assert said.startswith("It names cat for every image")


@pytest.mark.parametrize(
    ("labels", "predicted", "said"),
    [
        ([0, 1, 0], [0, 1, 1], "Untested, since no image here is of these classes: owl."),
        ([1, 1], [1, 0], "All images are of one class, dog: the figures say little."),
        ([2], [2], "All images are of one class, owl"),
        ([0, 1, 2], [1, 1, 1], "It names dog for every image"),
    ],
)
def test_what_figures_hide_is_said(labels, predicted, said):
    found = metrics.remarks(named(labels, predicted), ["cat", "dog", "owl"])
    assert said in " ".join(found)
    assert not metrics.remarks(named([0, 1, 2], [0, 1, 1]), ["cat", "dog", "owl"])
    many = metrics.remarks(named([0, 1], [0, 1]), [str(i) for i in range(10)])
    assert many == ["Untested, since no image here is of these classes: 2, 3, 4, 5, 6 and 3 more."]


def test_balanced_accuracy_counts_each_tested_class_once():
    assert metrics.balanced_accuracy(named([0, 0, 0, 2], [0, 0, 1, 2])) == pytest.approx(5 / 6)
