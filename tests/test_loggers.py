"""Tests for `train/loggers.py`, with the real libraries where they are installed."""

import functools
import json
import sys

import pytest

from squeezenext.errors import InputError
from squeezenext.train import loggers
from tests import tiny


class Recorder:
    """A logger of curves alone, which fails while `full`."""

    name = "The recorder"

    def __init__(self):
        self.told, self.full, self.closed = [], False, False

    def curves(self, step, values):
        if self.full:
            raise RuntimeError("No space.\nAnd more.")
        self.told.append((step, values))

    def flush(self):
        self.told.append("flush")

    def close(self):
        self.closed = True
        raise RuntimeError("No space.")


@pytest.fixture
def warned(monkeypatch):
    told = []
    monkeypatch.setattr(loggers.LOG, "warning", lambda text, *words: told.append(text % words))
    return told


def test_all_is_held_back_until_the_commit_and_shown_once():
    one = Recorder()
    board = loggers.Board([one])
    board.curves(1, {"a": 1.0})
    board.histogram(1, "b", [2])  # it shows none
    board.curves(5, {"a": 2.0})
    assert one.told == []
    board.rewind(4)
    board.commit(4)
    board.commit(4)
    assert one.told == [(1, {"a": 1.0}), "flush", "flush"]


def test_a_logger_that_fails_is_told_once_and_neither_ends_the_run_nor_another(monkeypatch, warned):
    monkeypatch.setattr(loggers.time, "monotonic", lambda: 0.0)  # it fails at once
    one, two = Recorder(), Recorder()
    board, one.full = loggers.Board([one, two]), True
    for step in (1, 2):
        board.curves(step, {"a": 1.0})
        board.commit(step)
    assert warned == [
        "The recorder's curves up to step 1 cannot be written: No space. Training goes on."
    ]
    assert two.told[0] == (1, {"a": 1.0}) and two.told[2] == (2, {"a": 1.0})
    one.full = False
    board.commit(3)
    assert one.told == [(1, {"a": 1.0}), (2, {"a": 1.0}), "flush"]
    board.close()
    assert one.closed and two.closed


def test_a_password_is_left_out_of_the_warning(warned):
    one = Recorder()
    one.flush = functools.partial(exec, "raise OSError('No http://me:hun@ter2@host/api/runs')")
    loggers.Board([one]).commit(1)
    [text] = warned
    assert "hun" not in text and "ter2" not in text and "http://host/api/runs" in text


def test_refused_points_do_not_hold_up_later_ones(warned):
    one = Recorder()
    one.histogram = lambda step, name, values: int("too long")
    board = loggers.Board([one])
    board.histogram(1, "a", [2])
    board.curves(2, {"a": 1.0})
    board.commit(2)
    assert one.told == [(2, {"a": 1.0}), "flush"] and len(warned) == 1


def test_a_server_that_fails_slowly_is_left_alone_for_a_while(monkeypatch, warned):
    one, clock = Recorder(), [0.0]
    monkeypatch.setattr(loggers.time, "monotonic", lambda: clock[0])
    board, tries = loggers.Board([one]), []

    def slow():
        tries.append(clock[0])
        clock[0] += 9
        raise OSError("No answer.")

    one.flush = slow
    for clock[0] in (0, 10, 188, 190):
        board.commit(1)
    assert tries == [0, 190]
    board.commit(1, must=True)
    assert tries == [0, 190, 199]


def test_names_of_mlflow_stay_different_and_short_enough():
    names = ["class/a:b", "class/a?b", "class/a_x3a_b", "a_b", "\x03x3a_", "_x3:", "é b.c-d"]
    names += ["a" * 300, "a" * 301, "a" * 250]
    made = [loggers._metric_name(name) for name in names]
    assert len(set(made)) == len(names) and max(map(len, made)) == 250
    assert made[0] == "class/a_x3a_b" and made[3] == "a_b" and made[6] == "é b.c-d"


@pytest.mark.parametrize("sign", "?#%")
def test_mlflow_refuses_a_folder_whose_name_it_would_misread(tmp_path, monkeypatch, sign):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="must have no"):
        loggers.MLflow(tmp_path / f"a{sign}b", tiny.SQUEEZENEXT)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    loggers.MLflow(tmp_path / f"a{sign}b", tiny.SQUEEZENEXT)


def twice(name, folder):
    """Logs two points, and one more after a resume."""
    for steps in ((1, 2), (3,)):
        board = loggers.Board([loggers.LOGGERS[name](folder, tiny.SQUEEZENEXT)])
        for step in steps:
            board.curves(step, {"train/loss": 1.0 / step, "class/a:b é": 0.5, "a" * 300: 1})
        board.commit(steps[-1])
        board.close()


def records(data):
    """The records of a .wandb file: a log as LevelDB writes it, after a head of 7 bytes."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        if (left := -place % 32768) and left < 7:  # the rest of a block
            place += left
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def test_mlflow_goes_on_in_its_run(tmp_path, monkeypatch, warned):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    twice("mlflow", tmp_path)
    client = mlflow.tracking.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = client.get_experiment_by_name("squeezenext").experiment_id
    [run] = client.search_runs([found])
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert run.data.params["training.epochs"] == str(tiny.SQUEEZENEXT.training.epochs)
    assert run.info.status == "FINISHED" and run.info.run_name == tmp_path.name and not warned


def test_wandb_goes_on_in_its_run_and_sends_nothing(tmp_path, monkeypatch, warned):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.delenv("WANDB_MODE", raising=False)
    twice("wandb", tmp_path)
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert not warned and len(files) == 2 and len({path.name for path in files}) == 1
    points = []
    for path in files:
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            items = {item.key or item.nested_key[-1]: json.loads(item.value_json)
                     for item in record.history.item}  # fmt: skip
            points += [(items["_step"], items["train/loss"])] if items else []
    assert points == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_an_unknown_or_missing_logger_is_named(monkeypatch):
    with pytest.raises(InputError, match="--log_to neptune: must be mlflow or wandb"):
        loggers.check_available(["neptune"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"wandb is not installed.*requirements-wandb\.txt"):
        loggers.check_available(["wandb"])
