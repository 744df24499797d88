"""The documented commands, from the archives in their official form to a prediction."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.imagenet_archives import real_imagenet


def run(*arguments, code=0, **environment):
    """Runs a command from the repository, as a user would; returns (output, errors)."""
    result = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == code, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def imagenet(shared, tmp_path_factory):
    """DATA_DIR with the three archives, converted."""
    folder = tmp_path_factory.mktemp("imagenet")
    real_imagenet(folder)
    run("bash", "datasets/process_downloaded_imagenet.sh", folder, "--partial")
    return folder


@pytest.fixture(scope="module")
def trained(imagenet):
    """Two epochs of 1.0-SqNxt-23 at batch 32, gradients accumulated over two halves."""
    model_dir = imagenet / "model"
    run("bash", "run_train.sh", "--batch_size", 32, "--micro_batch_size", 16, "--num_epochs", 2,
        DATA_DIR=str(imagenet), MODEL_DIR=str(model_dir))  # fmt: skip
    return model_dir


def test_conversion(imagenet):
    manifest = json.loads((imagenet / "tf-records" / "manifest.json").read_text())
    assert {name: split["examples"] for name, split in manifest["splits"].items()} == {
        "train": 100, "validation": 100,
    }  # fmt: skip
    assert len(manifest["classes"]) == 1000
    assert not list(imagenet.rglob("*.JPEG"))  # nothing was extracted


def test_training_evaluation_and_prediction(imagenet, trained):
    final = json.loads((trained / "final.json").read_text())
    assert final["step"] == 6 and final["examples_seen"] == 192
    out, _ = run(sys.executable, "-m", "squeezenext.evaluate", "--model_dir", trained,
                 "--data_dir", imagenet / "tf-records", "--json")  # fmt: skip
    scores = json.loads(out)
    assert scores["examples"] == 100 and scores.keys() >= {"top1", "top5", "loss", "examples"}
    assert scores["top1"] == pytest.approx(final["top1"], abs=0.03)  # trained in bfloat16 here
    subprocess.run(["tar", "xf", imagenet / "ILSVRC2012_img_val.tar", "-C", imagenet / "model"],
                   check=True)  # fmt: skip
    image = sorted(trained.glob("ILSVRC2012_val_*.JPEG"))[0]
    out, _ = run(sys.executable, "predict.py", image, "--model_dir", trained, "--format", "json")
    assert len(json.loads(out)["predictions"]) == 5


def test_a_published_model_is_fine_tuned_to_other_classes(shared, tmp_path, imagenet):
    """Three classes of the ImageNet images as a folder of photographs."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    archive = shared / "imagenet-100.tar"
    classes = ("n01440764", "n01530575", "n01601694")
    subprocess.run(
        ["tar", "xf", archive, "-C", photographs, *(f"./{name}" for name in classes)], check=True
    )
    for name in classes:
        image = photographs / name / f"{name}_1.JPEG"
        for copy in range(4):
            (photographs / name / f"copy{copy}.jpg").write_bytes(image.read_bytes())
    records, model_dir = tmp_path / "records", tmp_path / "model"
    run(sys.executable, "-m", "datasets.convert", "--layout", "folder", "--source", photographs,
        "--output", records)  # fmt: skip
    published = {"SQUEEZENEXT_WEIGHTS": str(shared / "weights")}
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    run(sys.executable, "-m", "squeezenext.train", "--configuration", "squeezenet_v1_0",
        "--fine_tune_from", "squeezenet_v1_0", "--data_dir", records, "--model_dir", model_dir,
        "--batch_size", 12, "--num_epochs", 4, "--precision", "float32",
        "--set", "training.optimizer=adam", "--set", "training.learning_rate=0.0064",
        "--set", "training.schedule=cosine", **published, **cache)  # fmt: skip
    assert (
        "Fine-tuning from squeezenet_v1_0; new: model/conv10"
        in (model_dir / "train.log").read_text()
    )
    _, errors = run(sys.executable, "-m", "squeezenext.evaluate", "--model_dir", model_dir,
                    "--data_dir", imagenet / "tf-records", code=2)  # fmt: skip
    assert "has 1000 classes, the model in" in errors and "tells 3 apart" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_dir", "/nowhere", "--data_dir", "/nowhere"], "no model directory /nowhere"),
        (["--model_dir", "/tmp", "--data_dir", "/nowhere"], "/nowhere"),
        (["--data_dir", "/tmp"], "--model_dir is missing"),
    ],
)
def test_bad_use_of_evaluate(arguments, message, capsys):
    from squeezenext import evaluate

    assert evaluate.main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_stats_prints_json_and_writes_csv(tmp_path):
    path = tmp_path / "stats.csv"
    out, _ = run(sys.executable, "-m", "squeezenext.stats", "--configuration", "v_1_0_SqNxt_23",
                 "--json", "--csv", path)  # fmt: skip
    document = json.loads(out)
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
