"""Tests for `squeezenext/train.py` and `run.py`, through the command line a user types."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from squeezenext.errors import InputError
from squeezenext.model import checkpoint
from squeezenext.model import directory as model_directory
from squeezenext.records import tfrecord
from squeezenext.train import command as train_command
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


def start(arguments, **more):
    return subprocess.Popen(
        [*arguments, "--deterministic"],
        # The configurations here import TensorFlow before the command can ask for this.
        env=tiny.environment(TF_ENABLE_ONEDNN_OPTS="0", **more),
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def wait_for_checkpoint(process, model_dir):
    while process.poll() is None and not checkpoint.steps(model_dir / "checkpoints"):
        time.sleep(0.01)


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
    errors = finish(start(command(place, model_dir, "--num_epochs", "6")))
    (model_dir / "stderr").write_text(errors)
    return model_dir


def test_what_a_run_leaves(undisturbed):
    document = final(undisturbed)
    assert set(document) == {
        *("step", "epoch", "examples_seen", "top1", "top5", "loss", "weights_sha256")
    }
    assert (document["step"], document["epoch"], document["examples_seen"]) == (30, 6.0, 240)
    assert document["top1"] > 0.5  # chance is a third; the colour tells the class
    errors = (undisturbed / "stderr").read_text()
    assert "oneDNN off" in errors  # --deterministic; the log says what was chosen
    assert "Building the graph" in errors and "First step: " in errors and "AutoGraph" not in errors
    rows = list(csv.DictReader(open(undisturbed / "history.csv")))
    assert [row["step"] for row in rows] == ["5", "10", "15", "20", "25", "30"]
    assert float(rows[-1]["validation_top1"]) == pytest.approx(document["top1"])
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    for name in ("config.json", "labels.json", "model_stats.csv", "train.log", "model.tflite"):
        assert (undisturbed / name).stat().st_size > 0
    assert any((undisturbed / "tensorboard").iterdir())
    assert checkpoint.steps(undisturbed / "checkpoints")[-1] == 30


def test_killed_stopped_damaged_and_resumed_equals_undisturbed(place, undisturbed):
    """SIGKILL in the middle of an epoch, then SIGTERM, then a flipped byte."""
    model_dir = place / "killed"
    flags = ("--num_epochs", "6", "--checkpoint_minutes", "0")
    for kind, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)):
        before = checkpoint.steps(model_dir / "checkpoints")
        process = start(command(place, model_dir, *flags))
        while process.poll() is None and checkpoint.steps(model_dir / "checkpoints") == before:
            time.sleep(0.01)
        process.send_signal(kind)
        errors = finish(process, code)
        assert bool(before) == ("Resuming at step" in errors)
    steps = checkpoint.steps(model_dir / "checkpoints")
    assert 0 < steps[-2] < steps[-1] < 30 and not (model_dir / "final.json").exists()
    assert "Stopped and saved at step" in (model_dir / "train.log").read_text()
    path = model_dir / "checkpoints" / f"step-{steps[-1]:08d}" / "state.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    errors = finish(start(command(place, model_dir, *flags)))
    assert "state.npz is damaged" in errors and f"Resuming at step {steps[-2]}" in errors
    assert final(model_dir) == final(undisturbed)
    assert (model_dir / "model.tflite").read_bytes() == (undisturbed / "model.tflite").read_bytes()
    columns = ("step", "loss", "validation_loss", "validation_top1")
    ours, theirs = (
        [[row[name] for name in columns] for row in csv.DictReader(open(each / "history.csv"))]
        for each in (model_dir, undisturbed)
    )
    assert ours == theirs


def test_a_stopped_worker_is_named_and_both_go_on(place):
    """The second worker's copy of the data lacks two records: what it leaves out is told, too."""
    content = bytearray((place / "large").read_bytes())
    for start_of in tfrecord.offsets(place / "large")[[7, 50]]:
        content[int(start_of) + 40] ^= 1
    (place / "copy").write_bytes(content)
    flags = ("--num_epochs", "10", "--evaluate_every_epochs", "0")
    flags = (*flags, "--on_bad_record", "skip", "--checkpoint_minutes", "0")

    def both(batch):
        for name, config in zip(("large", "copy"), tiny.tf_configs(2), strict=True):
            one = command(place, place / "two", *flags, configuration="squeezenext", records=name)
            yield start([*one, "--batch_size", batch], TF_CONFIG=config)

    chief, worker = both("32")
    wait_for_checkpoint(chief, place / "two")
    worker.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    errors = finish(chief, 75)
    worker.kill()
    assert "Worker 1 (127.0.0.1:" in errors.splitlines()[-1], errors
    assert "has not answered" in (place / "two" / "train.log").read_text()
    assert time.monotonic() - stopped < 30
    assert 0 < checkpoint.steps(place / "two" / "checkpoints")[-1] < 20
    workers = list(both("512"))  # would be fitted to 64; the run that is there has 32
    assert all("Resuming at step" in finish(process) for process in workers)
    assert final(place / "two")["step"] == 20 and final(place / "two")["bad_records"] == 2
    rows = list(csv.DictReader(open(place / "two" / "bad_records.csv")))
    assert [row["number"] for row in rows] == ["7", "50"]
    assert all("another worker" in row["fault"] for row in rows)


def test_a_second_trainer_is_kept_out(place):
    model_dir = place / "held"
    with train_command.locked(model_dir):
        code = train_command.main(command(place, model_dir)[2:])
    assert code == 75


def test_a_second_worker_is_kept_out(place, monkeypatch, capsys):
    """Else its sign of life would hide that the true one has died, or its end would end the run."""
    model_dir = place / "held"
    monkeypatch.setenv("TF_CONFIG", tiny.tf_configs(2)[1])
    with train_command.locked(model_dir, ".lock-1"):
        assert train_command.main(command(place, model_dir)[2:]) == 75
    assert f"works in {model_dir}, which holds .lock-1" in capsys.readouterr().err


def test_the_other_workers_are_told_of_records_that_are_not_there(place, tmp_path, monkeypatch):
    """Else they would wait for this one, and end with the 75 that starts all of them again."""
    from squeezenext.train import cluster, watchdog

    monkeypatch.setattr(watchdog, "LINGER_SECONDS", 0.0)
    monkeypatch.setenv("TF_CONFIG", tiny.tf_configs(2)[1])
    flags = ("--training_file_pattern", "/nowhere/*")
    assert train_command.main([*command(place, tmp_path / "model")[2:], *flags]) == 2
    told = cluster.Heartbeat.read(tmp_path / "model" / model_directory.WORKERS / "1.json")
    assert (told.state, told.code) == ("left", 2) and "No file matches /nowhere" in told.reason


def test_several_workers_are_not_profiled(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", tiny.tf_configs(2)[0])
    assert train_command.main([*command(place, tmp_path / "model")[2:], "--profile_input"]) == 2
    assert "--profile_input measures one machine" in capsys.readouterr().err


def test_fine_tuning_with_another_number_of_classes(place, undisturbed, tmp_path, capfd):
    code = train_command.main(
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
    ("flags", "steps", "epoch", "batch"),
    [
        (["--batch_size", "512", "--num_epochs", "2"], 2, 2.0, 40),
        (["--batch_size", "41", "--num_epochs", "3"], 3, 3.0, 40),
        (["--batch_size", "39", "--num_epochs", "0.5"], 1, 0.5, 20),
        (["--batch_size", "64", "--num_epochs", "1", "--micro_batch_size", "16"], 1, 0.8, 32),
        (["--batch_size", "512", "--num_epochs", "1", "--set", "training.echo=3"], 1, 0.9, 36),
        (["--batch_size", "400", "--num_epochs", "1", "--set", "training.echo=40"], 1, 1.0, 40),
    ],
)
def test_a_batch_larger_than_the_data_is_fitted_to_it(
    place, tmp_path, capfd, flags, steps, epoch, batch
):
    """As it was, 512 images made one step of 2 epochs of 40: epoch 12.8."""
    assert train_command.main(command(place, tmp_path / "model", *flags)[2:]) == 0
    told = capfd.readouterr().err
    assert f"the batch is {batch}." in told
    assert ("comes closer" in told) == (epoch == 0.8)
    document = final(tmp_path / "model")
    assert (document["step"], document["epoch"]) == (steps, epoch)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["training"]["batch_size"] == batch
    # The same command knows the finished run again.
    assert train_command.main(command(place, tmp_path / "model", *flags)[2:]) == 0
    assert "holds a finished run" in capfd.readouterr().err


def test_a_run_that_began_with_a_larger_batch_keeps_it(place, tmp_path, capfd, monkeypatch):
    from squeezenext.train import job

    flags = ("--batch_size", "64", "--num_epochs", "4")
    with monkeypatch.context() as before:
        before.setattr(job, "_fitted", lambda config, *_: config)
        assert train_command.main(command(place, tmp_path / "model", *flags)[2:]) == 0
    more = (*flags[:2], "--num_epochs", "8")
    assert train_command.main(command(place, tmp_path / "model", *more)[2:]) == 0
    assert "the batch is" not in capfd.readouterr().err
    assert final(tmp_path / "model")["step"] == 5


def test_a_run_whose_batch_was_fitted_goes_on_with_it(place, tmp_path, capfd):
    """With more epochs another batch would fit; a damaged newest checkpoint does not mislead."""
    model_dir = tmp_path / "model"

    def begin(*flags):
        return train_command.main(command(place, model_dir, "--batch_size", "512", *flags)[2:])

    assert begin("--num_epochs", "0.5") == 0
    assert begin("--num_epochs", "2") == 0
    assert "Resuming at step 1 of 4" in capfd.readouterr().err
    newest = checkpoint.steps(model_dir / "checkpoints")[-1]
    (model_dir / "checkpoints" / f"step-{newest:08d}" / "state.npz").write_bytes(b"damaged")
    assert begin("--num_epochs", "3") == 0
    errors = capfd.readouterr().err
    assert "state.npz is damaged" in errors and "the batch is 20." in errors
    assert final(model_dir)["step"] == 6


def test_a_run_of_an_earlier_release_keeps_its_linear_rates(place, tmp_path, capfd, monkeypatch):
    """The same command goes on, though the recipe's rates now follow the root of the batch."""
    from squeezenext.train import job

    flags = ("--recipe", "fine_tune", "--batch_size", "16")

    def begin(*more):
        arguments = command(place, tmp_path / "model", *flags, *more)[2:]
        return train_command.main(arguments)

    with monkeypatch.context() as before:
        rates = {"learning_rate": 0.0096, "rate_scaling": "linear", "reference_batch": 1024}
        linear = lambda config, *_: dataclasses.replace(  # noqa: E731
            config, training=dataclasses.replace(config.training, **rates)
        )
        before.setattr(job, "_fitted", linear)
        assert begin("--num_epochs", "2") == 0
    text = (tmp_path / "model" / "config.json").read_text()
    assert '"learning_rate": 0.0096' in text and "rate_scaling" not in text
    assert begin("--num_epochs", "3") == 0
    errors = capfd.readouterr().err
    assert "The run keeps its learning rates, which are linear in the batch." in errors
    assert '"learning_rate": 0.0096' in (tmp_path / "model" / "config.json").read_text()
    assert begin("--num_epochs", "4", "--set", "training.learning_rate=0.0096") == 0  # as it was


def test_a_high_rate_of_adam_without_batch_norm_is_named(place, tmp_path, capfd):
    flags = ("--set", "training.optimizer=adamw", "--num_epochs", "1", "--set")
    for rate, named in (("0.5", False), ("1.25", True)):  # 3.9e-3 and 9.8e-3 at 8 images
        more = (*flags, f"training.learning_rate={rate}")
        assert train_command.main(command(place, tmp_path / rate, *more)[2:]) == 0
        told = "A learning rate of 0.0098 is high for adamw without batch norm"
        assert (told in capfd.readouterr().err) == named


def test_a_fitted_batch_that_other_devices_cannot_share_is_named(place, tmp_path):
    flags = ("--batch_size", "512", "--num_epochs", "0.5")
    finish(start(command(place, tmp_path / "model", *flags)))
    errors = finish(start(command(place, tmp_path / "model", *flags, "--devices", "3")), 2)
    assert "holds a run with batches of 20 images, which 3 devices cannot share" in errors


def test_a_network_that_has_died_is_named_once(place, tmp_path, capfd):
    """At this rate all ReLUs are off after the first steps: no gradient, the loss is ln(3)."""
    flags = ("--set", "training.learning_rate=3000", "--set", "training.warmup_epochs=0")
    for folder, more in (("one", ()), ("two", ("--evaluate_every_epochs", "0"))):
        told = command(place, tmp_path / folder, "--num_epochs", "6", *flags, *more)[2:]
        assert train_command.main(told) == 0
        errors = capfd.readouterr().err.split("Done:")[0]
        assert errors.count("The network has died: by step ") == 1
        document = final(tmp_path / folder)
        assert document["warning"] in errors and "lower training.learning_rate" in errors
        assert document["loss"] == pytest.approx(1.0986, abs=1e-4)
    assert "no gradient came to its classifier for" in document["warning"]


def test_linear_probing_trains_the_classifier_alone(place, undisturbed, tmp_path, capfd):
    flags = ("--fine_tune_from", str(undisturbed), "--set", "training.frozen_epochs=2")
    flags = (*flags, "--set", "training.class_weights=balanced", "--num_epochs", "2")
    assert train_command.main(command(place, tmp_path / "probe", *flags)[2:]) == 0
    assert "Only the classifier learns" in capfd.readouterr().err
    before, after = (
        checkpoint.evaluated(checkpoint.newest(folder / "checkpoints", print)[0])
        for folder in (undisturbed, tmp_path / "probe")
    )
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"model/conv10/kernel", "model/conv10/bias"}
    rows = list(csv.DictReader(open(tmp_path / "probe" / "history.csv")))
    assert [float(row["learning_rate"]) for row in rows][-1] == 0  # the schedule is of the probing


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--configuration", "v_1_0_SqNext_23"], "like it: v_1_0_SqNxt_23"),
        (["--set", "training.epoks=3"], "no field 'epoks'"),
        (["--batch_size", "0"], "--batch_size"),
        (["--micro_batch_size", "3"], "--micro_batch_size 3 does not divide"),
        (["--precision", "float64"], "--precision=float64"),
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
    assert train_command.main([*base, *flags]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0]


def test_nan_stops_the_run_and_says_where(place, tmp_path, capfd):
    flags = ("--set", "training.learning_rate=1e30", "--set", "training.warmup_epochs=0.0")
    assert train_command.main(command(place, tmp_path / "nan", *flags)[2:]) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert "is not finite; the batch was " in error and "the last checkpoint is none" in error
    (listed,) = (tmp_path / "nan").glob("not-finite-*.txt")
    assert len(listed.read_text().splitlines()) == 8
    assert error.removeprefix("error: ") in (tmp_path / "nan" / "train.log").read_text()


def test_a_device_without_memory_is_one_sentence(place, tmp_path, capsys, monkeypatch):
    import tensorflow as tf

    from squeezenext.train import loop

    def fails(text, kind=tf.errors.ResourceExhaustedError):
        def full(*_):
            raise kind(None, None, text)

        monkeypatch.setattr(loop.Loop, "train", full)
        code = train_command.main(command(place, tmp_path / "model", "--seed", "1")[2:])
        return code, capsys.readouterr().err.splitlines()[-1]

    code, told = fails("OOM when allocating tensor with shape[8,64,113,113] by allocator GPU_0_bfc")
    assert code == 2 and told == (
        "error: A device's memory is too small for 8 images at once; run again with "
        "--micro_batch_size 4."
    )
    for text, kind in {
        "No algorithm worked!": tf.errors.NotFoundError,
        "create cudnn handle": tf.errors.InternalError,
    }.items():
        code, told = fails(f"2 root errors found. (0) ... {text} ...", kind)
        assert code == 2 and told == (
            "error: A device's memory is too small for 8 images at once, or another program fills "
            f"it ({text}); run again with --micro_batch_size 4."
        )
    for text in ("Op type not registered", "NCCL: unhandled cuda error"):
        assert fails(text, tf.errors.NotFoundError)[0] == 1
    code, told = fails("/x; No space left on device")
    assert code == 75
    assert told == "error: No space left on device; make room and run the same command again."


def test_a_signal_while_foreign_records_are_read_through(place, tmp_path, monkeypatch, capsys):
    def slow(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(train_command.dataset, "find_dataset", slow)
    assert train_command.main(command(place, tmp_path / "model")[2:]) == 75
    assert "Interrupted; run the same command again" in capsys.readouterr().err


def test_a_finished_run_says_so(place, undisturbed, capfd):
    before = (undisturbed / "final.json").stat().st_mtime_ns
    assert train_command.main(command(place, undisturbed, "--num_epochs", "6")[2:]) == 0
    assert "holds a finished run of 30 steps" in capfd.readouterr().err
    assert (undisturbed / "final.json").stat().st_mtime_ns == before


def test_another_seed_or_network_is_refused(place, undisturbed):
    assert (
        train_command.main(command(place, undisturbed, "--seed", "7", "--num_epochs", "6")[2:]) == 2
    )
    other = command(place, undisturbed, configuration="squeezenext")[2:]
    assert train_command.main(other) == 2


def test_devices_must_share_the_batch(place, tmp_path, capsys):
    flags = ("--devices", "2", "--batch_size", "9")
    assert train_command.main([*command(place, tmp_path / "model")[2:], *flags]) == 2
    assert "--batch_size 9 does not divide among 2" in capsys.readouterr().err


def test_what_a_user_gets_wrong_does_not_wait_for_tensorflow(tmp_path):
    """One process for all: TensorFlow must not have been imported after any of them."""
    program = f"""
import sys
from squeezenext import evaluate, stats, train
names = [["--configuration", "nosuch"], ["--set", "images.x=1"], ["--data_dir", "/nowhere"],
         ["--precision", "float8"], ["--on_nan", "maybe"], ["--cluster", "slurm"]]
for flags in names:
    flags = flags if "--data_dir" in flags else ["--training_file_pattern", "{__file__}", *flags]
    assert train.main(["train", "--model_dir", "{tmp_path}/model", *flags]) == 2, flags
assert evaluate.main(["evaluate", "--model_dir", "{tmp_path}", "--data_dir", "/nowhere"]) == 2
assert stats.main(["stats", "--configuration", "nosuch"]) == 2
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=tiny.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == 8


def test_deterministic_too_late_is_said(place, tmp_path, capsys):
    import tensorflow as tf

    tf.zeros(1)
    assert train_command.main([*command(place, tmp_path / "model")[2:], "--deterministic"]) == 2
    told = capsys.readouterr().err
    assert "too late" in told and ("TF_ENABLE_ONEDNN_OPTS=0" in told or "of its own" in told)


@pytest.fixture(scope="module")
def damaged(place):
    """The 40 examples with one byte of one of them changed."""
    content = bytearray((place / "small").read_bytes())
    content[len(content) // 2] ^= 1
    (place / "bad").write_bytes(content)
    return ("--training_file_pattern", str(place / "bad"))


def test_a_damaged_record_is_one_sentence(place, damaged, tmp_path, capsys):
    assert train_command.main([*command(place, tmp_path / "model")[2:], *damaged]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "bad" in errors[0] and "record" in errors[0]


def test_a_damaged_record_is_left_out_on_request(place, damaged, tmp_path, capsys):
    model_dir = tmp_path / "model"
    flags = (*damaged, "--on_bad_record", "skip", "--num_epochs", "1")
    assert train_command.main([*command(place, model_dir)[2:], *flags]) == 0
    assert final(model_dir)["bad_records"] == 1 and final(model_dir)["examples_seen"] == 40
    told = [line for line in capsys.readouterr().err.splitlines() if "Skipped:" in line]
    assert len(told) == 1 and "fails its checksum" in told[0]
    rows = list(csv.DictReader(open(model_dir / "bad_records.csv")))
    assert len(rows) == 1 and f"record {rows[0]['number']} fails" in rows[0]["fault"]
    (model_dir / "bad_records.csv").write_text("number,fault\nx,y\n")
    assert train_command.main([*command(place, model_dir)[2:], *flags]) == 2
    assert f"{model_dir / 'bad_records.csv'} is no list of" in capsys.readouterr().err
    (model_dir / "bad_records.csv").unlink()
    damaged_scores = ("--validation_file_pattern", str(place / "bad"), "--num_epochs", "2")
    assert train_command.main([*command(place, model_dir)[2:], *flags, *damaged_scores]) == 2
    assert "fails its checksum" in capsys.readouterr().err  # evaluation leaves nothing out


def test_a_label_that_the_network_lacks_is_one_sentence(place, tmp_path, capsys):
    flags = ("--set", "model.classes=2")
    assert train_command.main([*command(place, tmp_path / "model")[2:], *flags]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "label of a record is not in 1..2" in errors[0]


def test_a_run_goes_on_only_with_its_own_recipe(place, undisturbed, capsys):
    before = (undisturbed / "config.json").read_bytes()
    flags = ("--num_epochs", "6", "--set", "training.momentum=0.5")
    assert train_command.main([*command(place, undisturbed)[2:], *flags]) == 2
    assert "training.momentum = 0.9, not 0.5" in capsys.readouterr().err
    assert (undisturbed / "config.json").read_bytes() == before


def test_a_stranger_s_directory_writes_nowhere_else(place, tmp_path):
    """Its log leads to the user's start-up file, its META.json names a command."""
    home, model_dir = tmp_path / "home", tmp_path / "theirs"
    home.mkdir()
    (home / ".bashrc").write_text("mine\n")
    tiny.model_directory(model_dir, tiny.SQUEEZENEXT)
    (model_dir / "train.log").symlink_to(home / ".bashrc")
    meta = model_dir / "checkpoints" / "step-00000000" / "META.json"
    document = json.loads(meta.read_text())
    document["files"] = {"x\ntouch PWNED\n:": "0"}
    document["sha256"] = checkpoint._meta_sha256(document)
    meta.write_text(json.dumps(document))
    run = command(place, model_dir, configuration="squeezenext")
    errors = finish(start(run), 2)
    assert "train.log is a symbolic link; put the file itself there" in errors
    assert (home / ".bashrc").read_text() == "mine\n"
    (model_dir / "train.log").unlink()
    errors = finish(start(run), 2)
    assert "holds no whole checkpoint" in errors
    assert "touch PWNED" not in (model_dir / "train.log").read_text().splitlines()


@pytest.mark.parametrize("name", model_directory.FOLDERS)
def test_no_folder_of_a_stranger_s_directory_may_be_a_link(tmp_path, name):
    (tmp_path / "home").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).symlink_to(tmp_path / "home")
    with pytest.raises(InputError, match=f"{name} is a symbolic link; put the folder itself there"):
        with train_command.locked(tmp_path / "theirs"):
            pass


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("final.json", "{}", "final.json would be replaced, but .* is not a model directory"),
        (
            "MODEL_CARD.md",
            "mine",
            "MODEL_CARD.md would be replaced, .*; choose another --model_dir",
        ),
        ("config.json", '{"type": "bert"}', "config.json is not a configuration of this version"),
    ],
)
def test_no_file_of_another_program_is_replaced(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        with train_command.locked(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == text
