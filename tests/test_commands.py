"""Commands from the outside: help, bad use, plain output. What they do, test_docs.py follows."""

import importlib
import json
import os
import subprocess

import pytest

from squeezenext import stats
from tests.conftest import REPOSITORY


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


@pytest.mark.parametrize(
    ("flags", "data_dir", "expected"),
    [
        ("", "", "--configuration quickstart --data_dir data/digits/tf-records"),
        ("--seed 3", "", "--configuration quickstart --data_dir data/digits/tf-records"),
        ("--data_dir D", "", "--configuration v_1_0_SqNxt_23 --model_dir runs/v_1_0_SqNxt_23"),
        ("--training_file_pattern=X --configuration C", "", "--configuration C --model_dir runs/C"),
        ("--data_dir D", "/nowhere", "--configuration v_1_0_SqNxt_23 --model_dir"),
        ("--seed 3", ".", "--configuration v_1_0_SqNxt_23 --data_dir ./tf-records --model_dir"),
    ],
)
def test_run_train_takes_the_digits_only_where_no_records_are_named(
    tmp_path, flags, data_dir, expected
):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text('#!/bin/sh\necho "$@"\n')  # says what it is asked for
    (tmp_path / "bin" / "python").chmod(0o755)
    environment = os.environ | {"VIRTUAL_ENV": str(tmp_path), "DATA_DIR": data_dir}
    done = subprocess.run(
        ["bash", str(REPOSITORY / "run_train.sh"), *flags.split()],
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = [line for line in done.stdout.splitlines() if line.startswith("-m squeezenext")]
    assert asked[0].startswith(f"-m squeezenext.train {expected}")
    assert asked[0].endswith(flags)
    assert ("squeezenext.evaluate" in done.stdout) == ("digits" in expected)
