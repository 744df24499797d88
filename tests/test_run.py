"""Tests for `train/run.py` with `checkpoints`, `non_finite` and `history`, in process."""

import errno
import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from squeezenext import tf_import
from squeezenext.config import io as config_io
from squeezenext.errors import InputError, NotFinite, RunAgain
from squeezenext.model import card, checkpoint
from squeezenext.records import bad_records, batches, example
from squeezenext.train import (
    checkpoints,
    exchange,
    history,
    log,
    loggers,
    loop,
    measure,
    non_finite,
    run,
    tensorboard,
)
from squeezenext.train.options import Options
from tests import records, tiny
from tests.conftest import REPOSITORY


class Allergic(loop.Loop):
    """A loop that cannot bear one image: that whose pixels add up to `bad`."""

    def __init__(self, config, **options):
        self.bad = tf.Variable(-1, trainable=False)
        super().__init__(config, **options)
        augment = self.backward._augment

        def planted(images, labels, numbers):
            pixels, inputs, targets = augment(images, labels, numbers)
            sums = tf.reduce_sum(tf.cast(images, tf.int32), [1, 2, 3])
            factor = tf.where(tf.reduce_any(sums == self.bad), float("nan"), 1.0)
            return pixels, inputs * factor, targets

        self.backward._augment = planted


@pytest.fixture(scope="module")
def made(logical_devices, tmp_path_factory):
    """(reader of 40 examples, loop, its state before the first step)."""
    reader = tiny.reader(tmp_path_factory.mktemp("records"))
    made = Allergic(
        tiny.SQUEEZENEXT,
        strategy=tf.distribute.get_strategy(),
        precision="float32",
        examples=40,
        micro_batch=8,
        seed=3,
    )
    return reader, made, made.state()


def _write_little(patch: pytest.MonkeyPatch) -> None:
    """Leaves out what a model directory holds for others, and what needs its description."""
    patch.setattr(exchange, "write_litert", lambda folder, _: None)
    patch.setattr(card, "write", lambda folder: None)


@pytest.fixture
def start(made, monkeypatch):
    """Starts a run in a directory, as a new process would."""
    whole, looped, state = made
    _write_little(monkeypatch)

    def begin(model_dir, reader=whole, course=None, **options):
        looped.restore(state)
        looped.set_epochs(tiny.SQUEEZENEXT.training.epochs)
        looped.update.discard_accumulated(looped.strategy)
        model_dir.mkdir(exist_ok=True)
        return run.Run(
            looped, reader, whole, Options(model_dir=model_dir, **options), course=course
        )

    yield begin
    looped.bad.assign(-1)
    looped.set_epochs(tiny.SQUEEZENEXT.training.epochs)


@pytest.fixture(scope="module")
def undisturbed(made, tmp_path_factory):
    """What a run of two epochs ends with."""
    reader, looped, state = made
    looped.restore(state)
    with pytest.MonkeyPatch.context() as patch:
        _write_little(patch)
        folder = tmp_path_factory.mktemp("undisturbed")
        return run.Run(looped, reader, reader, Options(model_dir=folder)).run()


def test_a_run_keeps_its_choice_of_xla(made, start, tmp_path, monkeypatch):
    """Another choice would compute other last digits."""
    reader, looped, _ = made
    start(tmp_path / "run").run()
    assert looped.xla is None  # there was no GPU, and so no choice
    one = start(tmp_path / "run")
    one.resume()
    looped.use_xla(False)
    one.checkpoints.amend(one.progress)
    looped.use_xla(None)
    one.resume()
    assert looped.xla is False
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    monkeypatch.setattr(measure, "measure_xla", lambda *arguments: pytest.fail("measured anew"))
    measure.choose_xla(looped, reader, deterministic=False)
    assert looped.xla is False


def poison(made, number):
    """Makes the loop allergic to a record."""
    reader, looped, _ = made
    options = {"seed": 3, "start": 0, "micro_batch": 40, "share": batches.Share()}
    (numbers, _) = next(batches.training_numbers(40, **options))
    images = next(iter(batches.training(reader, tiny.IMAGES, tiny.CLASSES, **options)))[0]
    chosen = images[list(numbers).index(number)]
    looped.bad.assign(int(tf.reduce_sum(tf.cast(chosen, tf.int32))))


def test_rollback_goes_past_the_bad_batches(made, start, tmp_path):
    poison(made, 7)
    one = start(tmp_path / "one", on_nan="rollback", checkpoint_minutes=0.0)
    document = one.run()
    assert document["step"] == 10 and np.isfinite(document["loss"])
    rollbacks = one.progress.rollbacks
    assert 1 <= len(rollbacks) <= non_finite.MAX_ROLLBACKS and all(
        each["step"] > each["to"] for each in rollbacks
    )
    passed = sum(each["step"] - each["to"] for each in rollbacks) * 8
    assert one.progress.skipped_examples == passed and one.loop.update.skipped.numpy() == 0
    for path in (tmp_path / "one").glob("not-finite-*.txt"):
        assert "7.jpg" in path.read_text().split()
    meta = checkpoint.read_meta(tmp_path / "one" / "checkpoints", 10)
    assert meta["skipped_examples"] == passed and meta["rollbacks"] == rollbacks
    steps = [row["step"] for row in history._read_rows(tmp_path / "one" / "history.csv")]
    assert steps == ["5", "10"]


@pytest.mark.parametrize(
    ("name", "told"),
    [(b"a\nforged.jpg", r"a\nforged.jpg"), (7, "example 3"), (b"\xff.jpg", "\ufffd.jpg")],
)
def test_the_name_of_a_bad_record_forges_no_line(name, told):
    features = example.decode_example(tiny.payload(7, 1)) | {example.FILENAME: [name]}
    assert non_finite._file_name(records.encode_example(features), 3) == told


def test_stop_names_the_batch_and_rollbacks_have_an_end(made, start, tmp_path, monkeypatch):
    poison(made, 7)
    named = r"is not finite; the batch was .* and 5 more, all in.*can be done: go on with --on_nan"
    with pytest.raises(NotFinite, match=named):
        start(tmp_path / "stop").run()
    monkeypatch.setattr(non_finite, "MAX_ROLLBACKS", 0)
    with pytest.raises(NotFinite, match=r"checkpoint is step 0\. What can be done: begin anew"):
        start(tmp_path / "end", on_nan="rollback").run()


def test_a_full_disk_stops_nothing_until_the_end(made, start, undisturbed, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        with pytest.raises(RunAgain, match="No space left on device; the last checkpoint is none"):
            start(tmp_path / "full", checkpoint_minutes=0.0).run()
    again = start(tmp_path / "full")
    assert not again.resume() and again.run() == undisturbed


def test_a_list_of_bad_records_that_cannot_be_written(made, start, tmp_path, monkeypatch):
    """As with a checkpoint: training goes on, and the end, which needs it, says so."""

    def fails(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    _, looped, _ = made
    reader = tiny.reader(tmp_path)
    content = bytearray(reader.split.shards[0].path.read_bytes())
    content[int(reader.index[3]["offset"]) + 40] ^= 1
    reader.split.shards[0].path.write_bytes(content)
    reader.skip_damaged(log.LOG.warning)
    one = start(tmp_path / "run", reader)
    with monkeypatch.context() as patch:
        patch.setattr(bad_records, "write_text", fails)
        with pytest.raises(RunAgain, match="Step 10 cannot be saved .*: Read-only file system; "):
            one.run()
    assert looped.update.step.numpy() == 10 and not (tmp_path / "run" / "final.json").exists()
    assert start(tmp_path / "run", reader).run()["bad_records"] == 1
    assert bad_records.listed(tmp_path / "run" / bad_records.FILE) == [3]


def test_a_signal_during_evaluation_leaves_at_once_and_loses_nothing(
    made, start, undisturbed, tmp_path, monkeypatch
):
    first = start(tmp_path / "signal")
    evaluate = first.loop.evaluator.evaluate

    def interrupted(*arguments):
        first.signals.came = True
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(first.loop.evaluator, "evaluate", interrupted)
        with pytest.raises(RunAgain, match="evaluating step 5, which is saved"):
            first.run()
    again = start(tmp_path / "signal")
    assert again.resume() and again.progress.epoch_ended and again.loop.step == 5
    assert again.run() == undisturbed
    rows = history._read_rows(tmp_path / "signal" / "history.csv")
    assert [row["step"] for row in rows] == ["5", "10"]
    assert all(row["validation_top1"] for row in rows)
    points = curves(tmp_path / "signal" / "tensorboard")
    assert points["validation/loss"] == [5, 10] == points["validation/labels"]


def test_a_signal_at_the_very_end_lets_nothing_follow(start, undisturbed, tmp_path, monkeypatch):
    """After the last look at it; what is trained is saved, and adapt does not go on."""
    first = start(tmp_path / "late")
    write = exchange.write_end

    def interrupted(*arguments):
        first.signals.came = True
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(exchange, "write_end", interrupted)
        with pytest.raises(RunAgain, match="at the end, step 10, which is saved"):
            first.run()
    again = start(tmp_path / "late")
    assert again.resume() and again.run() == undisturbed


def curves(folder):
    """The steps of every tag in TensorBoard's files."""
    found = {}
    for path in sorted(folder.iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    return found


def test_a_finished_run_is_not_evaluated_again(made, start, tmp_path, monkeypatch):
    first = start(tmp_path / "done")
    document = first.run()
    (tmp_path / "done" / "model.tflite").touch()
    again = start(tmp_path / "done")
    monkeypatch.setattr(again.loop.evaluator, "evaluate", pytest.fail)
    assert again.resume() and again.run() == document


def test_another_recipe_data_or_version_is_told(made, start, tmp_path, caplog, monkeypatch):
    start(tmp_path / "run").run()
    folder = tmp_path / "run" / "checkpoints"
    meta = checkpoint.read_meta(folder, 10)
    assert meta["epoch_sums"]["examples"] == 0 and not meta["epoch_ended"]
    squeezenet = json.loads(config_io.to_json(tiny.SQUEEZENET))["model"]
    warm = meta["config"] | {"training": meta["config"]["training"] | {"warmup_epochs": 0.25}}
    changes = [
        (
            {"config": warm, "epoch": 0.4},
            "warmup_epochs = 0.25, .* --set training.warmup_epochs=0.25",
        ),
        ({"seed": 4}, "a run with seed 4"),
        ({"examples": 41}, "on 41 images"),
        ({"config": meta["config"] | {"training": {}}}, "training.batch_size = 1024, not 8"),
        ({"config": meta["config"] | {"model": squeezenet}}, "model = SqueezeNet, not SqueezeNext"),
    ]
    for change, message in changes:
        checkpoint.amend(folder, 10, meta | change)
        with pytest.raises(InputError, match=message):
            start(tmp_path / "run").resume()
    changed = {"versions": meta["versions"] | {"keras": "2.0"}, "precision": "mixed_float16"}
    # A recipe derives its warm-up from the epochs; where it is over, either is welcome.
    checkpoint.amend(folder, 10, meta | changed | {"micro_batch": 4, "config": warm})
    log.LOG.propagate = True
    one, told = start(tmp_path / "run"), []
    monkeypatch.setattr(one.loop.update, "restart_loss_scale", told.append)
    assert one.resume() and told == ["mixed_float16"]
    assert "saved by keras 2.0" in caplog.text
    assert "saved in mixed_float16 and goes on in float32" in caplog.text
    assert "saved with micro-batches of 4 and goes on with micro-batches of 8" in caplog.text


@pytest.mark.parametrize(
    ("version", "features", "onednn", "told"),
    [
        (2, "avx2", True, True),
        (1, "avx2", True, True),
        (2, "avx2", False, False),  # as it was, though the checkpoint says otherwise
        (2, "avx512_vnni", True, False),  # TensorFlow has always chosen oneDNN here
        (3, "avx2", True, False),
    ],
)
def test_kernels_that_an_old_checkpoint_misnames_are_told(
    made, start, old_run, caplog, monkeypatch, version, features, onednn, told
):
    """Up to format 2, "onednn" was "on" even where TensorFlow had left it off."""
    folder = old_run / "checkpoints"
    meta = checkpoint.read_meta(folder, 10)
    meta["versions"] |= {"onednn": "on"}
    text = checkpoint._meta_text(meta, 10, meta["files"], version)
    (folder / "step-00000010" / "META.json").write_text(text)
    monkeypatch.setattr(tf_import, "cpu_features", lambda: {"sse4_2", features})
    monkeypatch.setattr(checkpoints.tf_import, "onednn", lambda: onednn)
    log.LOG.propagate = True
    assert start(old_run).resume()
    sentence = "by onednn off and goes on with on (TF_ENABLE_ONEDNN_OPTS chooses): the figures may"
    assert (sentence in caplog.text) == ("the figures may differ" in caplog.text) == told


@pytest.fixture(scope="module")
def old_run(made, tmp_path_factory):
    """A model directory with a whole checkpoint of step 10."""
    reader, looped, state = made
    looped.restore(state)
    with pytest.MonkeyPatch.context() as patch:
        _write_little(patch)
        folder = tmp_path_factory.mktemp("old")
        run.Run(looped, reader, None, Options(model_dir=folder)).run()
    return folder


def test_a_field_that_the_checkpoint_does_not_know_has_its_default(made, start, tmp_path):
    """An upgrade that adds a field must not end the runs that were begun before it."""
    start(tmp_path / "run").run()
    folder = tmp_path / "run" / "checkpoints"
    meta = checkpoint.read_meta(folder, 10)
    del meta["config"]["model"]["stem_padding"], meta["config"]["training"]["echo"]
    checkpoint.amend(folder, 10, meta)
    assert start(tmp_path / "run").resume()


def test_a_damaged_amendment_ends_no_run(made, start, undisturbed, tmp_path, monkeypatch):
    """META.json goes bad between a save and the evaluation that belongs to it, the last's, too."""
    amend, told = checkpoint.amend, []

    def spoilt(folder, step, meta):
        (folder / f"step-{step:08d}" / "META.json").write_text("{}")
        amend(folder, step, meta)

    monkeypatch.setattr(checkpoint, "amend", spoilt)
    monkeypatch.setattr(
        checkpoints.LOG, "warning", lambda *words: told.append(words[0] % words[1:])
    )
    assert start(tmp_path / "run").run() == undisturbed
    assert len(told) == 2 and all(text.endswith("It will be saved anew.") for text in told)
    meta = checkpoint.read_meta(tmp_path / "run" / "checkpoints", 10)
    assert meta["best"]["top1"] == undisturbed["top1"] and not meta["epoch_ended"]


def test_a_full_disk_for_tensorboard_alone_is_no_failed_save(made, start, tmp_path, monkeypatch):
    def full(self):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tensorboard.TensorBoard, "flush", full)
    told = []
    monkeypatch.setattr(loggers.LOG, "warning", lambda *words: told.append(words[0] % words[1:]))
    assert start(tmp_path / "run").run()["step"] == 10
    assert len(told) == 1 and "TensorBoard's curves up to step" in told[0]


def test_a_further_logger_gets_the_curves_of_a_resumed_run_once(start, tmp_path, monkeypatch):
    told, made = [], []

    class Recorder:
        name = "The recorder"
        flush = close = lambda self: None

        def __init__(self, model_dir, config):
            made.append(model_dir)

        def curves(self, step, values):
            told.extend((step, name) for name in values)

    monkeypatch.setitem(loggers.LOGGERS, "mlflow", Recorder)
    one = start(tmp_path / "run", log_to=["mlflow"])
    one.total_steps = 5
    one.run()
    two = start(tmp_path / "run", log_to=["mlflow"])
    assert two.resume() and two.run()["step"] == 10
    assert made == [tmp_path / "run"] * 2
    epochs = [step for step, name in told if name == "train/loss"]
    assert epochs == sorted(set(epochs)) and epochs[-1] == 10
    assert ("validation/top1" in {name for _, name in told}) and len(told) == len(set(told))


def test_the_end_of_a_run_shows_what_a_logger_could_not(start, tmp_path, monkeypatch):
    shown = []

    class Recorder:
        name = "The recorder"
        flush = close = lambda self: None

        def __init__(self, model_dir, config):
            self.down = True

        def curves(self, step, values):
            if self.down:
                self.down = False
                raise OSError("No answer.")
            shown.append(step)

    monkeypatch.setattr(loggers, "PAUSE", 1e12)
    monkeypatch.setitem(loggers.LOGGERS, "mlflow", Recorder)
    start(tmp_path / "run", log_to=["mlflow"]).run()
    assert shown[-1] == 10 and shown == sorted(shown)


@pytest.mark.parametrize(
    "row",
    [b"a,b,c,7,e,f,g", b"\xff\xfe,5", b"1,\xc2\xb2", b"1,6" + b",x" * 30, b"1," + b"9" * 5000],
)
def test_a_history_that_a_person_has_touched_ends_no_run(made, tmp_path, row):
    """A further column, further cells, bytes that are no UTF-8, a step that is none."""
    path = tmp_path / "history.csv"
    path.write_bytes(b"epoch,step,of a later release\n1,4,x\n" + row + b"\n")
    told = history.History(tmp_path, made[1])
    told.begin(100)
    told.row(200, loss=1.0)
    told.write_rows()
    steps = [kept["step"] for kept in history._read_rows(path)]
    assert steps[0] == "4" and steps[-1] == "200"
    path.write_text("epoch,step\n" + "x" * 200_000)  # csv's limit of a cell
    with pytest.raises(InputError, match=r"history\.csv is no table"):
        told.begin(100)


def test_a_loss_scale_that_falls_and_falls_is_told_once(made, tmp_path, monkeypatch):
    _, looped, state = made
    looped.restore(state)
    told = []
    monkeypatch.setattr(looped.update, "scaled", True)
    monkeypatch.setattr(history.LOG, "warning", lambda *words: told.append(words[0] % words[1:]))
    one = history.History(tmp_path, looped)
    for scale, skipped in ((2.0**14, 1), (64.0, 1), (32.0, 2), (16.0, 3)):
        looped.update.loss_scale.assign(scale)
        looped.update.skipped.assign(skipped)
        one._watch_loss_scale()
    assert len(told) == 1 and "2 steps were skipped" in told[0] and "fallen to 32" in told[0]


def test_a_resumed_run_still_names_its_dead_network(start, tmp_path):
    one = start(tmp_path / "run")
    one.total_steps, one.history.death = 5, "The network has died."
    assert one.run()["warning"] == "The network has died."
    two = start(tmp_path / "run")
    two.total_steps = 6
    assert two.resume() and two.run()["warning"] == "The network has died."


def test_an_epoch_of_a_first_call_alone_has_no_speed(made, start, tmp_path):
    """It builds the graph; 0 images/s would be told of it."""
    one = start(tmp_path / "run", evaluate_every_epochs=0)
    one.total_steps = 1
    one.run()
    (row,) = history._read_rows(tmp_path / "run" / "history.csv")
    assert row["images_per_second"] == row["seconds"] == ""
    assert float(row["loss"]) > 0


@pytest.mark.parametrize(("every", "expected"), [(1, [2, 3, 5, 6, 7]), (2, [3, 6, 7])])
def test_evaluations_follow_whole_epochs(made, start, tmp_path, monkeypatch, every, expected):
    """Of 11 examples in batches of 8 epochs end at 1.45, 2.18, 3.64, 4.36 and 5.09."""
    one = start(tmp_path / "run", evaluate_every_epochs=every)
    monkeypatch.setattr(one.loop.update, "examples_per_epoch", 11)
    one.total_steps = 7
    evaluated, scores = [], {"top1": 0.5, "top5": 1.0, "loss": 1.0}
    monkeypatch.setattr(one, "_evaluate", lambda: evaluated.append(one.loop.step) or scores)
    one.run()
    assert evaluated == [*expected, 7]  # and for final.json


def test_a_course_changes_the_epochs_and_is_asked_again_after_an_interruption(
    start, tmp_path, monkeypatch
):
    chosen, rates = {0: 2.0}, []

    def course(epoch, rate):
        rates.append((epoch, rate and rate > 0))
        return chosen[max(e for e in chosen if e <= epoch)]

    def decide(epoch, rate):
        chosen.setdefault(epoch, {0: 2.0, 1: 3.4, 2: 2.6}[epoch])
        return course(epoch, rate)

    whole = start(tmp_path / "whole", course=decide)
    document = whole.run()
    assert (document["step"], document["epoch"]) == (13, 2.6)  # of 5 steps an epoch
    assert rates == [(0, None), (1, True), (2, True)]
    assert float(whole.loop.update.rate(tf.constant(104))) < float(
        whole.loop.update.rate(tf.constant(96))
    )

    cut = start(tmp_path / "cut", course=course, checkpoint_minutes=0.0)
    monkeypatch.setattr(cut.signals, "came", False)
    save = cut.checkpoints.save

    def stop_soon(*given):
        save(*given)
        cut.signals.came = cut.loop.step >= 6

    monkeypatch.setattr(cut.checkpoints, "save", stop_soon)
    with pytest.raises(RunAgain):
        cut.run()
    again = start(tmp_path / "cut", course=course)
    assert again.resume() and again.run()["weights_sha256"] == document["weights_sha256"]
    assert start(tmp_path / "cut", course=course).resume()


def test_the_error_that_ends_a_run_is_in_its_log(tmp_path):
    log.log_to(tmp_path / "train.log")
    log.log_end("all is lost")
    log.log_to(None)
    assert "error: all is lost" in (tmp_path / "train.log").read_text()


def test_a_brief_log_shows_progress_and_warnings_and_the_file_has_all(tmp_path, capsys):
    log.log_to(tmp_path / "train.log", brief=True)
    lines = {logging.INFO: "epoch=1", log.PROGRESS: "step 1 of 2", logging.WARNING: "too late"}
    for level, line in lines.items():
        log.LOG.log(level, line)
    log.log_to(None)
    shown = [line[20:] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["step 1 of 2", "too late"]
    kept = (tmp_path / "train.log").read_text().splitlines()
    assert [line[20:] for line in kept] == [*lines.values()]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_sentence():
    program = """
import sys
from absl import flags
from squeezenext.cli import run
sys.exit(run(lambda values, rest: print("x" * 10), flags.FlagValues(), "", ["command"]))
"""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
        )  # fmt: skip
    assert done.returncode == 75
    assert done.stderr == (
        "error: Standard output cannot be written: No space left on device; make room and run the "
        "same command again.\n"
    )
