"""Commands from the outside: help, bad use, plain output. What they do, test_docs.py follows."""

import errno
import importlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from squeezenext import cli, compress, evaluate, export, stats
from squeezenext.compress.method import Method
from squeezenext.convert import command
from squeezenext.convert.options import ConvertOptions
from squeezenext.predictor import Predictor
from squeezenext.records import dataset
from squeezenext.train.options import Options
from tests import tiny
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


def test_a_place_that_cannot_be_written_is_a_sentence():
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), "/ro/stats.csv")
    wanted = "/ro/stats.csv: Read-only file system; name another place, or change its rights."
    assert cli.sentence(error) == (wanted, 2)


@pytest.mark.parametrize(
    "name",
    ["squeezenext.train", "squeezenext.evaluate", "squeezenext.stats", "squeezenext.weights",
     "datasets.convert", "datasets.verify", "squeezenext.convert.digits", "squeezenext.predict"],
)  # fmt: skip
def test_every_command_has_help(name, capsys):
    assert importlib.import_module(name).main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "python" in out and "--" in out and "Show this text" in out


@pytest.mark.parametrize(
    ("given", "data_dir", "wanted"),
    [
        ([], None, "--configuration quickstart --data_dir data/digits/tf-records --model_dir "
         "runs/quickstart"),
        (["--num_epochs=1"], None, "--model_dir runs/quickstart --num_epochs=1"),
        (["--configuration", "quickstart"], None, "--model_dir runs/quickstart --configuration"),
        (["--configuration", "sqnxt"], None, None),  # DATA_DIR is set and not exported
        (["--configuration=sqnxt", "--data_dir=D"], None, "train --configuration sqnxt --model_dir "
         "runs/sqnxt --configuration=sqnxt --data_dir=D"),
        (["--training_file_pattern", "X/train-*"], None, "train --configuration v_1_0_SqNxt_23 "
         "--model_dir runs/v_1_0_SqNxt_23 --training_file_pattern X/train-*"),
        (["--configuration", "sqnxt"], "here", "train --configuration sqnxt --data_dir "
         "here/tf-records --model_dir runs/sqnxt"),
        (["--training_file_pattern", "X"], "here", "--configuration v_1_0_SqNxt_23 --model_dir"),
        ([], "absent", None),
    ],
)  # fmt: skip
def test_run_train_takes_the_digits_only_where_no_other_data_are_meant(
    tmp_path, given, data_dir, wanted
):
    """A stand-in of Python notes what it is asked; installing is asked of it, too."""
    python, noted = tmp_path / "venv/bin/python", tmp_path / "noted"
    python.parent.mkdir(parents=True)
    (tmp_path / "here").mkdir()
    python.write_text(f'#!/bin/sh\necho "$@" >> {noted}\n')
    python.chmod(0o755)
    inherited = {k: v for k, v in os.environ.items() if k not in ("DATA_DIR", "MODEL_DIR")}
    environment = inherited | {"VIRTUAL_ENV": str(tmp_path / "venv")}
    environment |= {"DATA_DIR": data_dir} if data_dir else {}
    done = subprocess.run(
        ["bash", REPOSITORY / "run_train.sh", *given],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    asked = [line for line in noted.read_text().splitlines() if "squeezenext.train" in line]
    if wanted is None:
        assert done.returncode == 2 and not asked and "DATA_DIR" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert len(asked) == 1 and wanted in asked[0]


@pytest.mark.parametrize("given", [str, Path])
def test_paths_of_functions_may_begin_with_home(tmp_path, monkeypatch, given):
    """As a shell leaves it in quotes, and as people write it in Python."""
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny.model_directory(tmp_path / "mine", tiny.SQUEEZENEXT)
    tiny.shard(tmp_path / "validation-00000-of-00001", 6)
    model = given("~/mine")
    scored = evaluate.evaluate(
        model_dir=model, validation_file_pattern="~/validation-*", batch_size=8
    )
    assert len(scored.labels) == 6
    export.export(model, "litert", given("~/a.tflite"))
    compress.compress(model, given("~/a.sqz"), Method(lossless=True))
    assert Predictor(given("~/a.sqz")).labels == Predictor(model).labels
    for place in ("train/a/0.jpg", "train/b/1.jpg", "validation/a/2.jpg", "validation/b/3.jpg"):
        path = tmp_path / "photos" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.jpeg(int(path.stem), 1))
    command.convert(given("~/photos"), given("~/records"), ConvertOptions("folder", workers=1))
    assert dataset.find_dataset(given("~/records"), None, None).splits["train"].examples == 2
    options = Options(model_dir=given("~/run"), data_dir=given("~/records"))
    assert (options.model_dir, options.data_dir) == (f"{tmp_path}/run", f"{tmp_path}/records")
    assert not (Path.cwd() / "~").exists()


def test_counts_and_commands_in_messages():
    assert [cli.plural(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert [cli.plural(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]
    assert [cli.plural(n, "file was", "files were") for n in (1, 2)] == [
        "1 file was",
        "2 files were",
    ]
    assert cli.module_command("datasets.convert") == "python -m datasets.convert"


@pytest.mark.parametrize("kind", [errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG])
def test_a_wrong_place_is_wrong_input(kind):
    sentence, code = cli.sentence(OSError(kind, os.strerror(kind), "here"))
    assert code == 2 and sentence.startswith("here: ") and "name another place" in sentence
