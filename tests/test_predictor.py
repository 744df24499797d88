"""Tests for `squeezenext/predict/`, and for `squeezenext/litert/class_maps.py`."""

import concurrent.futures
import csv
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeezenext import predict
from squeezenext.errors import InputError
from squeezenext.evaluate import evaluate
from squeezenext.export import export
from squeezenext.images import decoding, geometry
from squeezenext.litert.runner import Runner
from squeezenext.model import directory as model_directory
from squeezenext.model import loading
from squeezenext.predict import heatmap, predictor, sources
from squeezenext.predict.predictor import Predictor
from squeezenext.records import samples
from squeezenext.records.reader import Reader
from tests import hostile_images, tiny
from tests.conftest import REPOSITORY
from tests.converting import convert


def test_a_directory_in_training_names_the_model_that_answers_meanwhile(tmp_path):
    for name in ("preview", "before"):  # the better one is made last here
        tiny.model_directory(tmp_path / name, tiny.SQUEEZENET)
        given = f"Until it is trained, give --model_dir {tmp_path / name}.$"
        with pytest.raises(InputError, match=f"has no config.json.* {given}"):
            Predictor(tmp_path)
    for name in ("config.json", "labels.json"):
        shutil.copy(tmp_path / "before" / name, tmp_path)
    with pytest.raises(InputError, match=f"holds no checkpoint yet. {given}"):
        Predictor(tmp_path)


@pytest.fixture(scope="module")
def squeezenext(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squeezenext")
    return folder, tiny.model_directory(folder, tiny.SQUEEZENEXT)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squeezenet")
    return folder, tiny.model_directory(folder, tiny.SQUEEZENET)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(12):
        (folder / f"{number:02d}.jpg").write_bytes(tiny.jpeg(number, number % 3 + 1))
    return folder


@pytest.fixture(params=["squeezenext", "squeezenet"])
def model(request):
    return request.getfixturevalue(request.param)


def layer_outputs(model, names, image, config):
    import keras

    pixels = geometry.centre_pixels(image, config.images)
    inputs = geometry.normalize(pixels.astype(np.float32), config.images)[np.newaxis]
    part = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
    return [np.asarray(value)[0] for value in part([inputs], training=False)]


def test_probabilities_features_and_maps_are_the_network_s(model, photos):
    folder, network = model
    inside = Predictor(folder, inside=True)
    image = predictor.read(photos / "03.jpg")
    if "classifier" in [layer.name for layer in network.layers]:
        names = ("classifier", "global_pool")
        logits, features = layer_outputs(network, names, image, inside.config)
    else:
        names = ("global_pool", "fire3_add")
        logits, before = layer_outputs(network, names, image, inside.config)
        features = before.mean((0, 1))
    view = inside.view(image)
    np.testing.assert_allclose(view.probabilities, predictor.softmax(logits), atol=1e-4)
    np.testing.assert_allclose(view.features, features, rtol=1e-3, atol=1e-4)
    for index in range(tiny.CLASSES):  # a map's mean is its class's logit: nothing is left out
        assert view.class_map(index).mean() == pytest.approx(logits[index], rel=1e-3, abs=1e-4)
    plain = Predictor(folder)
    np.testing.assert_allclose(plain.probabilities(image), view.probabilities, atol=1e-5)


# How a camera stores an upright picture, by EXIF's orientation.
TURNED_BACK = (
    None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90,
    Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_270,
)  # fmt: skip


def stored_as(kind, picture, orientation):
    """The pixels of `picture` in a file that says how the camera was held."""
    if kind == "HEIC":
        return hostile_images.heic(picture, orientation, quality=-1, chroma=444)
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"WebP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    how = how.get(kind, {"quality": 100, "subsampling": 0})
    return hostile_images.encoded(picture, kind, exif=exif, **how)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "AVIF", "HEIC"])
def test_a_model_of_people_s_photographs_turns_what_it_is_given(squeezenext, tmp_path, kind):
    """A path, bytes, a Pillow image, a list: one answer, for however the camera was held."""
    if kind == "HEIC" and not hostile_images.HAS_HEIC:
        pytest.skip("requirements-heic.txt is not installed")
    folder = shutil.copytree(squeezenext[0], tmp_path / "model")
    document = json.loads((folder / "config.json").read_text())
    document["images"]["orientation"] = "exif"
    (folder / "config.json").write_text(json.dumps(document))
    ignoring, turning = Predictor(squeezenext[0]), Predictor(folder)
    picture = decoding.read_image(tiny.jpeg(4, 1), "x").resize((96, 64))
    for orientation, back in enumerate(TURNED_BACK, 1):
        path = tmp_path / f"held.{kind.lower()}"
        stored = picture if back is None else picture.transpose(back)
        path.write_bytes(stored_as(kind, stored, orientation))
        sources_of_it = [path, path.read_bytes(), predictor.read(path, upright=True)]
        if kind != "HEIC":  # which Pillow opens only with its plugin registered
            sources_of_it.append(Image.open(path))
        for found in (turning.probabilities(each) for each in sources_of_it):
            np.testing.assert_allclose(found, turning.probabilities(picture), atol=0.02)
        (answer,) = turning.answers([path], top_k=1)
        top = turning.predict(picture, 1)[0]
        assert answer.predictions[0].probability == pytest.approx(top.probability, abs=0.02)
        assert answer.predictions[0].index == top.index
        plain = ignoring.probabilities(path)
        shown = picture if kind in ("AVIF", "HEIC") else stored
        np.testing.assert_allclose(plain, ignoring.probabilities(shown), atol=0.02)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "AVIF", "HEIC"])
def test_records_of_photographs_are_answered_as_the_upright_one(squeezenext, tmp_path, kind):
    """Whatever the format, and however the camera was held."""
    if kind == "HEIC" and not hostile_images.HAS_HEIC:
        pytest.skip("requirements-heic.txt is not installed")
    picture = decoding.read_image(tiny.jpeg(4, 1), "x").resize((96, 64))
    for label in ("n1", "n2", "n3"):
        for orientation, back in enumerate(TURNED_BACK, 1):
            stored = picture if back is None else picture.transpose(back)
            for split in ("train", "validation"):
                path = tmp_path / "photos" / split / label / f"{orientation}.{kind.lower()}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(stored_as(kind, stored, orientation))
    made = convert(tmp_path / "photos", tmp_path / "records", layout="folder", workers=1,
                   show_progress=False)  # fmt: skip
    assert not made.raw["rejected"]
    single = Predictor(squeezenext[0])
    wanted = single.probabilities(picture)
    for number in range(24):
        image, _ = samples.read_examples(Reader(made.splits["validation"]), number, 3)
        np.testing.assert_allclose(single.probabilities(image), wanted, atol=0.02)
    export(squeezenext[0], "litert", tmp_path / "model.tflite")
    for scored in (squeezenext[0], tmp_path / "model.tflite"):
        found = evaluate(model_dir=scored, data_dir=tmp_path / "records")
        assert set(found.predicted.tolist()) == {int(wanted.argmax())}
        np.testing.assert_allclose(found.probability, wanted.max(), atol=0.02)
        assert found.top1.mean() == pytest.approx(1 / 3)  # eight copies of a class all are right


def test_many_images_come_in_order_and_alike(squeezenext, photos):
    single = Predictor(squeezenext[0])
    paths = sources.expand([str(photos)])
    answers = list(single.answers(paths * 3, top_k=3))
    assert [answer.path for answer in answers] == paths * 3
    for answer in answers:
        expected = single.predict(predictor.read(answer.path), 3)
        assert [row.index for row in answer.predictions] == [row.index for row in expected]
        assert answer.predictions[0].probability == pytest.approx(expected[0].probability, abs=1e-5)


def test_threads_of_a_web_server_get_their_own_answers(squeezenext, photos):
    """Each request is a thread of its own, and all of them share one predictor."""
    shared = Predictor(squeezenext[0], inside=True)
    images = [predictor.read(path) for path in sorted(photos.iterdir())]
    alone = [shared.view(image) for image in images]

    def right(first):
        count = 0
        for number in range(first, first + 100):
            view, known = shared.view(images[number % 12]), alone[number % 12]
            same = np.array_equal(view.probabilities, known.probabilities)
            count += same and np.array_equal(view.features, known.features)
        return count

    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        assert sum(executor.map(right, range(8))) == 800


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system.")
def test_a_forked_process_answers_though_the_others_are_busy(squeezenext, photos):
    """As gunicorn does with a predictor of its first process; the runners are on loan meanwhile."""
    code = """
import contextlib, os, sys
from squeezenext.predict.predictor import Predictor
shared = Predictor(sys.argv[1])
alone = shared.probabilities(sys.argv[2]).tolist()
with contextlib.ExitStack() as stack:
    for _ in range(shared._runners._free[1].qsize()):
        stack.enter_context(shared._runners.lend())
    child = os.fork()
    if not child:
        os._exit(shared.probabilities(sys.argv[2]).tolist() != alone)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-c", code, squeezenext[0], photos / "01.jpg"]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=60)


def test_every_kind_of_image_gets_the_same_answer(squeezenext, photos):
    single, path = Predictor(squeezenext[0]), photos / "01.jpg"
    image = predictor.read(path)
    wanted = single.predict(image)
    rgb = np.asarray(image)
    for source in (path, str(path), path.read_bytes(), Image.open(path), rgb):
        assert single.predict(source) == wanted
    assert single.predict(rgb[..., ::-1], channels="BGR") == wanted
    assert single.predict(rgb[..., ::-1]) != wanted
    assert [answer.predictions for answer in single.answers([path])] == [wanted]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, r"An image is a path, .*; this is NoneType\.$"),
        ([[1, 2]], "this is list"),
        (np.zeros((9, 9, 3)), r"must be \[height, width, 3\] uint8 .* \[9, 9, 3\] float64\."),
        (np.zeros((9, 9), np.uint8), r"this one is \[9, 9\] uint8"),
        (np.zeros((0, 9, 3), np.uint8), r"this one is \[0, 9, 3\] uint8"),
        (Image.new("RGB", (0, 9)), r"^The image declares 0 x 9 pixels\.$"),
        (b"GIF89a" * 9_999, r"^The image is cut short or damaged in its header\.$"),
        ("absent.jpg", "absent.jpg cannot be read"),
        ("https://example.com/a.jpg", "is a URL; allow_url=True lets it be fetched"),
        (b"II*\0" + bytes(99), r"^The image is cut short or damaged in its header\.$"),
    ],
)
def test_what_is_no_image_is_one_short_sentence(squeezenext, image, message):
    with pytest.raises(InputError, match=message) as caught:
        Predictor(squeezenext[0]).predict(image)
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize("paths", ["photo.jpg", b"photo.jpg", [None], [np.zeros(3)], None, 3])
def test_answers_takes_a_list_of_paths(squeezenext, paths):
    with pytest.raises(InputError, match=r"^answers\(\) takes "):
        next(Predictor(squeezenext[0]).answers(paths))


@pytest.mark.parametrize("top_k", [0, -1, "3", None])
def test_a_number_of_classes_is_positive(squeezenext, photos, top_k):
    with pytest.raises(InputError, match="top_k is a number of classes, at least 1"):
        Predictor(squeezenext[0]).predict(photos / "01.jpg", top_k)


def test_an_empty_name_is_no_model_and_no_folder(monkeypatch, squeezenext, capsys):
    monkeypatch.chdir(squeezenext[0])
    with pytest.raises(InputError, match="model is empty; it must name a file"):
        Predictor("")
    assert predict.main(["predict", "", "--model_dir", str(squeezenext[0])]) == 2
    assert "An argument is empty; is a variable of the shell not set?" in capsys.readouterr().err


def test_an_order_of_channels_is_one_of_two_and_for_arrays(squeezenext, photos):
    single = Predictor(squeezenext[0])
    with pytest.raises(InputError, match='channels is "RGB" or "BGR"'):
        single.predict(np.zeros((9, 9, 3), np.uint8), channels="bgr")
    for image in (photos / "01.jpg", (photos / "01.jpg").read_bytes(), Image.new("RGB", (9, 9))):
        with pytest.raises(InputError, match="is for arrays; this is"):
            single.predict(image, channels="BGR")


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), "0.5", None])
def test_a_threshold_is_a_probability(squeezenext, photos, threshold):
    single = Predictor(squeezenext[0])
    with pytest.raises(InputError, match="threshold is a probability of 0 to 1, not"):
        single.predict(photos / "01.jpg", 5, threshold)
    with pytest.raises(InputError, match="threshold is a probability of 0 to 1, not"):
        single.answers([photos / "01.jpg"], 5, threshold)


def test_a_class_map_is_of_a_class_that_is_there(squeezenext, photos):
    view = Predictor(squeezenext[0], inside=True).view(photos / "01.jpg")
    for index, message in ((-1, "index is at least 0"), (tiny.CLASSES, "There is no class"),
                           ("0", "index is a whole number")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            view.class_map(index)


def test_what_is_no_path_is_said_at_the_door():
    with pytest.raises(InputError, match=r"^read\(\): path is a path, not None\.$"):
        predictor.read(None)
    with pytest.raises(InputError, match=r"^Predictor\(\): model is a path, not 3\.$"):
        Predictor(3)
    with pytest.raises(
        InputError, match=r"^Predictor\(\): allow_url is True or False, not 'no'\.$"
    ):
        Predictor("mine", allow_url="no")


def test_a_reader_that_stops_ends_the_threads(squeezenext, photos):
    before = threading.active_count()
    answers = Predictor(squeezenext[0]).answers(sources.expand([str(photos)]) * 50)
    next(answers)
    answers.close()
    assert threading.active_count() == before


def test_threshold_and_temperature(squeezenext, photos, tmp_path):
    folder = tmp_path / "calibrated"
    folder.mkdir()
    for name in ("config.json", "labels.json", "model.tflite"):
        (folder / name).write_bytes((squeezenext[0] / name).read_bytes())
    (folder / model_directory.CALIBRATION).write_text('{"temperature": 2.0}')
    image = predictor.read(photos / "01.jpg")
    plain, cooled = Predictor(squeezenext[0]), Predictor(folder)
    expected = np.sqrt(plain.probabilities(image))
    np.testing.assert_allclose(cooled.probabilities(image), expected / expected.sum(), atol=1e-5)
    best = plain.predict(image, 1)[0].probability
    assert len(plain.predict(image, 3, threshold=best)) == 1
    assert plain.predict(image, 3, threshold=1.0) == []
    long = f'{{"temperature": {10**400}}}'
    for damaged in (
        "{}",
        "no",
        '{"temperature": 0}',
        '{"temperature": "2"}',
        "[]",
        long,
        '{"temperature": 1e-300}',
        '{"temperature": 1e9}',
        '{"temperature": true}',
    ):
        (folder / model_directory.CALIBRATION).write_text(damaged)
        with pytest.raises(InputError, match="is damaged"):
            Predictor(folder)


@pytest.mark.parametrize("logits", [[np.inf, 0, 0], [np.nan, 0, 0], [3e38, -3e38, 0]])
def test_probabilities_that_are_no_numbers_end_nothing(squeezenext, photos, monkeypatch, logits):
    """Finite weights may overflow; the images after that one are answered."""
    known, seen = Predictor(squeezenext[0]), []
    paths = sources.expand([str(photos)])[:2]
    answer = Runner.run

    def run(self, image):
        seen.append(image)
        return [np.float32(logits)] if len(seen) == 1 else answer(self, image)

    monkeypatch.setattr(Runner, "run", run)
    monkeypatch.setattr(predictor, "cores", lambda: 1)
    first, second = known.answers(paths)
    assert bool(first.error) == (not np.isfinite(logits[0]))
    assert not first.error or "gives no probabilities here: it is damaged" in first.error
    assert second.error is None and second.predictions


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("inside", [False, True])
def test_a_damaged_file_is_named(squeezenext, tmp_path, part, inside):
    for name in ("config.json", "labels.json", "model.tflite"):
        (tmp_path / name).write_bytes((squeezenext[0] / name).read_bytes())
    content = (tmp_path / "model.tflite").read_bytes()
    (tmp_path / "model.tflite").write_bytes(content[: int(part * len(content))])
    with pytest.raises(InputError, match=r"model\.tflite is damaged, or not what"):
        Predictor(tmp_path, inside=inside)


def test_a_file_that_may_not_be_read_is_named(squeezenext, monkeypatch):
    real = Path.open

    def refused(path, *arguments, **named):
        if path.suffix == ".tflite":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(InputError, match=r"model\.tflite cannot be read: Permission denied"):
        Predictor(squeezenext[0])


def run(capsys, folder, *arguments):
    code = predict.main(["predict", *map(str, arguments), "--model_dir", str(folder)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_features_are_written_in_the_order_of_the_output(squeezenext, photos, tmp_path, capsys):
    file = tmp_path / "features.npy"
    code, out, _ = run(capsys, squeezenext[0], photos, "/nowhere.jpg", "--format", "json",
                       "--features", file)  # fmt: skip
    lines = [json.loads(line) for line in out.splitlines()]
    table = np.load(file, allow_pickle=False)
    names = json.loads(file.with_suffix(".json").read_text())
    assert code == 1 and names == [line["path"] for line in lines if not line["error"]]
    assert table.shape == (12, 16) and table.dtype == np.float32
    inside = Predictor(squeezenext[0], inside=True)
    np.testing.assert_allclose(table[5], inside.view(predictor.read(names[5])).features, rtol=1e-4)
    assert run(capsys, squeezenext[0], photos, "--features", tmp_path / "x.csv")[0] == 2


@pytest.mark.parametrize("flag", [("--features", "absent/x.npy"), ("--explain", "taken/maps")])
def test_a_place_that_cannot_be_written_is_named_before_any_work(
    squeezenext, photos, tmp_path, capsys, flag
):
    (tmp_path / "taken").write_text("a file")
    code, out, err = run(capsys, squeezenext[0], photos, flag[0], tmp_path / flag[1])
    assert code == 2 and out == "" and flag[0] in err


def test_a_csv_keeps_images_below_the_threshold(squeezenext, photos, capsys):
    code, out, _ = run(capsys, squeezenext[0], photos, "--format", "csv", "--threshold", "1")
    rows = list(csv.reader(io.StringIO(out)))
    assert code == 0 and len(rows) == 13 and {tuple(row[1:]) for row in rows[1:]} == {("",) * 6}


def test_an_image_without_a_class_above_the_threshold_is_said(squeezenext, photos, capsys):
    code, out, _ = run(capsys, squeezenext[0], photos / "00.jpg", "--threshold", "1")
    lines = out.splitlines()
    assert code == 0 and lines == [str(photos / "00.jpg"), "  no class reaches --threshold"]


def test_names_cannot_drive_a_terminal(monkeypatch, capsys):
    from squeezenext import cli

    name = "a.jpg\n  99.99%  safe\x1b[2J"
    escaped = "a.jpg\\n  99.99%  safe\\x1b[2J\n"
    cli.say(name)
    cli.log(name)
    assert capsys.readouterr() == (name + "\n", escaped)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    cli.say(name)
    assert capsys.readouterr().out == escaped


def test_an_encoding_that_lacks_a_character_ends_nothing(squeezenext, photos, tmp_path):
    """As on Windows, where a pipe has the code page of 1990."""
    folder = tmp_path / "model"
    shutil.copytree(squeezenext[0], folder)
    labels = folder / "labels.json"
    labels.write_text(labels.read_text().replace("class 1", "猫"), "utf-8")
    for path in (photos / "01.jpg", photos / "02.jpg"):
        shutil.copy(path, tmp_path / f"{path.stem}\udcff猫.jpg")
    command = [sys.executable, "predict.py", *sorted(tmp_path.glob("*.jpg")), "--model_dir", folder]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"\\u732b") == 4 and b"01\xff\\u732b.jpg" in done.stdout


def test_a_tilde_is_the_home_folder(squeezenext, photos, tmp_path, monkeypatch, capsys):
    """A shell leaves it in --model_dir=~/mine, and wherever there are quotes."""
    (tmp_path / "mine").symlink_to(squeezenext[0])
    (tmp_path / "photos").symlink_to(photos)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert predict.main(["predict", "~/photos/01.jpg", "--model_dir=~/mine"]) == 0
    image = predictor.read("~/photos/01.jpg")
    assert np.array_equal(image, predictor.read(photos / "01.jpg"))
    assert Predictor("~/mine").predict("~/photos/01.jpg")


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "YCbCr", "I;16"])
def test_any_mode_is_seen_as_its_file_would_be(squeezenext, photos, tmp_path, mode):
    known, image = Predictor(squeezenext[0]), predictor.read(photos / "01.jpg")
    given = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
    seen = known.probabilities(given)
    expected = known.probabilities(decoding.to_rgb(given.copy()))
    np.testing.assert_array_equal(seen, expected)
    if mode in ("RGBA", "YCbCr"):
        np.testing.assert_allclose(seen, known.probabilities(image), atol=0.05)


def test_explanations_show_the_window_that_the_network_sees(squeezenet, photos, tmp_path, capsys):
    folder = tmp_path / "maps"
    code, out, _ = run(capsys, squeezenet[0], photos, "--explain", folder, "--format", "json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(list(folder.iterdir())) == len(lines) == 12
    for line in lines:
        with Image.open(line["explanation"]) as drawn, Image.open(line["path"]) as given:
            assert drawn.size == given.size
    theirs = Path(lines[0]["explanation"])
    theirs.write_bytes((photos / "00.jpg").read_bytes())  # has the same name, but is no map
    code, _, err = run(capsys, squeezenet[0], photos, "--explain", folder)
    assert code == 1 and err.count("error: ") == 2 and f"{theirs} is another program's" in err
    assert theirs.read_bytes() == (photos / "00.jpg").read_bytes()


def test_heat_maps_are_not_mixed_with_other_files(squeezenet, photos, tmp_path, capsys):
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / ".DS_Store").touch()
    for _ in range(2):  # the second time over its own
        code, _, _ = run(capsys, squeezenet[0], photos / "01.jpg", "--explain", folder)
        assert code == 0 and (folder / "00001-01.jpg").is_file()
    before = sorted(photos.iterdir())
    code, _, err = run(capsys, squeezenet[0], photos / "01.jpg", "--explain", photos)
    assert code == 2 and "holds something else (" in err and str(photos / "explain") in err
    assert sorted(photos.iterdir()) == before


def test_an_overlay_is_hot_where_the_map_is():
    image = Image.new("RGB", (3000, 1500), "grey")
    heat = np.float32([[-5, 0], [0, 5]])
    drawn = np.asarray(heatmap.overlay(image, heat, tiny.SQUEEZENEXT), int)
    assert drawn.shape == (512, 1024, 3)
    assert np.ptp(drawn[-20, -20]) > 50  # coloured
    assert np.ptp(drawn[20, 20]) < 20 and drawn[20, 20].mean() == pytest.approx(128, abs=12)


def test_an_overlay_leaves_out_the_padding_around_the_map():
    """SqueezeNet 1.0's classifier reads a ring of zeros, where its bias may be what is largest."""
    network = dataclasses.replace(tiny.SQUEEZENET.model, head_padding=1)
    config = dataclasses.replace(tiny.SQUEEZENET, images=tiny.IMAGES, model=network)
    heat = np.full((6, 6), 9, np.float32)
    heat[1:-1, 1:-1] = 0
    heat[4, 4] = 5
    drawn = np.asarray(heatmap.overlay(Image.new("RGB", (400, 400), "grey"), heat, config), int)
    assert np.ptp(drawn[-10, -10]) > 50 and np.ptp(drawn[-50, -50]) > 50  # up to the edge
    for place in ((10, 10), (10, 390), (390, 10), (200, 200)):
        assert np.ptp(drawn[place]) < 20, place


def test_globs_folders_and_names(photos, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.JPG").write_bytes(b"")
    (tmp_path / "deep" / "notes.txt").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "[odd].jpg").write_bytes(b"")
    inside = [str(tmp_path / "[odd].jpg"), str(tmp_path / "deep" / "er" / "a.JPG")]
    assert sources.expand([str(tmp_path)]) == inside
    assert sources.expand([f"{tmp_path}/**/*.JPG"]) == inside[1:]
    assert sources.expand([inside[0]]) == inside[:1]  # a name is itself before it is a pattern
    assert len(sources.expand([f"{photos}/0*.jpg", "-"])) == 11
    with pytest.raises(InputError, match="No file matches"):
        sources.expand([f"{tmp_path}/*.tiff"])
    with pytest.raises(InputError, match="--allow_url"):
        sources.expand(["https://example.com/a.jpg"])
    url = "https://127.0.0.1/a.jpg"
    assert sources.expand([url], allow_url=True) == [url]


def test_a_folder_is_what_people_put_there(photos, tmp_path, capsys):
    """Not what a Mac, a disk, a NAS, Windows or Jupyter left; and what is skipped is counted."""
    good = (photos / "01.jpg").read_bytes()
    mine = ["a.jpg", "inside/b.JPEG"]
    skipped = ["c.mov", "d.MOV", "e.nef", "notes"]
    left = ["._a.jpg", ".DS_Store", "__MACOSX/inside/a.jpg", "@eaDir/a.jpg/SYNOPHOTO.jpg",
            "lost+found/a.jpg", "inside/.ipynb_checkpoints/b.jpg", "Thumbs.db"]  # fmt: skip
    for name in mine + skipped + left:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(good)
    assert sources.expand([str(tmp_path)]) == [str(tmp_path / name) for name in mine]
    line = "skipped by their endings: 2 .mov, 1 .nef, 1 no ending."
    assert capsys.readouterr().err == f"{tmp_path}: {line}\n"
    (tmp_path / "again").symlink_to("inside")
    assert sources.expand([f"{tmp_path}/[ai]*"]) == [str(tmp_path / "a.jpg")]
    assert f"{tmp_path}/[ai]*: 2 folders skipped; name a folder" in capsys.readouterr().err
    assert sources.expand([str(tmp_path)]) == [str(tmp_path / name) for name in mine]
    assert f"{tmp_path}: 1 link to a folder skipped." in capsys.readouterr().err


def test_a_pattern_follows_no_link_to_a_folder(tmp_path, monkeypatch):
    """As a folder's name does not; each file comes once, and nothing from elsewhere."""
    photos, other = tmp_path / "photos", tmp_path / "other"
    for name in ("photos/a/b/1.jpg", "photos/.hidden/2.jpg", "other/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    (photos / "latest").symlink_to(".")
    (photos / "out").symlink_to(other)
    (photos / "4.jpg").symlink_to(other / "3.jpg")  # a link to a file is one
    every = [str(photos / "4.jpg"), str(photos / "a/b/1.jpg")]
    for pattern in ("photos/**/*.jpg", "photos/**", "pho*/**/?.jpg", "./photos/**/**/*.jpg"):
        found = sources.expand([str(tmp_path / pattern)])
        assert found == every, pattern
    for pattern in ("photos/**/b/*.jpg", "photos/**/a/**/*.jpg", "photos/a/**"):
        assert sources.expand([str(tmp_path / pattern)]) == every[1:], pattern
    assert sources.expand([f"{photos}/**/.hidden/*"]) == [str(photos / ".hidden/2.jpg")]
    monkeypatch.chdir(photos)
    assert sources.expand(["**/*.jpg"]) == ["4.jpg", "a/b/1.jpg"]


def test_a_url_that_is_refused_is_a_named_error(squeezenext, capsys):
    code, out, _ = run(capsys, squeezenext[0], "https://127.0.0.1/a.jpg", "--allow_url",
                       "--format", "json")  # fmt: skip
    assert code == 1 and "no public address" in json.loads(out)["error"]


def test_csv_and_text_carry_any_name(squeezenext, photos, tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\n,.jpg"
    with open(name, "wb") as file:
        file.write((photos / "00.jpg").read_bytes())
    for kind in ("text", "csv", "json"):
        result = subprocess.run(
            [sys.executable, "predict.py", name, "--model_dir", squeezenext[0], "--format", kind],
            cwd=REPOSITORY, capture_output=True, timeout=60,
        )  # fmt: skip
        assert result.returncode == 0 and result.stderr == b""  # XNNPACK's line is kept away, too
        if kind == "csv":
            rows = list(csv.reader(io.StringIO(os.fsdecode(result.stdout))))
            assert {os.fsencode(row[0]) for row in rows[1:]} == {name}
        elif kind == "json":
            assert os.fsencode(json.loads(result.stdout)["path"]) == name
        else:
            assert result.stdout.startswith(name)


@pytest.mark.parametrize("precision", ["float32", "float16", "dynamic", "int8"])
def test_an_exported_file_answers_as_its_model(model, photos, tmp_path, precision):
    from squeezenext.export import litert as export_litert

    shown = Predictor(model[0]).config.images
    images = [predictor.read(path) for path in sorted(photos.iterdir())]
    crops = [geometry.centre_pixels(image, shown) for image in images]
    file = tmp_path / "exported.tflite"
    file.write_bytes(export_litert.litert_file(loading.load(model[0]), precision, crops))
    exported, own = Predictor(file, inside=True), Predictor(model[0], inside=True)
    close = 0.01 if precision.startswith("float") else 0.15
    for image in images[:3]:
        view, expected = exported.view(image), own.view(image)
        np.testing.assert_allclose(view.probabilities, expected.probabilities, atol=close)
        np.testing.assert_allclose(
            view.class_map(1).mean(), expected.class_map(1).mean(), atol=20 * close
        )
    (tmp_path / "plain.tflite").write_bytes((model[0] / "model.tflite").read_bytes())
    with pytest.raises(InputError, match="the model.tflite of a model directory, which "):
        Predictor(tmp_path / "plain.tflite")


def test_a_model_directory_s_own_file_stands_for_the_directory(model, photos):
    own, photo = Predictor(model[0] / "model.tflite"), photos / "00.jpg"
    assert own.predict(photo) == Predictor(model[0]).predict(photo)


def test_a_temperature_is_in_every_shipped_form(model, photos, tmp_path):
    """At 0.2, predict.py says the same of a file as of the model directory."""
    from squeezenext.compress import command
    from squeezenext.export import litert as export_litert

    folder = tmp_path / "calibrated"
    shutil.copytree(model[0], folder)
    (folder / model_directory.CALIBRATION).write_text(
        '{"temperature": 0.2}'
    )  # below 1: the tiny network is unsure of all
    own, known = Predictor(folder), loading.load(folder)
    image = predictor.read(photos / "01.jpg")
    expected = own.probabilities(image)
    assert np.abs(expected - Predictor(model[0]).probabilities(image)).max() > 0.005
    crop = geometry.centre_pixels(image, own.config.images)
    for precision, close in (("float32", 1e-4), ("int8", 0.3)):
        file = tmp_path / f"{precision}.tflite"
        file.write_bytes(export_litert.litert_file(known, precision, [crop]))
        np.testing.assert_allclose(Predictor(file).probabilities(image), expected, atol=close)
    command.compress(folder, tmp_path / "model.sqz", command.Method(lossless=True))
    found = Predictor(tmp_path / "model.sqz").probabilities(image)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_maps_of_a_dense_classifier_hold_its_bias(photos, tmp_path):
    """Pytorchcv's layout, exported in float32 and int8: a map's mean is the logit, bias and all."""
    from squeezenext.export import litert as export_litert

    change = {"groups": 1, "biases": True, "stem_padding": 1, "pair_order": "1x3_first"}
    network = dataclasses.replace(tiny.SQUEEZENEXT.model, **change)
    tiny.model_directory(tmp_path, dataclasses.replace(tiny.SQUEEZENEXT, model=network))
    image = predictor.read(photos / "03.jpg")
    own = Predictor(tmp_path, inside=True)
    logits = np.log(own.probabilities(image))
    crop = geometry.centre_pixels(image, own.config.images)
    for precision, close in (("", 1e-3), ("int8", 0.3)):
        if precision:
            file = tmp_path / "int8.tflite"
            content = export_litert.litert_file(loading.load(tmp_path), precision, [crop])
            file.write_bytes(content)
            own = Predictor(file, inside=True)
        view = own.view(image)
        means = np.array([view.class_map(index).mean() for index in range(tiny.CLASSES)])
        np.testing.assert_allclose(means - means[0], logits - logits[0], atol=close)


def test_progress_leaves_standard_output_alone(squeezenext, photos, tmp_path):
    """With a terminal for standard error and a file for standard output."""
    import pty

    leader, follower = pty.openpty()
    with open(tmp_path / "out", "wb") as out:
        command = [sys.executable, "predict.py", photos, "--model_dir", squeezenext[0],
                   "--format", "json"]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if name != "CI"}
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=out, stderr=follower, env=environment
        )
        os.close(follower)
        shown = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # Linux: the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(leader)
    assert process.wait(60) == 0 and b"images" in shown
    lines = (tmp_path / "out").read_text().splitlines()
    assert len(lines) == 12 and all(json.loads(line)["error"] is None for line in lines)


def test_an_overlay_dims_what_the_network_is_not_shown():
    """The centre square of a wide image, where its short side is resized."""
    images = dataclasses.replace(tiny.IMAGES, resize_mode="short_side")
    config = dataclasses.replace(tiny.SQUEEZENEXT, images=images)
    drawn = heatmap.overlay(Image.new("RGB", (600, 300), "grey"), np.zeros((2, 2)), config)
    bright = np.asarray(drawn, int).mean((0, 2))
    edge = drawn.width // 4
    assert bright[: edge - 2].max() < bright[edge + 2 : -edge - 2].min() - 30
    assert bright[-edge + 2 :].max() < bright[edge + 2 : -edge - 2].min() - 30


def test_features_are_whole_though_nobody_reads_the_output(squeezenext, photos, tmp_path):
    """`predict.py ... --features f.npy | head -1`; and nobody's f.json is replaced."""
    file, images = tmp_path / "f.npy", f"{photos} " * 6
    flags = f"--model_dir {squeezenext[0]} --format json --features {file}"
    command = f"{sys.executable} predict.py {images} {flags} | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, timeout=60)
    assert len(done.stdout.splitlines()) == 1 and done.stderr == b""
    assert np.load(file).shape == (72, 16)
    assert len(json.loads(file.with_suffix(".json").read_text())) == 72
    file.unlink()
    with pytest.raises(InputError, match="f.json is there already"):
        predict.predict([str(photos)], squeezenext[0], features=file)


def test_a_text_file_is_a_list_of_images(tmp_path):
    listed = tmp_path / "photos.txt"
    listed.write_bytes(b"\xef\xbb\xbfa b.jpg\r\n\n#1.png\nc\xff.jpg\nd\x0b*.jpg")
    assert sources.expand([str(listed), "e.jpg"]) == [
        "a b.jpg", "#1.png", "c\udcff.jpg", "d\x0b*.jpg", "e.jpg"
    ]  # fmt: skip
    listed.write_text("https://example.com/a.jpg\n")
    assert sources.expand([str(listed)], allow_url=True) == ["https://example.com/a.jpg"]
    with pytest.raises(InputError, match="a.jpg is a URL; --allow_url lets"):
        sources.expand([str(listed)])
    listed.write_text("\n")
    with pytest.raises(InputError, match="photos.txt lists no image; write the path of one on"):
        sources.expand([str(listed)])
