"""Tests for `squeezenext/weights.py`, `model/published.py` and `model/importing.py`.

The real weights are the proof that network and preprocessing are right.
"""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from squeezenext import evaluate, predict, weights
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.formats import deep_compression
from squeezenext.model import checkpoint, importing
from squeezenext.model import published as model_published
from tests.conftest import REPOSITORY
from tests.foreign_files import net
from tests.imagenet_archives import real_imagenet

SHAPES = [(2, 3, 1, 1), (4, 2, 3, 3)]
# Of 100 images right among five, by a decoder of its own; top-1 64, 68 and 63.
REFERENCE = {"squeezenet_v1_0": 83, "squeezenet_v1_1": 87, "squeezenet_v1_1_torchvision": 88}


@pytest.fixture
def layers():
    rng = np.random.default_rng(0)
    made = []
    for shape in SHAPES:
        array = rng.integers(-3, 4, shape).astype(np.float32)
        array[rng.random(shape) < 0.9] = 0
        made.append((array, rng.normal(size=shape[0]).astype(np.float32)))
    return made


def test_deep_compression_round_trip(layers):
    decoded = deep_compression.decode(net(layers), SHAPES, "file")
    for (array, biases), (weights_, biases_) in zip(layers, decoded, strict=True):
        np.testing.assert_array_equal(weights_, array)
        np.testing.assert_array_equal(biases_, biases)


def test_damaged_deep_compression_files_are_named(layers):
    data = net(layers)
    for damaged in (b"", data[:5], data[:-1], data + b"\0", b"\xff" * len(data)):
        with pytest.raises(InputError, match=r"my\.net"):
            deep_compression.decode(damaged, SHAPES, "my.net")
    outside = bytearray(data)
    outside[-8:] = b"\xff" * 8  # the last layer's gaps
    with pytest.raises(InputError, match="outside its layer|after the last weight"):
        deep_compression.decode(bytes(outside), SHAPES, "my.net")


@pytest.fixture(scope="module")
def published(shared, tmp_path_factory):
    """The environment in which published models are found, with a cache of its own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SQUEEZENEXT_WEIGHTS", str(shared / "weights"))
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield model_published.resolve("squeezenet_v1_0")
    patch.undo()


@pytest.fixture(scope="module")
def real_images(published, shared, tmp_path_factory):
    """A folder with the 100 real images as records and as files."""
    folder = tmp_path_factory.mktemp("imagenet")
    real_imagenet(folder)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    script = REPOSITORY / "datasets" / "process_downloaded_imagenet.sh"
    subprocess.run(["bash", script, folder, "--partial"], env=environment, check=True, timeout=300)
    subprocess.run(
        ["tar", "xf", shared / "imagenet-100.tar", "--one-top-level=images", "-C", folder],
        check=True,
    )
    return folder


@pytest.fixture(scope="module", params=REFERENCE)
def scored(request, real_images):
    """Evaluation and prediction of the 100 real images, each by its command."""
    table = real_images / f"{request.param}.csv"
    code = evaluate.main(
        ["evaluate", "--model_dir", request.param, "--data_dir", str(real_images / "tf-records"),
         "--predictions", str(table), "--json"]
    )  # fmt: skip
    assert code == 0
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = predict.main(["predict", str(real_images / "images"), "--model_dir", request.param,
                             "--format", "json"])  # fmt: skip
    assert code == 0
    lines = [json.loads(line) for line in printed.getvalue().splitlines()]
    rows = list(csv.DictReader(open(table)))
    return rows, lines, REFERENCE[request.param] - 1


def test_real_weights_name_real_images_in_evaluation(scored):
    rows, _, top5 = scored
    assert len(rows) == 100
    assert sum(row["label"] == row["predicted"] for row in rows) >= 62
    assert sum(int(row["top5"]) for row in rows) >= top5


def test_real_weights_name_real_images_in_prediction(scored):
    _, lines, top5 = scored
    truths = [line["path"].split("/")[-2] for line in lines]
    ranked = [[row["synset"] for row in line["predictions"]] for line in lines]
    assert len(lines) == 100 and all(line["error"] is None for line in lines)
    assert sum(t == r[0] for t, r in zip(truths, ranked, strict=True)) >= 62
    assert sum(t in r for t, r in zip(truths, ranked, strict=True)) >= top5


def test_prediction_and_evaluation_agree(scored):
    """Paired by class: each of the 100 images is of one of its own."""
    rows, lines, _ = scored
    evaluated = {row["label"]: row for row in rows}
    first = {line["path"].split("/")[-2]: line["predictions"][0] for line in lines}
    assert evaluated.keys() == first.keys() and len(first) == 100
    same = [synset for synset in first if first[synset]["synset"] == evaluated[synset]["predicted"]]
    assert len(same) == 100
    for synset in same:
        assert first[synset]["probability"] == pytest.approx(
            float(evaluated[synset]["probability"]), abs=1e-4
        )


def test_prediction_imports_no_tensorflow(published, tmp_path):
    """Not even the first one, which makes the published model's directory."""
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    code = (
        "import sys; from squeezenext import predict\n"
        f"assert predict.main(['predict', {str(tmp_path / 'red.png')!r}, '--model_dir', "
        "'squeezenet_v1_0']) == 0\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(tmp_path)}
    environment = os.environ | environment
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert list(tmp_path.glob("squeezenext/models/squeezenet_v1_0-*/model.tflite"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, mode in enumerate(("RGB", "L", "RGBA", "P")):
        Image.new(mode, (60, 40), 100).save(folder / f"{number}.png")
    Image.new("CMYK", (60, 40)).save(folder / "cmyk.JPG")
    (folder / "text.jpg").write_text("no image")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def run_predict(capsys, *arguments):
    code = predict.main(["predict", *map(str, arguments), "--model_dir", "squeezenet_v1_0"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_one_bad_file_never_stops_the_others(published, photos, capsys):
    empty = photos / "empty.jpg"
    empty.mkdir(exist_ok=True)
    code, out, err = run_predict(capsys, photos, empty, "/nowhere.jpg", "--format", "json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and "images could not be read" in err
    failed = {os.path.basename(line["path"]) for line in lines if line["error"]}
    assert failed == {"text.jpg", "nowhere.jpg", "empty.jpg"}
    assert sum(line["error"] is None for line in lines) == 5
    for line in lines:
        assert set(line) == {"path", "predictions", "error"}
        if not line["error"]:
            assert set(line["predictions"][0]) == {"index", "synset", "label", "probability"}
            assert len(line["predictions"]) == 5


def test_text_csv_and_standard_input(published, photos, capsys, monkeypatch):
    code, out, _ = run_predict(capsys, photos / "0.png", "--top_k", 2)
    assert code == 0 and len(out.splitlines()) == 3
    code, out, _ = run_predict(capsys, photos / "0.png", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    stream = io.TextIOWrapper(io.BytesIO((photos / "0.png").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stream)
    code, out, _ = run_predict(capsys, "-", "--format", "json")
    assert code == 0 and json.loads(out)["path"] == "-"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name at least one image"),
        (["a.jpg", "--top_k", "0"], "top_k"),
        (["a.jpg", "--format", "xml"], "format"),
        (["a.jpg", "--model_dir", "/nowhere"], "no model directory /nowhere"),
        (["a.jpg", "--model_dir", "/tmp"], "is not a model directory"),
    ],
)
def test_bad_use_of_predict(published, capsys, arguments, message):
    assert predict.main(["predict", "--model_dir", "squeezenet_v1_0", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_an_empty_folder_is_named(published, tmp_path, capsys):
    code, _, err = run_predict(capsys, tmp_path)
    assert code == 2 and f"{tmp_path} holds no image" in err


def test_without_network_the_sentence_names_the_url_and_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("SQUEEZENEXT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(model_published, "_opened", refuse)
    with pytest.raises(InputError, match="githubusercontent.*SQUEEZENEXT_WEIGHTS.*which lacks it"):
        model_published.resolve("squeezenet_v1_0")
    both = r"v1\.1\.param cannot .*v1\.1\.bin cannot .*lacks these files; fetch them there\.$"
    with pytest.raises(InputError, match=both):
        model_published.resolve("squeezenet_v1_1")
    monkeypatch.setenv("SQUEEZENEXT_WEIGHTS", str(tmp_path / "wieghts"))
    with pytest.raises(
        InputError, match="SQUEEZENEXT_WEIGHTS names .*/wieghts, which is no folder"
    ):
        model_published.resolve("squeezenet_v1_0")
    monkeypatch.delenv("SQUEEZENEXT_WEIGHTS")
    with pytest.raises(InputError, match="name it: export SQUEEZENEXT_WEIGHTS=FOLDER"):
        model_published.resolve("squeezenet_v1_0")


def test_a_cache_that_cannot_be_written_is_said_with_its_variable(shared, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("SQUEEZENEXT_WEIGHTS", str(shared / "weights"))
    with pytest.raises(InputError, match="cannot be written .*export XDG_CACHE_HOME=FOLDER"):
        model_published.resolve("squeezenet_v1_0")


def test_folders_in_the_environment_may_begin_with_home(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "held").symlink_to(shared / "weights")
    monkeypatch.setenv("SQUEEZENEXT_WEIGHTS", "~/held")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")  # relative, hence not used
    assert model_published.resolve("squeezenet_v1_0").is_relative_to(tmp_path)


def test_a_changed_file_at_its_home_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SQUEEZENEXT_WEIGHTS", raising=False)
    monkeypatch.setattr(model_published, "_opened", lambda *_, **__: io.BytesIO(bytes(700_000)))
    with pytest.raises(InputError, match="checksum is another"):
        model_published.resolve("squeezenet_v1_0")


def run_weights(*arguments):
    return weights.main(["weights", *map(str, arguments)])


def test_bad_imports(shared, tmp_path, capsys):
    path = shared / "weights" / "squeezenet_v1.0.deep-compression-8bit.net"
    caffe = path.with_name("squeezenet_v1.1.caffe.ncnn.bin")
    target = ["--model_dir", tmp_path / "model", "--configuration"]
    for kind, file, name, message in (
        (
            "deep_compression",
            path,
            "squeezenet_v1_1",
            "or of another configuration, such as squeezenet_v1_0.",
        ),
        ("deep_compression", path, "v_1_0_SqNxt_23", "are of SqueezeNet"),
        ("deep_compression", path, "squeezenet_v1_0_torchvision", "images.channels=BGR"),
        ("ncnn", path, "squeezenet_v1_0", "name the .param or the .bin"),
        ("ncnn", caffe, "squeezenet_v1_0", "stands where pool8 is"),
        ("ncnn", caffe, "squeezenet_v1_1_torchvision", "images are 227 wide"),
        ("ncnn", caffe, "squeezenet_v1_1_caltech256", "--labels is missing"),
        ("caffemodel", path, "squeezenet_v1_0", "is damaged or of another network"),
        ("hdf5", path, "squeezenet_v1_0", "must be one of deep_compression, ncnn"),
        ("caffemodel", tmp_path / "absent", "squeezenet_v1_0", "cannot be read: No such file"),
    ):
        assert run_weights("import", "--format", kind, "--input", file, *target, name) == 2
        err = capsys.readouterr().err
        assert message in err and "Traceback" not in err, err
    assert not (tmp_path / "model").exists()
    (tmp_path / "PHOTOS" / "cat").mkdir(parents=True)
    arguments = ("--format", "deep_compression", "--input", path, "--configuration")
    place = ("--model_dir", tmp_path / "PHOTOS")
    assert run_weights("import", *arguments, "squeezenet_v1_0", *place) == 2
    assert "PHOTOS holds other files (cat); choose another --model_dir" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "PHOTOS").iterdir()] == ["cat"]
    assert run_weights("import") == 2 and run_weights() == 2 and run_weights("export") == 2


def test_import_and_export(shared, tmp_path, capsys):
    """META.json says where the weights come from; a directory holds one model."""
    file = shared / "weights" / "squeezenet_v1.1.torchvision.ncnn.param"
    made, path = tmp_path / "made", tmp_path / "weights.net"
    network = ["--configuration", "squeezenet_v1_1_torchvision"]
    assert run_weights("import", "--format", "ncnn", "--input", file, "--model_dir", made,
                       *network) == 0  # fmt: skip
    assert "says nothing of pixels: the network is shown RGB" in capsys.readouterr().err
    first, meta = checkpoint.load(made / "checkpoints", 0)
    assert meta["imported"]["format"] == "ncnn"
    files = {
        published.url.split("/")[-1]: published.sha256
        for published in model_published.PUBLISHED["squeezenet_v1_1_torchvision"].files
    }
    assert set(meta["imported"]["files"].values()) == set(files.values())
    capsys.readouterr()
    assert run_weights("import", "--format", "ncnn", "--input", file, "--model_dir", made,
                       "--configuration", "squeezenet_v1_1", "--set", "images.size=224",
                       "--set", "model.classes=1000") == 2  # fmt: skip
    assert "holds a model already" in capsys.readouterr().err
    assert run_weights("import", "--format", "ncnn", "--input", file, "--model_dir", made,
                       *network) == 0  # fmt: skip
    checkpoint.save(made / "checkpoints", 5000, first, {})  # training went on in it
    assert run_weights("import", "--format", "ncnn", "--input", file, "--model_dir", made,
                       *network) == 2  # fmt: skip
    for kind, message in (("deep_compression", "other pixels"), ("caffemodel", "must be one of")):
        assert run_weights("export", "--format", kind, "--model_dir", made, "--output", path) == 2
        assert message in capsys.readouterr().err
    missing = tmp_path / "absent" / "x.pth"
    assert run_weights("export", "--format", "torchvision", "--model_dir", made,
                       "--output", missing) == 2  # fmt: skip


def test_weights_are_not_written_for_pixels_they_do_not_know(published, tmp_path, capsys):
    """Nor those of a network that PyTorch's libraries do not have: its classifier is padded."""
    for name, message in (("squeezenet_v1_1", "other pixels"), ("squeezenet_v1_0", "other pixels")):
        for kind in ("torchvision", "pytorchcv"):
            assert run_weights("export", "--format", kind, "--model_dir", name, "--output",
                               tmp_path / "a.pth") == 2  # fmt: skip
            assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_damaged_cache_is_made_anew(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SQUEEZENEXT_WEIGHTS", str(shared / "weights"))
    directory = model_published.resolve("squeezenet_v1_0")
    path = directory / "model.tflite"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + b"?" + whole[1001:])
    assert model_published.resolve("squeezenet_v1_0") == directory
    assert path.read_bytes() == whole
    before = path.stat().st_mtime_ns
    model_published.resolve("squeezenet_v1_0")
    assert path.stat().st_mtime_ns == before
    file = model_published.PUBLISHED["squeezenet_v1_0"].files[0]
    kept = tmp_path / "squeezenext/models/files" / file.sha256
    kept.parent.mkdir()
    kept.write_bytes(b"damaged")
    monkeypatch.delenv("SQUEEZENEXT_WEIGHTS")
    content = (shared / "weights/squeezenet_v1.0.deep-compression-8bit.net").read_bytes()
    monkeypatch.setattr(model_published, "_opened", lambda *_, **__: io.BytesIO(content))
    path.unlink()
    model_published.resolve("squeezenet_v1_0")
    assert kept.read_bytes() == content and path.read_bytes() == whole


def test_a_cut_download_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SQUEEZENEXT_WEIGHTS", raising=False)
    monkeypatch.setattr(model_published, "_opened", lambda *_, **__: io.BytesIO(b"cut"))
    with pytest.raises(InputError, match="3 of 675,763 bytes came"):
        model_published.resolve("squeezenet_v1_0")


def test_a_compressed_file_is_exported(published, tmp_path):
    """From .net to .sqz and back: the same weights, in as many bytes."""
    from squeezenext.compress import command

    file, path = tmp_path / "a.sqz", tmp_path / "a.net"
    command.compress("squeezenet_v1_0", file, command.Method(lossless=True))
    assert run_weights("export", "--format", "deep_compression", "--model_dir", file, "--output",
                       path) == 0  # fmt: skip
    assert path.stat().st_size == 675_763
    assert run_weights("export", "--format", "deep_compression", "--model_dir", tmp_path / "b.sqz",
                       "--output", path) == 2  # fmt: skip


def test_weights_do_not_replace_a_file_of_another_kind(published, tmp_path, capsys):
    path = tmp_path / "CHANGELOG.md"
    path.write_text("mine")
    for kind in ("deep_compression", "torchvision"):
        assert run_weights("export", "--format", kind, "--model_dir", "squeezenet_v1_0",
                           "--output", path) == 2  # fmt: skip
        assert "is another program's; move it away" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_the_published_net_is_written_again(published, tmp_path):
    path = tmp_path / "again.net"
    assert run_weights("export", "--format", "deep_compression", "--model_dir", "squeezenet_v1_0",
                       "--output", path) == 0  # fmt: skip
    assert path.stat().st_size == 675_763
    config = config_io.load("squeezenet_v1_0")
    arrays, _ = importing.read("deep_compression", [path.read_bytes()], config, "file")
    state, meta = checkpoint.load(published / "checkpoints", 0)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, state[name])
    assert meta["imported"]["licence"].startswith("BSD")
