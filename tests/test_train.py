"""Tests for `../squeezenext/train.py` and `run.py`, through the command line a user types."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from squeezenext import checkpoint, train
from tests import tiny
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with shards of 40 and 64 examples, and both tiny configurations as files."""
    folder = tmp_path_factory.mktemp("train")
    tiny.shard(folder / "small", 40)
    tiny.shard(folder / "large", 64)
    for name in ("SQUEEZENET", "SQUEEZENEXT"):
        text = f"from tests.tiny import {name} as CONFIG\n"
        (folder / f"{name.lower()}.py").write_text(text)
    return folder


def command(place, model_dir, *flags, configuration="squeezenet", records="small"):
    return [
        *(sys.executable, "-m", "squeezenext.train", "--precision", "float32"),
        *("--configuration", str(place / f"{configuration}.py")),
        *("--training_file_pattern", str(place / records), "--model_dir", str(model_dir)),
        *("--validation_file_pattern", str(place / "small"), *flags),
    ]


def environment(**more):
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3"} | more


def start(arguments, **more):
    return subprocess.Popen(
        [*arguments, "--deterministic"],
        env=environment(**more),
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def finish(process, code=0):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors[-3000:]
    return errors


def final(model_dir):
    return json.loads((model_dir / "final.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(place):
    """A whole run of 6 epochs with dropout, augmentation and a moving average."""
    model_dir = place / "undisturbed"
    finish(start(command(place, model_dir, "--num_epochs", "6")))
    return model_dir


def test_what_a_run_leaves(undisturbed):
    document = final(undisturbed)
    assert set(document) == {
        *("step", "epoch", "examples_seen", "top1", "top5", "loss", "weights_sha256")
    }
    assert (document["step"], document["epoch"], document["examples_seen"]) == (30, 6.0, 240)
    assert document["top1"] > 0.5  # chance is a third; the colour tells the class
    rows = list(csv.DictReader(open(undisturbed / "history.csv")))
    assert [row["step"] for row in rows] == ["5", "10", "15", "20", "25", "30"]
    assert float(rows[-1]["validation_top1"]) == pytest.approx(document["top1"])
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    for name in ("config.json", "labels.json", "model_stats.csv", "train.log", "model.tflite"):
        assert (undisturbed / name).stat().st_size > 0
    assert any((undisturbed / "tensorboard").iterdir())
    assert checkpoint.steps(undisturbed / "checkpoints")[-1] == 30


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_equals_undisturbed(place, undisturbed, kind):
    """In the middle of an epoch, after a checkpoint that the next run takes up."""
    model_dir = place / f"killed-{kind.name}"
    flags = ("--num_epochs", "6", "--checkpoint_minutes", "0")
    process = start(command(place, model_dir, *flags))
    while process.poll() is None and not checkpoint.steps(model_dir / "checkpoints"):
        time.sleep(0.01)
    process.send_signal(kind)
    finish(process, code=75 if kind == signal.SIGTERM else -signal.SIGKILL)
    reached = checkpoint.steps(model_dir / "checkpoints")[-1]
    assert 0 < reached < 30 and not (model_dir / "final.json").exists()
    errors = finish(start(command(place, model_dir, *flags)))
    assert "Resuming at step" in errors
    assert final(model_dir) == final(undisturbed)
    assert (model_dir / "model.tflite").read_bytes() == (undisturbed / "model.tflite").read_bytes()


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(place, undisturbed):
    model_dir = place / "damaged"
    subprocess.run(["cp", "-r", undisturbed, model_dir], check=True)
    (model_dir / "final.json").unlink()
    newest = checkpoint.steps(model_dir / "checkpoints")[-1]
    path = model_dir / "checkpoints" / f"step-{newest:08d}" / "state.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    errors = finish(start(command(place, model_dir, "--num_epochs", "6")))
    assert "state.npz is damaged" in errors and "Resuming at step 25" in errors
    assert final(model_dir) == final(undisturbed)


def test_two_workers_equal_one(place):
    flags = ("--num_epochs", "10", "--batch_size", "32", "--set", "training.learning_rate=0.01")
    flags += ("--set", "training.warmup_epochs=0.0", "--evaluate_every_epochs", "0")
    options = {"configuration": "squeezenext", "records": "large"}
    one = start(command(place, place / "one", *flags, **options))
    finish(one)
    sockets = [socket.socket() for _ in range(2)]
    for held in sockets:
        held.bind(("127.0.0.1", 0))
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    workers = [
        start(
            command(place, place / "two", *flags, **options),
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}}),
        )
        for i in range(2)
    ]
    for worker in workers:
        finish(worker)
    (single, _), (double, _) = (
        checkpoint.load(place / name / "checkpoints", 20) for name in ("one", "two")
    )
    for name, array in single.items():
        if name.split("/")[-1] in ("kernel", "gamma", "beta"):
            np.testing.assert_allclose(double[name], array, atol=1e-4, err_msg=name)
    assert final(place / "two")["top1"] == pytest.approx(final(place / "one")["top1"], abs=0.05)


def test_a_second_trainer_is_kept_out(place):
    model_dir = place / "held"
    with train._locked(model_dir, chief=True):
        code = train.main(command(place, model_dir)[2:])
    assert code == 75


def test_fine_tuning_with_another_number_of_classes(place, undisturbed, tmp_path, capfd):
    code = train.main(
        command(
            place, tmp_path / "tuned", "--fine_tune_from", str(undisturbed), "--num_epochs", "0.2",
            "--set", "model.classes=5",
        )[2:]
    )  # fmt: skip
    assert code == 0, capfd.readouterr().err
    assert "new: model/conv10/bias, model/conv10/kernel" in (
        tmp_path / "tuned" / "train.log"
    ).read_text().replace("kernel, model/conv10/bias", "bias, model/conv10/kernel")
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["model"]["classes"] == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--configuration", "v_1_0_SqNext_23"], "nearest are v_1_0_SqNxt_23"),
        (["--set", "training.epoks=3"], "no field 'epoks'"),
        (["--batch_size", "0"], "--batch_size"),
        (["--micro_batch_size", "3"], "--micro_batch_size 3 does not divide"),
        (["--precision", "float64"], "--precision float64"),
        (["--training_file_pattern", "/nowhere/*"], "No file matches /nowhere"),
        (["--data_dir", "/nowhere"], "/nowhere"),
        (["--fine_tune_from", "/nowhere"], "no model directory /nowhere"),
        (["--unknown", "1"], "unknown"),
        (["extra"], "Unexpected argument 'extra'"),
    ],
)
def test_bad_input_is_one_sentence(place, tmp_path, capsys, flags, message):
    base = command(place, tmp_path / "model")[2:]
    if "--data_dir" in flags:
        base = base[: base.index("--training_file_pattern")] + ["--model_dir", str(tmp_path)]
    assert train.main([*base, *flags]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0]


def test_nan_stops_the_run_and_says_where(place, tmp_path, capfd):
    flags = ("--set", "training.learning_rate=1e30", "--set", "training.warmup_epochs=0.0")
    assert train.main(command(place, tmp_path / "nan", *flags)[2:]) == 1
    assert "not finite" in capfd.readouterr().err


def test_another_seed_or_network_is_refused(place, undisturbed):
    assert train.main(command(place, undisturbed, "--seed", "7", "--num_epochs", "6")[2:]) == 2
    other = command(place, undisturbed, configuration="squeezenext")[2:]
    assert train.main(other) == 2


def test_devices_must_share_the_batch(place, tmp_path):
    flags = ("--devices", "2", "--batch_size", "9")
    errors = finish(start(command(place, tmp_path / "model", *flags)), code=2)
    assert "--batch_size 9 does not divide among 2" in errors


def test_deterministic_too_late_is_said(place, tmp_path, capsys):
    import tensorflow as tf

    tf.zeros(1)
    assert train.main([*command(place, tmp_path / "model")[2:], "--deterministic"]) == 2
    assert "too late" in capsys.readouterr().err


@pytest.fixture(scope="module")
def damaged(place):
    """The 40 examples with one byte of one of them changed."""
    content = bytearray((place / "small").read_bytes())
    content[len(content) // 2] ^= 1
    (place / "bad").write_bytes(content)
    return ("--training_file_pattern", str(place / "bad"))


def test_a_damaged_record_is_one_sentence(place, damaged, tmp_path, capsys):
    assert train.main([*command(place, tmp_path / "model")[2:], *damaged]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "bad" in errors[0] and "record" in errors[0]


def test_a_damaged_record_is_left_out_on_request(place, damaged, tmp_path, capsys):
    model_dir = tmp_path / "model"
    flags = (*damaged, "--on_bad_record", "skip", "--num_epochs", "1")
    assert train.main([*command(place, model_dir)[2:], *flags]) == 0
    assert final(model_dir)["bad_records"] == 1 and final(model_dir)["examples_seen"] == 40
    told = [line for line in capsys.readouterr().err.splitlines() if "Left out:" in line]
    assert len(told) == 1 and "fails its checksum" in told[0]
    rows = list(csv.DictReader(open(model_dir / "bad_records.csv")))
    assert len(rows) == 1 and f"record {rows[0]['number']} fails" in rows[0]["fault"]
    damaged_scores = ("--validation_file_pattern", str(place / "bad"), "--num_epochs", "2")
    assert train.main([*command(place, model_dir)[2:], *flags, *damaged_scores]) == 2
    assert "fails its checksum" in capsys.readouterr().err  # evaluation leaves nothing out


def test_a_label_that_the_network_lacks_is_one_sentence(place, tmp_path, capsys):
    flags = ("--set", "model.classes=2")
    assert train.main([*command(place, tmp_path / "model")[2:], *flags]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "label of a record is not in 1..2" in errors[0]


def test_a_run_goes_on_only_with_its_own_recipe(place, undisturbed, capsys):
    before = (undisturbed / "config.json").read_bytes()
    flags = ("--num_epochs", "6", "--set", "training.momentum=0.5")
    assert train.main([*command(place, undisturbed)[2:], *flags]) == 2
    assert "training.momentum = 0.9, not 0.5" in capsys.readouterr().err
    assert (undisturbed / "config.json").read_bytes() == before
