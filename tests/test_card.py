"""Tests for `card.py`: a card with front matter beside every model."""

import json

import pytest

from squeezenext import labels
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.model import card
from squeezenext.model import directory as model_directory
from tests import tiny

FINAL = {"step": 10, "epoch": 2.0, "examples_seen": 80, "top1": 0.75, "top5": 1.0, "loss": 0.5}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "my_model"
    folder.mkdir()
    (folder / "config.json").write_text(config_io.to_json(tiny.SQUEEZENEXT))
    names = ["cat", "a # heading", "<b>dog</b> | [x](y)"]
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
    assert "value: 0.750000" in matter and 'name: "my_model"' in matter
    for told in ("1,234 parameters", "6 million", "`model.tflite`: 4,321 bytes", "2 epochs",
                 "top-1 75.00 %", "RGB", "mean (128, 128, 128)", "## Limits",
                 "# my\\_model\n", "--model_dir my_model\n"):  # fmt: skip
        assert told in body
    assert "\n# heading" not in body and "a \\# heading" in body
    assert "\\<b\\>dog" in body and "\\[x\\](y)" in body


def test_an_adapted_model_tells_its_photographs_base_and_each_file_s_score(model):
    base = {"model": "squeezenet_v1_1", "licence": "BSD (x_y)"}
    (model / "final.json").write_text(json.dumps(FINAL | {"fine_tuned_from": base}))
    (model / "exported").mkdir()
    for name in ("model-int8.tflite", "model.sqz"):
        (model / "exported" / name).write_bytes(bytes(1000))
    scores = {
        "split": "test",
        "images": {"train": 3068, "validation": 341, "test": 372},
        "network": {"top1": 0.85, "top5": 1.0, "loss": 0.4, "examples": 372},
        "files": {"exported/model.sqz": {"top1": 0.845}},
    }
    (model / model_directory.SCORES).write_text(json.dumps(scores))
    matter, body = front_matter(card.write(model).read_text())
    assert "value: 0.850000" in matter and '"test photographs"' in matter
    for told in (
        "- `exported/model-int8.tflite`: 1,000 bytes\n",
        "- `exported/model.sqz`: 1,000 bytes, top-1 84.50 %\n",
        "squeezenet\\_v1\\_1 (licence: BSD (x\\_y)).",
        "3,068 train, 341 validation, 372 test",
        "On the test split (372 images), which was not used in training",
    ):
        assert told in body


def test_a_model_without_figures(model):
    matter, body = front_matter(card.write(model).read_text())
    assert "model-index" not in matter and "Not measured yet" in body
    (model / "final.json").write_text(json.dumps(FINAL | {"top1": None, "top5": None}))
    assert "Not measured yet" in card.write(model).read_text()


def test_imported_weights_name_their_source(model):
    from squeezenext.model import checkpoint

    source = {"format": "ncnn", "files": {"a.param": "0", "a.bin": "1"}, "licence": "BSD: (x)"}
    checkpoint.save(model / "checkpoints", 0, {}, {"imported": source | {"url": "https://a.b/c"}})
    matter, body = front_matter(card.write(model).read_text())
    assert 'license_name: "BSD: (x)"' in matter
    assert "`a.param`, `a.bin` (https://a.b/c), licence: BSD: (x)" in body


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(InputError, match="config.json"):
        card.write(tmp_path)


@pytest.mark.parametrize("field", ["licence", "url", "files"])
def test_a_stranger_s_words_are_plain_text(model, field):
    """A forged heading, a script, a link: none is one in the card."""
    from squeezenext.model import checkpoint

    forged = "MIT\n\n# Certified\n<script>x</script> [pay](http://x) `\x1b[2J"
    source = {"files": {"a.bin": "0"}, "licence": "BSD", "url": "https://a.b/c"}
    source[field] = {forged: "0"} if field == "files" else forged
    checkpoint.save(model / "checkpoints", 0, {}, {"imported": source})
    _, body = front_matter(card.write(model).read_text())
    lines = [line for line in body.splitlines() if "Certified" in line]
    assert len(lines) == 1 and not lines[0].startswith("#") and "\x1b" not in body
    if field == "files":
        assert "`MIT # Certified <script>x</script> [pay](http://x) '\\x1b[2J`" in lines[0]
    else:
        assert "<script>" not in lines[0] and "[pay]" not in lines[0]


def test_a_figure_that_is_no_number_is_named(model):
    (model / "final.json").write_text(json.dumps(FINAL | {"top1": "<b>"}))
    with pytest.raises(InputError, match="holds figures that are no numbers"):
        card.write(model)
