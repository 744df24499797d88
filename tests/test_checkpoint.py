"""Tests for `squeezenext/model/checkpoint.py`."""

import errno
import json
import os

import numpy as np
import pytest

from squeezenext.errors import InputError
from squeezenext.model import checkpoint

STATE = {"model/a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.int64(7)}
RUN = {
    "seed": 1, "epoch": 0.5, "examples": 8, "config": {}, "versions": {"python": "3"},
    "epoch_sums": {"steps": 1, "examples": 8, "loss": 1.5, "top1": 3.0, "top5": 8.0},
}  # fmt: skip


def saved(folder, step=3):
    return checkpoint.save(folder, step, STATE, RUN)


def test_round_trip(tmp_path):
    path = saved(tmp_path)
    assert path.name == "step-00000003" and checkpoint.steps(tmp_path) == [3]
    state, meta = checkpoint.load(tmp_path, 3)
    assert meta["seed"] == 1 and meta["step"] == 3 and state.keys() == STATE.keys()
    for name, array in STATE.items():
        np.testing.assert_array_equal(state[name], array)


@pytest.mark.parametrize("name", ["state.npz", "META.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
def test_each_damage_is_named_and_the_one_before_taken(tmp_path, name, damage):
    saved(tmp_path, 1)
    path = saved(tmp_path, 2) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    changed = {"flip": content, "cut": path.read_bytes()[:-9], "empty": b""}
    path.unlink() if damage == "remove" else path.write_bytes(changed[damage])
    told = []
    _, meta = checkpoint.newest(tmp_path, told.append)
    assert meta["step"] == 1
    assert len(told) == 1 and "step-00000002" in told[0] and name in told[0]


def test_every_flipped_byte_is_found(tmp_path):
    path = saved(tmp_path) / "state.npz"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"state\.npz is damaged"):
            checkpoint.load(tmp_path, 3)


def test_none_and_none_whole(tmp_path):
    assert checkpoint.newest(tmp_path / "absent", print) is None
    (saved(tmp_path) / "META.json").write_text("{}")
    with pytest.raises(InputError, match="holds no whole checkpoint; bring"):
        checkpoint.newest(tmp_path, lambda _: None)


def test_a_failing_save_leaves_the_last_one(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        saved(tmp_path, 2)
    assert os.listdir(tmp_path) == ["step-00000001"]
    assert checkpoint.newest(tmp_path, pytest.fail)[1]["step"] == 1


def test_no_pickle_is_ever_read(tmp_path):
    path = saved(tmp_path)
    with open(path / "state.npz", "wb") as file:
        np.savez(file, bad=np.array([{"a": 1}], dtype=object))
    meta = json.loads((path / "META.json").read_text())
    meta["files"]["state.npz"] = checkpoint._sha256(path / "state.npz")
    (path / "META.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load(tmp_path, 3)


def test_no_checkpoint_may_be_a_link(tmp_path):
    """It may lead to another run's, whose META.json training would amend."""
    checkpoint.save(tmp_path / "theirs", 1, {"model/a/kernel": np.zeros(1)}, {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "step-00000001").symlink_to(tmp_path / "theirs" / "step-00000001")
    with pytest.raises(InputError, match="step-00000001 is a symbolic link; put the folder itself"):
        checkpoint.steps(tmp_path / "mine")


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    for step in range(1, 7):
        saved(tmp_path, step)
    (tmp_path / ".step-00000009.tmp-1").mkdir()
    checkpoint.remove_older(tmp_path, keep=2, best=2, current=5)
    kept = ["step-00000002", "step-00000004", "step-00000005"]
    assert sorted(os.listdir(tmp_path)) == ["damaged-step-00000006", *kept]
    assert checkpoint.steps(tmp_path) == [2, 4, 5]


def test_what_cannot_be_read_just_now_is_not_passed_over(tmp_path, monkeypatch):
    """A file server that is away for a minute must not cost the newest checkpoint."""
    saved(tmp_path, 1)
    saved(tmp_path, 2)

    def away(path, **_):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    for place, name in ((checkpoint, "_sha256"), (np, "load")):  # the later, between the two
        with monkeypatch.context() as patch:
            patch.setattr(place, name, away)
            with pytest.raises(InputError, match="step-00000002 cannot be read: Stale file handle"):
                checkpoint.newest(tmp_path, pytest.fail)
    assert checkpoint.newest(tmp_path, pytest.fail)[1]["step"] == 2


def test_a_later_release_s_checkpoint_is_not_passed_over(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", 4)
        saved(tmp_path, 2)
    with pytest.raises(InputError, match=r"another release \(format 4, this one reads up to 3\)"):
        checkpoint.newest(tmp_path, pytest.fail)


def test_the_hash_sees_every_change():
    one = checkpoint.weights_sha256(STATE)
    assert one == checkpoint.weights_sha256(dict(reversed(STATE.items())))
    changed = STATE | {"step": np.int64(8)}
    renamed = {name.upper(): array for name, array in STATE.items()}
    reshaped = {name: array.reshape(-1) for name, array in STATE.items()}
    assert len({one, *map(checkpoint.weights_sha256, (changed, renamed, reshaped))}) == 4


AVERAGED = {
    "model/a/kernel": np.zeros(2),
    "model/a/moving_mean": np.ones(2),
    "model/b/bias": np.zeros(3),
    "average/a/kernel": np.full(2, 5.0),
    "average/b/bias": np.full(3, 6.0),
}


def test_evaluation_uses_the_averages():
    found = checkpoint.evaluated(AVERAGED)
    assert {name: array[0] for name, array in found.items()} == {
        "model/a/kernel": 5, "model/a/moving_mean": 1, "model/b/bias": 6
    }  # fmt: skip


def test_numbered_averages_of_older_releases_get_names(tmp_path, monkeypatch):
    """Those of format 2; the hash of the weights stays what it was."""
    numbered = dict(
        zip([*list(AVERAGED)[:3], "average/0000", "average/0001"], AVERAGED.values(), strict=True)
    )
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT_VERSION", 2)
        checkpoint.save(tmp_path, 1, numbered, {})
        checkpoint.save(tmp_path, 2, {n: numbered[n] for n in list(numbered)[:4]}, {})
    state, _ = checkpoint.load(tmp_path, 1)
    assert list(state) == list(AVERAGED)
    np.testing.assert_array_equal(state["average/b/bias"], 6)
    assert checkpoint.weights_sha256(state) == checkpoint.weights_sha256(numbered)
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load(tmp_path, 2)


def test_what_meta_says_can_be_amended(tmp_path):
    saved(tmp_path)
    checkpoint.amend(tmp_path, 3, RUN | {"seed": 2, "best": None})
    state, meta = checkpoint.load(tmp_path, 3)
    assert (meta["seed"], meta["best"]) == (2, None) and state.keys() == STATE.keys()
    (tmp_path / "step-00000003" / "state.npz").unlink()
    checkpoint.amend(tmp_path, 3, RUN | {"seed": 3})  # the arrays are in memory, what the disk does
    with pytest.raises(checkpoint.DamagedCheckpoint, match=r"state\.npz is missing"):
        checkpoint.load(tmp_path, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epoch", "x"), ("epoch", True), ("config", []), ("versions", {"python": 3})),
        *(("epoch_sums", {"loss": 1}), ("best", {}), ("best", {"step": 1, "top1": "x"})),
        *(("rollbacks", [1]), ("rollbacks", [{"step": None}]), ("death", 5), ("seed", "1")),
        *(("imported", "x"), ("epoch_seconds", None)),
    ],
)
def test_entries_of_meta_have_their_types(tmp_path, name, value):
    """A stranger can make a valid hash of anything."""
    checkpoint.save(tmp_path, 1, STATE, RUN | {"best": {"step": 1, "top1": 1}})
    checkpoint.save(tmp_path, 2, STATE, RUN | {name: value})
    with pytest.raises(checkpoint.DamagedCheckpoint, match=f"is damaged: its '{name}' is "):
        checkpoint.load(tmp_path, 2)
    assert checkpoint.newest(tmp_path, print)[1]["step"] == 1
    checkpoint.save(tmp_path, 3, STATE, {"seed": 1})
    with pytest.raises(checkpoint.DamagedCheckpoint, match="is damaged: its '[a-z]+' is missing"):
        checkpoint.load(tmp_path, 3)


def test_every_flipped_byte_of_meta_is_found(tmp_path):
    path = saved(tmp_path) / "META.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        if json_or_none(content) != json.loads(whole):  # a space may become another one
            with pytest.raises(InputError, match=r"META\.json"):
                checkpoint.load(tmp_path, 3)


def json_or_none(content):
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize("mode", ["disk full", "killed before", "killed after"])
def test_a_fault_at_any_call_of_a_save_leaves_the_old_or_the_new(tmp_path, mode):
    """In a forked process each, which writes, amends and prunes as a run does."""
    for number in range(1, 40):
        folder = tmp_path / f"{number}"
        saved(folder, 1)
        child = os.fork()
        if child == 0:
            _save_with_fault(folder, number, mode)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        (state, meta), told = checkpoint.newest(folder, pytest.fail), []
        assert meta["step"] in (1, 2) and state.keys() == STATE.keys()
        checkpoint.save(folder, 2, STATE, RUN)  # the next run
        checkpoint.remove_older(folder, 2, None, 2)
        assert checkpoint.newest(folder, told.append)[1]["step"] == 2 and not told
        assert sorted(os.listdir(folder)) == ["step-00000001", "step-00000002"]
        if code == 0:
            assert number > 8
            return
        assert code == {"disk full": 28}.get(mode, 137)
    pytest.fail("a save makes more calls than were tried")


def _save_with_fault(folder, number, mode):
    calls = 0

    def faulty(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == number and mode != "killed after":
                if mode == "disk full":
                    raise OSError(28, "No space left on device")
                os._exit(137)
            result = function(*arguments, **options)
            if calls == number:
                os._exit(137)
            return result

        return call

    os.fsync, os.replace, np.savez = map(faulty, (os.fsync, os.replace, np.savez))
    try:
        checkpoint.save(folder, 2, STATE, RUN)
        checkpoint.amend(folder, 2, RUN | {"best": {"step": 2, "top1": 0.5}})
    except OSError as error:
        os._exit(error.errno)
    os._exit(0)
