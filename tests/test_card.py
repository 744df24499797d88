"""Tests for `card.py`: a card with front matter beside every model."""

import json

import pytest

from squeezenext import card, config_io, labels
from squeezenext.errors import InputError
from tests import tiny

FINAL = {"step": 10, "epoch": 2.0, "examples_seen": 80, "top1": 0.75, "top5": 1.0, "loss": 0.5}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text(config_io.to_json(tiny.SQUEEZENEXT))
    names = ["cat", "a\n# heading", "<b>dog</b> | [x](y)"]
    labels.write(folder / "labels.json", [labels.Label(f"n{i}", x) for i, x in enumerate(names)])
    (folder / "model_stats.csv").write_text(
        "layer,kind,output,parameters,macs\ntotal,,,1234,5600000\n"
    )
    (folder / "model.tflite").write_bytes(bytes(4321))
    return folder


def front_matter(text):
    start, matter, body = text.split("---\n", 2)
    assert start == "" and body.startswith("\n#")
    return matter, body


def test_a_trained_model(model):
    (model / "final.json").write_text(json.dumps(FINAL))
    matter, body = front_matter(card.write(model).read_text())
    assert "value: 0.750000" in matter and 'name: "my model"' in matter
    for told in ("1,234 parameters", "6 million", "`model.tflite`: 4,321 bytes", "2 epochs",
                 "top-1 75.00 %", "RGB", "mean (128, 128, 128)", "## Limits"):  # fmt: skip
        assert told in body
    assert "\n# heading" not in body and "a \\# heading" in body
    assert "\\<b\\>dog" in body and "\\[x\\](y)" in body


def test_a_model_without_figures(model):
    matter, body = front_matter(card.write(model).read_text())
    assert "model-index" not in matter and "Not measured here yet" in body
    (model / "final.json").write_text(json.dumps(FINAL | {"top1": None, "top5": None}))
    assert "Not measured here yet" in card.write(model).read_text()


def test_imported_weights_name_their_source(model):
    from squeezenext import checkpoint

    source = {"format": "ncnn", "files": {"a.param": "0", "a.bin": "1"}, "licence": "BSD: (x)"}
    checkpoint.save(model / "checkpoints", 0, {}, {"imported": source | {"url": "https://a.b/c"}})
    matter, body = front_matter(card.write(model).read_text())
    assert 'license_name: "BSD: (x)"' in matter
    assert "`a.param`, `a.bin` (https://a.b/c), licence: BSD: (x)" in body


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(InputError, match="config.json"):
        card.write(tmp_path)
