"""Tests for `squeezenext/evaluate.py` and `report.py`: the forms of a model agree; the page."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from squeezenext import evaluate, export, labels
from squeezenext.compress import command as compress_command
from squeezenext.errors import InputError
from squeezenext.evaluate import command, report
from squeezenext.metrics import Evaluation
from squeezenext.model import checkpoint, loading
from squeezenext.records import dataset, example, samples
from tests import browser, tiny
from tests.test_imports import HOUSE


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.model_directory(folder, tiny.SQUEEZENEXT)
    (folder / "history.csv").write_text(
        "epoch,loss,top1,validation_loss,validation_top1,learning_rate\n"
        "1,1.2,0.3,1.3,0.25,0.1\n2,0.9,0.5,,,0.05\n3,0.7,0.6,0.9,0.55,nan\n"
    )
    return folder


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "validation-00000-of-00001"
    tiny.shard(path, 37)
    return str(path)


@pytest.fixture(scope="module")
def scored(model, pattern):
    return evaluate.evaluate(model_dir=model, validation_file_pattern=pattern, batch_size=8)


def sqz_of(model, path):
    from squeezenext import labels
    from squeezenext.config import io as config_io
    from squeezenext.model import checkpoint
    from squeezenext.network import graph
    from squeezenext.network.model import Model
    from squeezenext.sqz import file as sqz

    config = config_io.read(model / "config.json")
    state, _ = checkpoint.newest(model / "checkpoints", print)
    known = labels.read(model / "labels.json")
    weights = graph.fold(config, state)
    parts = [
        {name.removesuffix(end): array for name, array in weights.items() if name.endswith(end)}
        for end in ("/kernel", "/bias")
    ]
    sqz.write(path, sqz.encode(Model("tiny", config, known, {}), *parts, wide=True).data)


def test_a_compressed_file_scores_as_the_network(model, pattern, scored, tmp_path, monkeypatch):
    sqz_of(model, tmp_path / "tiny.sqz")
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # a file is scored without it
    result = evaluate.evaluate(model_dir=tmp_path / "tiny.sqz", validation_file_pattern=pattern)
    np.testing.assert_array_equal(result.labels, scored.labels)
    np.testing.assert_array_equal(result.predicted, scored.predicted)
    np.testing.assert_allclose(result.loss, scored.loss, atol=0.02)
    np.testing.assert_allclose(result.probability, scored.probability, atol=0.01)
    assert result.summary()["top5"] == 1.0  # of three classes


def run(capsys, *arguments):
    code = evaluate.main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_devices_are_asked_for_before_averages_need_a_network(
    model, pattern, monkeypatch, tmp_path
):
    """TensorFlow can be told which devices it has only before it has used one."""
    steps = []
    from squeezenext.network import keras_model
    from squeezenext.train import devices

    for module, name in ((devices, "strategy"), (keras_model, "build_model")):
        own = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, o=own, n=name, **b: steps.append(n) or o(*a, **b)
        )
    shutil.copytree(model, copy := tmp_path / "copy")
    directory = copy / "checkpoints"
    step = checkpoint.steps(directory)[-1]
    state, meta = checkpoint.load(directory, step)
    averages = {checkpoint.average_of(name): state[name] * 0 for name in checkpoint.trained(state)}
    assert averages
    checkpoint.save(directory, step + 1, state | averages, meta)
    result = evaluate.evaluate(model_dir=copy, validation_file_pattern=pattern)
    assert steps == ["strategy", "build_model"] and np.allclose(result.probability, 1 / 3)


def test_temperature_is_stored_and_lowers_the_loss(model, pattern, scored, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    common = ("--model_dir", copy, "--validation_file_pattern", pattern, "--json")
    code, out, err = run(capsys, *common, "--fit_temperature")
    fitted = json.loads(out)
    assert code == 0 and fitted["fitted_to_these"]
    assert fitted["top1"] == scored.summary()["top1"]
    temperature = loading.load_runnable(copy).temperature
    assert temperature != 1.0
    code, out, _ = run(capsys, *common, "--report", tmp_path / "report")
    again = json.loads(out)  # now it is used without being fitted
    assert again["fitted_to_these"] and again["ece"] == pytest.approx(fitted["ece"], abs=1e-6)
    told = "The temperature was fitted to these very images"
    assert told in (tmp_path / "report" / "index.html").read_text()
    assert told in run(capsys, *common[:-1])[1]
    card = (copy / "MODEL_CARD.md").read_text()
    assert "Probabilities are calibrated" in card and "fitted to 37 images" in card
    compress_command.compress(copy, tmp_path / "a.sqz", compress_command.Method(lossless=True))
    export.export(copy, "litert", tmp_path / "a.tflite")
    for file in ("a.sqz", "a.tflite"):  # which say it as the directory does
        code, out, _ = run(capsys, "--model_dir", tmp_path / file, *common[2:])
        assert code == 0 and json.loads(out)["fitted_to_these"]
    tiny.shard(other := tmp_path / "validation-00000-of-00001", 9, first=50)
    code, out, _ = run(capsys, *common[:2], "--validation_file_pattern", other, "--json")
    assert code == 0 and not json.loads(out)["fitted_to_these"]
    code, out, _ = run(capsys, "--model_dir", tmp_path / "a.sqz", *common[2:3], other, "--json")
    assert code == 0 and not json.loads(out)["fitted_to_these"]
    code, _, err = run(capsys, "--model_dir", copy / "model.tflite", "--validation_file_pattern",
                       pattern, "--fit_temperature")  # fmt: skip
    assert code == 2 and "needs a model directory" in err
    code, _, err = run(capsys, "--model_dir", "squeezenet_v1_0", "--validation_file_pattern",
                       pattern, "--fit_temperature")  # fmt: skip
    assert code == 2 and "which every command shares" in err
    code, _, err = run(capsys, *common, "--report", copy / "config.json")
    assert code == 2 and "--report" in err
    before = sorted(copy.iterdir())
    code, _, err = run(capsys, *common, "--report", copy)
    assert code == 2 and f"holds something else ({before[0].name})" in err
    assert sorted(copy.iterdir()) == before
    code, _, err = run(capsys, *common, "--report", tmp_path / "report")  # over its own
    assert code == 0


def test_a_damaged_last_checkpoint_is_not_passed_over_silently(model, pattern, tmp_path, capsys):
    folder = shutil.copytree(model, tmp_path / "mine")
    state, _ = checkpoint.load(folder / "checkpoints", 0)
    last = checkpoint.save(folder / "checkpoints", 1, state, {}) / "state.npz"
    last.write_bytes(last.read_bytes()[:-1])
    (folder / "final.json").write_text('{"step": 1}')
    code, out, err = run(
        capsys, "--model_dir", folder, "--validation_file_pattern", pattern, "--json"
    )
    assert code == 2 and not out
    assert f"{last} is damaged" in err and "ended at step 1" in err


def test_every_form_of_a_calibrated_model_has_one_loss(model, pattern, tmp_path):
    folder = shutil.copytree(model, tmp_path / "warm")
    (folder / "calibration.json").write_text('{"temperature": 2.0}')
    compress_command.compress(folder, tmp_path / "a.sqz", compress_command.Method(lossless=True))
    export.export(folder, "litert", tmp_path / "a.tflite")
    forms = (folder, tmp_path / "a.sqz", tmp_path / "a.tflite")
    own, *others = (
        evaluate.evaluate(model_dir=form, validation_file_pattern=pattern) for form in forms
    )
    for other in others:
        np.testing.assert_allclose(own.loss, other.loss, atol=0.02)
        np.testing.assert_allclose(own.probability, other.probability, atol=0.01)


def test_the_json_has_intervals_and_every_class(model, pattern, capsys, tmp_path):
    table = tmp_path / "predictions.csv"
    code, out, _ = run(capsys, "--model_dir", model, "--validation_file_pattern", pattern,
                       "--json", "--predictions", table)  # fmt: skip
    document = json.loads(out)
    assert code == 0 and document["examples"] == 37 and len(document["per_class"]) == 3
    low, high = document["top1_interval"]
    assert low <= document["top1"] <= high and low < high
    assert sum(row["examples"] for row in document["per_class"]) == 37
    shard = shutil.copy(pattern, tmp_path / "shard")
    code, _, err = run(capsys, "--model_dir", model, "--validation_file_pattern", shard,
                       "--predictions", shard)  # fmt: skip
    assert code == 2 and "is another program's; move it away" in err
    assert Path(shard).read_bytes() == Path(pattern).read_bytes()
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert [(row["example"], row["file"]) for row in rows] == [
        (f"{n}", f"{n}.jpg") for n in range(37)
    ]


def test_names_of_files_are_shown_whatever_they_are(tmp_path):
    """In tables and pages, of records whose names a stranger has chosen, and of those without."""
    long = "a" * 300 + ".jpg"
    for name, shown in (
        ("hat/1.jpg", "hat/1.jpg"),
        ("=1+1.jpg", "=1+1.jpg"),
        ("a\x1b[2Jb\n.jpg", r"a\x1b[2Jb\n.jpg"),
        (long, f"...{long[-200:]}"),
        ("", ""),
    ):
        record = example.ImageExample(tiny.jpeg(1, 1), 48, 48, 1, "n1", "one", name)
        payload = b"".join(example.example_parts(record))
        assert example.file_name(payload) == shown
        if shown:
            with pytest.raises(InputError, match=re.escape(f"record 7 ({shown})")):
                samples.decoded(payload, 0, "record 7")
    assert example.file_name(b"damaged") == ""
    tiny.shard(path := tmp_path / "validation-00000-of-00001", 2)
    split = dataset.find_dataset(None, None, str(path)).splits["validation"]
    known = tuple(labels.Label(f"=n{n}", f"n{n}") for n in (1, 2, 3))
    ones, floats = np.ones(2, np.int64), np.ones(2, np.float32)
    columns = [np.arange(2), ones, floats, floats, floats, ones, floats]
    subject = report.Subject(model="m", labels=known, split=split, source="here")
    command.write_table(tmp_path / "a.csv", subject, Evaluation.of_rows(columns, 2))
    assert (tmp_path / "a.csv").read_text().splitlines()[
        1
    ] == "0,0.jpg,'=n2,'=n2,1.000000,1,1.000000"


@pytest.fixture(scope="module")
def html(model, pattern, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    arguments = ["--model_dir", model, "--validation_file_pattern", pattern, "--report", folder]
    assert evaluate.main(["evaluate", *map(str, arguments)]) == 0
    return folder / "index.html"


def test_the_page_is_one_file_that_names_strangers_safely(html, model, pattern, tmp_path):
    text = html.read_text("utf-8")
    assert [path.name for path in html.parent.iterdir()] == ["index.html"]
    assert re.search(r">\d+\.jpg</span>", text) and "record " not in text  # the mistakes
    assert "class 1" in text and "Reliability" in text and "data:image/jpeg" in text
    assert text.count("<polyline") == 5 and "nan" not in str(re.findall("(?s)<svg.*?</svg>", text))
    for word in ("http://", "https://", 'src="/', "@import", "url("):
        assert word not in text


def test_classes_of_one_name_are_told_apart():
    from squeezenext import labels

    known = labels.imagenet()
    cranes = [name for name in labels.class_names(known) if name.startswith("crane")]
    assert sorted(cranes) == ["crane (n02012849)", "crane (n03126707)"]
    assert len(set(labels.class_names(known))) == 1000
    folders = [labels.Label(name, name) for name in ("shirts, red", "shirts, blue")]
    assert labels.class_names(folders) == ["shirts, red", "shirts, blue"]


def test_names_cannot_become_markup(scored, tmp_path, model, pattern):
    from squeezenext import labels
    from squeezenext.evaluate import report
    from squeezenext.records import dataset

    split = dataset.find_dataset(None, None, pattern).splits["validation"]
    known = tuple(labels.Label(f"n{i}", "<script>alert(1)</script>") for i in range(3))
    subject = report.Subject(model=model, labels=known, split=split, source="<img src=x>")
    path = report.write(tmp_path, subject, scored)
    text = path.read_text("utf-8")
    assert "<script>alert" not in text and "<img src=x>" not in text


def test_a_mistake_leads_to_its_photograph(scored, tmp_path, model, pattern):
    """If that is a file on this machine, whatever its folder is called; else there is its name."""
    split = dataset.find_dataset(None, None, pattern).splits["validation"]
    known = tuple(labels.Label(f"n{i}", f"n{i}") for i in range(3))
    photographs = tmp_path / 'a "quoted" & <b>folder'
    photographs.mkdir()
    subject = report.Subject(
        model=model, labels=known, split=split, source="here", photographs=photographs
    )
    assert "<a href" not in report.write(tmp_path, subject, scored).read_text("utf-8")
    number = np.argmax(np.where(scored.top1 == 0, scored.loss, -1))
    (photographs / f"{number}.jpg").write_bytes(b"x")
    text = report.write(tmp_path, subject, scored).read_text("utf-8")
    links = re.findall('<a href="([^"]+)">([^<]+)</a>', text)
    assert links == [((photographs / f"{number}.jpg").resolve().as_uri(), f"{number}.jpg")]
    assert "where it lay when this page was written" in text


def test_the_page_in_a_browser(html):
    """Sorts, filters, by keyboard, on a phone; nothing in the console, nothing fetched."""
    with browser.chromium() as page:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        page.get(html.as_uri())
        rows = lambda: [  # noqa: E731
            row.find_elements(By.TAG_NAME, "td")[0].text
            for row in page.find_elements(By.CSS_SELECTOR, "#per-class tbody tr")
            if row.is_displayed()
        ]
        assert rows() == ["class 1", "class 2", "class 3"]
        header = page.find_elements(By.CSS_SELECTOR, "#per-class th")[0]
        header.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
        assert header.get_attribute("aria-sort") == "ascending"
        header.find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
        assert header.get_attribute("aria-sort") == "descending"
        assert rows() == ["class 3", "class 2", "class 1"]
        page.find_elements(By.CSS_SELECTOR, "#per-class th button")[1].click()
        images = [
            int(cell.text)
            for cell in page.find_elements(By.CSS_SELECTOR, "#per-class td:nth-child(2)")
        ]
        assert images == sorted(images) and sum(images) == 37
        field = page.find_element(By.ID, "filter")
        field.send_keys("SS 2")
        assert rows() == ["class 2"]
        assert page.find_element(By.ID, "shown").text == "1 of 3 classes"
        field.clear()
        field.send_keys(Keys.TAB)
        assert page.switch_to.active_element.get_attribute("role") == "region"
        loaded = "return [...document.images].every(image => image.naturalWidth > 0)"
        assert page.execute_script(loaded)
        browser.narrow(page, 360)
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
        assert browser.console_errors(page) == []
        assert {url.split(":")[0] for url in browser.requests(page)} == {"file"}


def test_metrics_are_light():
    assert not {"tensorflow", "keras"} & HOUSE.loaded("squeezenext.metrics")
