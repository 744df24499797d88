"""Commands from the outside: help, bad use, plain output. What they do, test_docs.py follows."""

import importlib
import json

import pytest

from squeezenext import stats


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_dir", "/nowhere", "--data_dir", "/nowhere"], "/nowhere is no folder"),
        (["--model_dir", "/tmp", "--data_dir", "/nowhere"], "/nowhere"),
        (["--data_dir", "/tmp"], "--model_dir is missing"),
    ],
)
def test_bad_use_of_evaluate(arguments, message, capsys):
    from squeezenext import evaluate

    assert evaluate.main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_stats_prints_json_and_writes_csv(tmp_path, capsys):
    path = tmp_path / "stats.csv"
    arguments = ["--configuration", "v_1_0_SqNxt_23", "--json", "--csv", str(path)]
    assert stats.main(["stats", *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["parameters"] == 717_280 and document["macs"] == pytest.approx(278e6, rel=1e-3)
    rows = path.read_text().splitlines()
    assert rows[0] == "layer,kind,output,parameters,macs"
    assert rows[-1] == f"total,,,{document['parameters']},{document['macs']}"


@pytest.mark.parametrize(
    "name",
    ["squeezenext.train", "squeezenext.evaluate", "squeezenext.stats", "squeezenext.weights",
     "datasets.convert", "datasets.verify", "datasets.digits", "squeezenext.predict"],
)  # fmt: skip
def test_every_command_has_help(name, capsys):
    assert importlib.import_module(name).main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "python" in out and "--" in out and "Show this text" in out
