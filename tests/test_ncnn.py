"""Tests for `squeezenext/export/ncnn.py`: every kind of network, run by ncnn itself."""

import json
import sys

import numpy as np
import pytest

from squeezenext.export import ncnn
from squeezenext.formats import ncnn as importer
from squeezenext.labels import Label
from squeezenext.network import graph
from squeezenext.network.model import Model
from tests import foreign_files, tiny
from tests.test_export import KINDS, command, made


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_ncnn_answers_as_the_model(tmp_path, kind, precision):
    """The command itself compares; a temperature, which flattens, is in the files."""
    pytest.importorskip("ncnn", reason="requirements-ncnn.txt is not installed")
    (tmp_path / "model").mkdir()
    folder, out = made(tmp_path / "model", KINDS[kind]), tmp_path / "out"
    for temperature in (1.0, 3.0):
        (folder / "calibration.json").write_text(json.dumps({"temperature": temperature}))
        assert command(folder, out, "ncnn", f"--precision={precision}") == 0
    assert {path.name for path in out.iterdir()} == {
        "model.param", "model.bin", "squeezenext.json", "MODEL_CARD.md"
    }  # fmt: skip
    assert json.loads((out / "squeezenext.json").read_text())["precision"] == precision


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_our_importer_reads_what_is_exported(precision):
    """Its weights are of float16 already; the pixels' mean is a part of the first layer's bias."""
    config = foreign_files.SQUEEZENET
    weights = graph.fold(config, foreign_files.trained(config))
    labels = tuple(Label(name, name) for name in "abc")
    param, content = ncnn.ncnn_files(Model("a", config, labels, weights), precision)
    found, notes = importer.decode(param.encode(), content, config, "a.param")
    assert not notes
    for name, array in weights.items():
        if not name.startswith("conv1/"):
            np.testing.assert_array_equal(found[f"model/{name}"], array)


def test_a_folder_of_something_else_and_a_missing_package_are_said(tmp_path, capsys, monkeypatch):
    (tmp_path / "model").mkdir()
    folder, out = made(tmp_path / "model", tiny.SQUEEZENET), tmp_path / "out"
    monkeypatch.setitem(sys.modules, "ncnn", None)
    assert command(folder, out, "ncnn") == 2 and not out.exists()
    assert "package ncnn is not installed" in capsys.readouterr().err
    out.mkdir()
    (out / "model.param").write_text("7767517")  # somebody's own
    assert command(folder, out, "ncnn") == 2
    assert "holds something else" in capsys.readouterr().err
    assert (out / "model.param").read_text() == "7767517"
