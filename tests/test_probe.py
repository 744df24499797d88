"""The first answer: a linear classifier on a network's features, and what is kept of it."""

import dataclasses

import numpy as np
import pytest

from squeezenext.adapt import probe
from squeezenext.adapt.probe import Examples
from squeezenext.errors import InputError
from squeezenext.model import card, checkpoint, loading
from squeezenext.model import directory as model_directory
from squeezenext.network import graph
from squeezenext.predictor import Predictor
from squeezenext.records import example
from squeezenext.records.dataset import find_dataset
from tests import records, tiny


def payload(number: int, label: int) -> bytes:
    """A record whose image tells its class."""
    image = tiny.jpeg(number, label)
    name = f"n{label}"
    one = example.ImageExample(image, 48, 48, label, name, name, f"{number}.jpg")
    return records.encode_example(dict(records.example_features(one)))


@pytest.fixture(scope="module", params=[tiny.SQUEEZENET, tiny.SQUEEZENEXT], ids=["conv", "dense"])
def made(request, tmp_path_factory):
    """(data set, the network's directory, the first answer's directory, its top-1)."""
    folder = tmp_path_factory.mktemp("probe")
    tiny.model_directory(folder / "source", request.param)
    payloads = [payload(number, 1 + number % 3) for number in range(24)]
    found = find_dataset(tiny.data_set(folder / "records", "train", payloads), None, None)
    found = dataclasses.replace(found, splits={"validation": found.splits["train"], **found.splits})
    top1 = probe.make(folder / "preview", str(folder / "source"), found)
    return found, folder / "source", folder / "preview", top1


def test_the_network_answers_as_the_linear_classifier(made):
    """A ReLU behind it, as SqueezeNet's, cuts off single positions of a map, but no whole logit."""
    found, _, preview, top1 = made
    split, predictor = found.splits["train"], Predictor(preview)
    features = probe.gather(preview, split, 24)
    arrays = loading.variables(preview)
    name = graph.of(model_directory.read_config(preview)).weighted[-1].name
    kernel = arrays[f"model/{name}/kernel"].reshape(features.values.shape[1], 3)
    logits = features.values @ kernel + arrays.get(f"model/{name}/bias", 0)
    actual, labels = probe.viewed(predictor, split, 24, lambda view: np.log(view.probabilities))
    assert labels.tolist() == features.labels.tolist()
    assert min(top1, (actual.argmax(1) == labels).mean()) > 0.9  # of what it was fitted to
    if name == "classifier":
        wanted = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        np.testing.assert_allclose(actual, wanted, atol=1e-3)


def test_it_is_made_once_for_a_network(made, tmp_path):
    found, source, preview, _ = made
    assert probe.make(preview, str(source), found) is None
    assert card.imported(preview)["model"] == "source"
    other = tmp_path / "other"
    other.symlink_to(source)
    before = (preview / "model.tflite").read_bytes()
    assert probe.make(preview, str(other), found) is not None  # of another name: made anew
    assert (preview / "model.tflite").read_bytes() == before
    assert card.imported(preview)["model"] == "other"


def test_the_network_whose_features_tell_the_classes_apart_is_chosen(made, tmp_path, capsys):
    found, source, _, _ = made
    blind = tmp_path / "blind"  # all its features are equal
    config, classes = model_directory.read(source)
    arrays = {name: np.zeros_like(array) for name, array in loading.variables(source).items()}
    model_directory.write(blind, config, classes)
    checkpoint.save(blind / "checkpoints", 0, arrays, {"imported": {}})
    networks = (str(blind), str(source))
    assert probe.choose(tmp_path / "preview", networks, found) == str(source)
    assert "Cross-validated top-1 of" in capsys.readouterr().err
    probe.make(tmp_path / "preview", str(blind), found)  # what an earlier start had chosen
    assert probe.choose(tmp_path / "preview", networks, found) == str(blind)
    assert probe.choose(tmp_path / "none", networks[1:], found) == str(source)


def clusters(counts: tuple[int, ...]) -> Examples:
    """Two overlapping clusters of features >= 0, and a channel that says nothing."""
    chance = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts)
    values = np.abs(chance.normal(3, 1, (len(labels), 4)))
    values[:, 0] += 2 * labels
    values[:, 3] = 7.0
    return Examples(values.astype(np.float32), labels)


def test_adjusted_logits_name_no_class_for_its_frequency(monkeypatch):
    monkeypatch.setattr(probe, "ADJUSTMENT", 1.0)  # enough for features as few as these
    train, even = clusters((200, 20)), clusters((500, 500))

    def recall(adjusted: bool) -> np.ndarray:
        kernel, bias = probe.fit_classifier(train, 2, adjusted=adjusted)
        right = np.argmax(even.values @ kernel + bias, 1) == even.labels
        return right.reshape(2, 500).mean(1)

    assert recall(False)[0] - recall(False)[1] > 0.25
    assert abs(np.subtract(*recall(True))) < 0.2 and recall(True).mean() > recall(False).mean()


def test_the_adjustment_is_stronger_than_the_frequencies():
    """It fails with strength 1, which left too much of the larger classes on photographs."""
    train = clusters((200, 20))
    bias = [probe.fit_classifier(train, 2, adjusted=adjusted)[1] for adjusted in (False, True)]
    np.testing.assert_allclose(np.diff(bias[1] - bias[0]), 1.25 * np.log(10), rtol=1e-4)


@pytest.mark.parametrize("balanced", [False, True])
def test_each_class_counts_as_much_in_a_balanced_loss(monkeypatch, made, balanced):
    found, _, preview, _ = made
    labels = np.array([0] * 8 + [2] * 2)
    logits = np.array([[2.0, 0, 1]] * 7 + [[0.0, 1, 1]] + [[1.0, 0, 0], [0, 0, 1]], np.float32)
    monkeypatch.setattr(probe, "viewed", lambda *_: (logits, labels))
    monkeypatch.setattr(probe.metrics, "fit_temperature", lambda *_: 1.0)
    scores = probe.scores(preview, found.splits["train"], 10, balanced=balanced)
    each = np.log(np.exp(logits).sum(1)) - logits[range(10), labels]
    wanted = (each[:8].mean() + each[8:].mean()) / 2 if balanced else each.mean()
    assert scores["fitted_loss"] == pytest.approx(wanted)
    assert scores["loss"] == pytest.approx(each.mean())


@pytest.mark.parametrize("counts", [(20, 20), (20, 20, 20)])
def test_a_class_without_photographs_is_never_named(counts):
    train = clusters(counts)
    kernel, bias = probe.fit_classifier(train, len(counts) + 1)
    logits = train.values @ kernel + bias
    assert logits[:, :-1].min() > -1e-3 and not logits[:, -1].any()
    assert (logits.argmax(1) == train.labels).mean() > 0.7


def test_a_stranger_s_folder_of_its_name_stays(made, tmp_path):
    found, source, _, _ = made
    (tmp_path / "preview").mkdir()
    (tmp_path / "preview" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match="holds other files"):
        probe.make(tmp_path / "preview", str(source), found)
    assert (tmp_path / "preview" / "holiday.jpg").read_bytes() == b"mine"


def test_photographs_of_one_class_are_refused(made, tmp_path):
    found, source, _, _ = made
    payloads = [payload(number, 2) for number in range(4)]
    one = find_dataset(tiny.data_set(tmp_path / "records", "train", payloads), None, None)
    one = dataclasses.replace(one, splits={"validation": found.splits["train"], **one.splits})
    with pytest.raises(InputError, match="only those of n2 can be read"):
        probe.make(tmp_path / "preview", str(source), one)
