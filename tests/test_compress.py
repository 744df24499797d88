"""Tests for the room `compress`."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from squeezenext import evaluate, labels
from squeezenext.compress import allocation, making, report
from squeezenext.compress import command as compress_command
from squeezenext.config import io as config_io
from squeezenext.config import recipes
from squeezenext.errors import InputError, NotFinite
from squeezenext.formats import variables as variables_
from squeezenext.model import checkpoint, loading
from squeezenext.network import graph
from squeezenext.predict.predictor import Predictor
from squeezenext.sqz import file as sqz
from squeezenext.sqz.kernels import Shared
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model directory of a grouped network with random weights, made without TensorFlow."""
    folder = tmp_path_factory.mktemp("model")
    folder.joinpath("config.json").write_text(config_io.to_json(tiny.SQUEEZENEXT))
    labels.write(folder / "labels.json", [labels.Label(f"n{i}", f"n{i}") for i in (1, 2, 3)])
    rng, arrays = np.random.default_rng(0), {}
    for name, shape in variables_.shapes(tiny.SQUEEZENEXT).items():
        arrays[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        if name.endswith("/kernel"):
            arrays[name] = rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
    arrays = variables_.complete(tiny.SQUEEZENEXT, arrays, "the test")
    checkpoint.save(folder / "checkpoints", 1, arrays, {})
    return folder


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    from squeezenext.convert import command as convert

    photos, out = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("data") / "records"
    for number in range(20):
        folder = photos / f"n{number % 3 + 1}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(tiny.jpeg(number, number % 3 + 1))
    arguments = ["--layout=folder", f"--source={photos}", f"--output={out}", "--workers=1"]
    assert convert.main(["convert", *arguments]) == 0
    return out


def command(model, output, *more) -> int:
    return compress_command.main(["compress", f"--model_dir={model}", f"--output={output}", *more])


def document(capsys):
    return json.loads(capsys.readouterr().out)


def test_losslessly(model, tmp_path, capsys):
    output = tmp_path / "model.sqz"
    assert command(model, output, "--lossless", "--json") == 0
    told = document(capsys)
    assert told["bytes"] == output.stat().st_size and told["accuracy"] is None
    assert all(row["error"] == 0 for row in told["layers"])
    folded = graph.fold(tiny.SQUEEZENEXT, checkpoint.load(model / "checkpoints", 1)[0])
    found = sqz.read(output).weights
    for name, array in folded.items():
        np.testing.assert_array_equal(found[name], array)


def test_within_a_budget(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(making, "PROBES", 4)
    monkeypatch.setattr(allocation, "LOST", 50.0)  # a tiny network is soon another
    output = tmp_path / "model.sqz"
    budget = 2600
    assert command(model, output, f"--max_bytes={budget}", "--json") == 0
    told = document(capsys)
    assert told["bytes"] == output.stat().st_size <= budget
    assert sum(row["weights"] for row in told["layers"]) == sum(
        int(np.prod(s)) for n, s in variables_.shapes(tiny.SQUEEZENEXT).items() if "kernel" in n
    )
    assert command(model, output, "--max_bytes=300") == 2
    told = capsys.readouterr().err
    assert "--max_bytes 300 is too little" in told and "Retrain it (--num_epochs with" in told


def test_with_photographs_accuracy_is_told(model, records, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(making, "PROBES", 4)
    output = tmp_path / "model.sqz"
    assert command(model, output, f"--data_dir={records}") == 0
    out = " ".join(capsys.readouterr().out.split())  # however wide the terminal is
    assert "top-1 on" in out and "stem" in out and f"{output.stat().st_size:,} bytes" in out
    predictor = Predictor(output)
    assert [label.synset for label in predictor.labels] == ["n1", "n2", "n3"]
    scored = evaluate.evaluate(model_dir=output, data_dir=records)
    accuracy = compress_command.compress(model, output, compress_command.Method(), records)[
        "accuracy"
    ]
    assert accuracy["split"] == "validation"
    assert accuracy["after"] == pytest.approx(scored.summary()["top1"])


def ways(model, monkeypatch, plain, retrained):
    """Stand-ins of the two ways to a budget: each so many nats away, or what it raises."""
    exact = compress_command.Method(lossless=True)
    network, made = loading.load(model), {}
    for name, nats in (("plain", plain), ("retrained", retrained)):
        weights = dict(network.weights)
        weights["classifier/kernel"] = weights["classifier/kernel"] * (2 if name == "plain" else 3)
        other = dataclasses.replace(network, weights=weights)
        file = dataclasses.replace(
            making._losslessly(other, exact), nats=nats, retrained=name == "retrained"
        )
        made[name] = nats if isinstance(nats, Exception) else file

    def way(name):
        def give(*_):
            if isinstance(made[name], Exception):
                raise made[name]
            return made[name]

        return give

    monkeypatch.setattr(making, "PROBES", 1)
    monkeypatch.setattr(making, "_without_training", way("plain"))
    monkeypatch.setattr(making, "_retrained", way("retrained"))
    return made


@pytest.mark.parametrize("nearer", ["plain", "retrained"])
def test_the_nearer_of_shared_and_retrained_is_kept(
    model, records, tmp_path, capsys, monkeypatch, nearer
):
    """Whatever is right more often on the images that then score it: those have no part in it."""
    nats = {"plain": 0.2, "retrained": 0.2} | {nearer: 0.1}
    found = ways(model, monkeypatch, **nats)
    looked_at = []

    def answers(model, weights, *_):
        looked_at.append(weights)
        right = weights is not found[nearer].weights
        return np.array([(1, 1), (2, 2 if right else 0)])

    monkeypatch.setattr(report, "_floats", lambda model, weights: weights)
    monkeypatch.setattr(report, "answers", answers)
    output = tmp_path / "model.sqz"
    arguments = [f"--data_dir={records}", "--num_epochs=2", "--max_bytes=2600", "--json"]
    assert command(model, output, *arguments) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["retrained"] == (nearer == "retrained")
    assert output.read_bytes() == found[nearer].encoded.data
    assert told["accuracy"]["after"] == 0.5 and len(looked_at) == 2  # before, and of what is kept
    assert ("The file without retraining is kept" in captured.err) == (nearer == "plain")


@pytest.mark.parametrize(
    "fault", [NotFinite("Not finite."), allocation.BudgetTooSmall("Others."), InputError("Far.")]
)
def test_a_retraining_that_fails_costs_nothing_that_is_done(
    model, records, tmp_path, capsys, monkeypatch, fault
):
    found = ways(model, monkeypatch, plain=0.2, retrained=fault)
    output = tmp_path / "model.sqz"
    arguments = [f"--data_dir={records}", "--num_epochs=2", "--max_bytes=2600"]
    assert command(model, output, *arguments) == 0
    assert output.read_bytes() == found["plain"].encoded.data
    assert f"{fault} The file without retraining is kept" in capsys.readouterr().err
    ways(model, monkeypatch, plain=0.2, retrained=fault)
    monkeypatch.setattr(making, "_without_training", lambda *_: None)
    assert command(model, tmp_path / "b.sqz", *arguments) == (1 if "finite" in str(fault) else 2)
    assert not (tmp_path / "b.sqz").exists()


def test_a_retrained_network_of_other_answers_is_refused(
    model, records, tmp_path, capsys, monkeypatch
):
    """Pruning has ruined it, and what is left of it is shared faithfully."""
    from squeezenext.compress import retraining

    def ruin(config, arrays, *_):
        name = "model/classifier/kernel"
        return {**arrays, name: -20 * arrays[name]}

    monkeypatch.setattr(making, "PROBES", 4)
    monkeypatch.setattr(retraining, "prune", ruin)
    kept = lambda config, weights, kernels, reader: (kernels, weights)  # noqa: E731
    monkeypatch.setattr(retraining, "train_values", kept)
    output = tmp_path / "model.sqz"
    arguments = [f"--data_dir={records}", "--num_epochs=2"]
    assert command(model, output, *arguments) == 2
    told = capsys.readouterr().err
    assert "the network's answers are others" in told and "with more --num_epochs" in told
    assert not output.exists()


def test_the_retraining_is_the_same_however_the_network_was_trained():
    """Of `fine_tune`: three times the classifier's rate, smoothed labels, another power."""
    found = [
        compress_command.Method(epochs=8.0).recipe(config, "teacher").training
        for config in (tiny.SQUEEZENET, recipes.apply("fine_tune", tiny.SQUEEZENET))
    ]
    norms = {"batch_norm_momentum": 0.9, "synchronized_batch_norm": False}
    assert dataclasses.replace(found[0], **norms) == dataclasses.replace(found[1], **norms)


def test_retrained(model, records, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(making, "PROBES", 4)
    monkeypatch.setattr(allocation, "LOST", 50.0)
    monkeypatch.setattr(making, "_without_training", lambda *_: None)
    output = tmp_path / "model.sqz"
    arguments = [f"--data_dir={records}", "--num_epochs=4", "--density=0.4", "--max_bytes=2600"]
    recipe = ["--set=training.batch_size=4", "--set=training.learning_rate=0.0055", "--json"]
    assert command(model, output, *arguments, *recipe) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["bytes"] == output.stat().st_size <= 2600
    weights = sum(row["weights"] for row in told["layers"])
    kept = sum(row["weights"] * row["density"] for row in told["layers"])
    assert told["retrained"] and told["values_trained"]
    assert kept / weights < 0.5 and told["accuracy"]["images"] > 0
    assert "Pruning to 40%" in captured.err and "Training the codebooks" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_epochs=2"], "--num_epochs needs --data_dir"),
        (["--lossless", "--num_epochs=2", "--data_dir=/x"], "drop one"),
        (["--lossless", "--max_bytes=100"], "losslessly this network takes"),
        (["--max_bytes=0"], "--max_bytes 0: must be positive"),
        (["--num_epochs=nan", "--data_dir=/x"], "--num_epochs nan: must be"),
        (["--output=."], "must end in .sqz"),
        (["--density=0"], "--density 0.0"),
        (["--density=0.5"], "--density means nothing without --num_epochs"),
        (
            ["--set=training.learning_rate=0.1"],
            "--set training.learning_rate=0.1 means nothing without --num_epochs",
        ),
        (["--images=9"], "--images means nothing without --data_dir"),
        (["--coder=huffman"], "coder"),
        (["--output=model.net"], "must end in .sqz"),
        (["--model_dir=/nowhere"], "no model directory /nowhere"),
        (["--data_dir=/nowhere"], "/nowhere"),
        (["more"], "Unexpected argument"),
    ],
)
def test_bad_use(model, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(making, "PROBES", 1)
    assert command(model, tmp_path / "model.sqz", *arguments) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_retrained_and_that_is_said_before_any_work(
    model, records, tmp_path, capsys, monkeypatch
):
    file = tmp_path / "model.sqz"
    compress_command.compress(model, file, compress_command.Method(lossless=True))
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("It was loaded."))
    more = [f"--data_dir={records}", "--num_epochs=2"]
    assert command(file, tmp_path / "again.sqz", *more) == 2
    assert "is a file, give the directory" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_found_before_any_work(model, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert command(model, tmp_path / "file" / "model.sqz") == 2
    assert "cannot be written there" in capsys.readouterr().err


def test_what_a_coder_lost_is_not_kept(model, tmp_path, monkeypatch):
    """A fault of the coder itself: every value comes out twice as large."""
    encode = sqz.encode

    def broken(model, kernels, *others):
        return encode(model, {n: 2 * k for n, k in kernels.items()}, *others)

    monkeypatch.setattr(sqz, "encode", broken)
    with pytest.raises(RuntimeError, match="was not kept"):
        compress_command.compress(
            model, tmp_path / "model.sqz", compress_command.Method(lossless=True)
        )
    assert not list(tmp_path.iterdir())


def test_accuracy_is_never_of_training_images(model, tmp_path):
    """Data without another split: none is told."""
    payloads = [tiny.payload(number, number % 3 + 1) for number in range(4)]
    trained_on, said = tiny.data_set(tmp_path / "records", "train", payloads), []
    method = compress_command.Method(lossless=True)
    told = compress_command.compress(model, tmp_path / "a.sqz", method, trained_on, log=said.append)
    assert told["accuracy"] is None and "accuracy is not measured" in said[0]


def test_data_without_a_training_split_are_refused_before_any_work(model, tmp_path, capsys):
    tested = tiny.data_set(tmp_path / "records", "validation", [tiny.payload(0, 1)])
    more = [f"--data_dir={tested}", "--num_epochs=2", "--max_bytes=2600"]
    assert command(model, tmp_path / "a.sqz", *more) == 2
    told = capsys.readouterr().err
    assert "has no train split" in told and len(told.splitlines()) == 1


def test_a_recipe_that_cannot_be_is_refused_before_any_work(model, records, tmp_path, capsys):
    more = [f"--data_dir={records}", "--num_epochs=2", "--max_bytes=2600", "--set=training.typo=1"]
    assert command(model, tmp_path / "a.sqz", *more) == 2
    told = capsys.readouterr().err
    assert "typo" in told and len(told.splitlines()) == 1


def test_a_file_keeps_the_fitted_temperature(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "calibration.json").write_text('{"temperature": 1.75}')
    compress_command.compress(folder, tmp_path / "a.sqz", compress_command.Method(lossless=True))
    assert sqz.read(tmp_path / "a.sqz").temperature == 1.75


def test_trained_values_that_need_more_are_told_of(model, records, tmp_path, capsys, monkeypatch):
    from squeezenext.compress import retraining

    monkeypatch.setattr(making, "PROBES", 4)
    monkeypatch.setattr(allocation, "LOST", 50.0)

    def apart(config, weights, kernels, reader):
        """Every weight a value of its own."""
        rng, grown = np.random.default_rng(0), {}
        for name, kernel in kernels.items():
            grown[name] = Shared.of(kernel.values + rng.normal(size=kernel.codes.shape))
        return grown, weights

    monkeypatch.setattr(retraining, "train_values", apart)
    monkeypatch.setattr(retraining, "prune", lambda config, arrays, *_: arrays)
    monkeypatch.setattr(making, "_without_training", lambda *_: None)
    arguments = [f"--data_dir={records}", "--num_epochs=4", "--max_bytes=1500", "--json"]
    assert command(model, tmp_path / "model.sqz", *arguments) == 0
    told = capsys.readouterr()
    assert "those before training are kept" in told.err
    found = json.loads(told.out)
    assert found["retrained"] and not found["values_trained"]
    assert (tmp_path / "model.sqz").stat().st_size <= 1500


class Line:
    """A trial whose size and answers follow a law of the price."""

    def __init__(self, slope):
        self.encoded = sqz.Encoded(bytes(int(1e4 * slope**-0.3)), {})
        self.nats, self.information = 1e5 * slope, 1.0


def test_the_price_is_found_in_few_trials(monkeypatch):
    tried = []

    def attempt(slope):
        tried.append(slope)
        return Line(slope)

    for budget in (500_000, 1_000_000, 5_000_000):
        tried.clear()
        found = allocation._fitting(attempt, budget)
        assert 0.99 * budget <= len(found.encoded.data) <= budget and len(tried) <= 8
    tried.clear()
    found = allocation._nearest(attempt)
    assert 0.9 * allocation.NEAR <= found.nats <= allocation.NEAR and len(tried) <= 8
    with pytest.raises(InputError, match="too little"):
        allocation._fitting(attempt, 80_000)


def test_a_network_that_hardly_looks_at_the_image_is_refused_with_the_least_that_works():
    """Its answers move little: a network that names all classes alike is not far from doubtful."""

    def attempt(slope):
        trial = Line(slope)
        trial.nats, trial.information = 0.5, 1.0 if slope < 1e-5 else 0.01
        return trial

    said = []
    for budget in (100_000, 200_000):
        with pytest.raises(allocation.BudgetTooSmall, match="hardly depend on the image") as told:
            allocation._fitting(attempt, budget)
        said.append(
            int(re.search(r"([\d,]+) is the least that works", str(told.value))[1].replace(",", ""))
        )
    assert said[0] == said[1] > 200_000
    found = allocation._fitting(attempt, said[0])
    assert len(found.encoded.data) <= said[0] and not allocation.lost(found)


def test_answers_that_no_price_keeps_are_refused():
    def attempt(slope):
        trial = Line(slope)
        trial.nats = 0.5
        return trial

    with pytest.raises(InputError, match="keeps its answers within 0.02 nats"):
        allocation._nearest(attempt)


def test_missing_flags(capsys):
    assert (
        compress_command.main(["compress"]) == 2
        and "--model_dir is missing" in capsys.readouterr().err
    )
