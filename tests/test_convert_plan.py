"""What an interrupted conversion leaves: gone on with, or gone; and nobody else's files with it."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import threading
import time

import pytest

from scripts.faults import convert_bench
from squeezenext.convert import command, commit, plan, pool, shards, tfrecords
from squeezenext.errors import InputError, RunAgain
from squeezenext.records import dataset
from tests.converting import convert
from tests.imagenet_archives import class_folders
from tests.test_convert import FOLDER, hashes, wait_for


@pytest.fixture
def photos(tmp_path):
    return class_folders(tmp_path / "photos", 15)


def stopped(monkeypatch, where, *arguments, **options):
    """Converts until `where` ("module.function") is reached for the second time."""
    name, _, function = where.partition(".")
    module = getattr(command, name)
    real, calls = getattr(module, function), []

    def stops(*more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*more)

    with monkeypatch.context() as patch:
        patch.setattr(module, function, stops)
        with pytest.raises(KeyboardInterrupt):
            convert(*arguments, **options)


def listed(out):
    """The files that a finished data set may hold."""
    found = dataset.load_manifest(out)
    parts = [shard for split in found.splits.values() for shard in (*split.shards, split.sidecar)]
    names = {part.path.name for part in parts} | {dataset.MANIFEST, "labels.txt", "rgb_val.json"}
    return names | {"categories.csv", "train.csv", "val.csv"}


@pytest.mark.parametrize("lost", ["note", "plan"])
def test_no_shard_of_an_earlier_plan_stays(photos, tmp_path, monkeypatch, lost):
    """Killed between a shard's rename and its note, or the plan lost: the other one names it."""
    out = tmp_path / "out"
    stopped(monkeypatch, "shards.draft", photos, out, **FOLDER, train_shards=5)
    noted = sorted((out / ".convert").glob("*-of-*.json"))
    assert len(noted) == 1 and (out / "train-00000-of-00005").exists()
    if lost == "plan":
        (out / ".convert" / "plan.json").write_text("{")
    else:
        noted[0].unlink()
        (out / "validation.index").write_bytes(b"as finished as that")
    (out / "test.csv").write_text("somebody else's")
    convert(photos, out, **FOLDER, train_shards=2)
    assert set(hashes(out)) == listed(out) | {"test.csv"}
    convert(photos, tmp_path / "whole", **FOLDER, train_shards=2)
    assert hashes(tmp_path / "whole").items() <= hashes(out).items()


@pytest.mark.parametrize("name", ["train-00000-of-00007", "train-00000-of-00001", "train.csv"])
def test_nobody_elses_file_is_replaced_or_joined(photos, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("precious")
    with pytest.raises(InputError, match=rf"{name} is there already.*--overwrite to lose it"):
        convert(photos, out, **FOLDER)
    assert (out / name).read_text() == "precious"
    convert(photos, out, **FOLDER, overwrite=True)
    assert set(hashes(out)) == listed(out)


def test_a_stranger_that_came_meanwhile_is_refused(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    stopped(monkeypatch, "shards.draft", photos, out, **FOLDER, train_shards=5)
    (out / "train-00006-of-00007").write_text("precious")
    with pytest.raises(InputError, match="train-00006-of-00007 is there already"):
        convert(photos, out, **FOLDER, train_shards=5)
    (out / "train-00006-of-00007").unlink()
    convert(photos, out, **FOLDER, train_shards=5)


def test_overwriting_what_has_a_damaged_manifest_leaves_nothing_of_it(photos, tmp_path):
    out, splits = tmp_path / "out", tmp_path / "splits"
    for split in ("train", "test"):
        shutil.copytree(photos, splits / split)
    convert(splits, out, **FOLDER, train_shards=4)
    assert {"test.csv", "test.index"} <= set(hashes(out))
    (out / dataset.MANIFEST).write_text("{")
    with pytest.raises(InputError, match="manifest.json is damaged"):
        convert(photos, out, **FOLDER, train_shards=2)
    convert(photos, out, **FOLDER, train_shards=2, overwrite=True)
    assert set(hashes(out)) == listed(out)


@pytest.mark.parametrize("moment", [0, 1, 2, 5, 9])
def test_killed_while_it_overwrites(photos, tmp_path, moment):
    """SIGKILL before a removal: the old data set is whole, or none and gone in the next run."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    convert(photos, whole, **FOLDER, train_shards=2)
    before = convert(photos, out, **FOLDER, train_shards=4).raw

    def overwrite():
        left, unlink = [moment], os.unlink

        def killed(path, *more, **named):
            if not os.path.basename(path).startswith(plan.LOCK):
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
            return unlink(path, *more, **named)

        os.unlink = killed
        convert(photos, out, **FOLDER, train_shards=2, overwrite=True)
        return 0

    assert convert_bench.forked(overwrite) == -signal.SIGKILL
    assert (out / dataset.MANIFEST).exists() == (moment == 0)
    if moment == 0:
        assert dataset.load_manifest(out).raw == before
        dataset.check_shards(dataset.load_manifest(out))
        (out / dataset.MANIFEST).unlink()
    convert(photos, out, **FOLDER, train_shards=2)
    assert hashes(out) == hashes(whole)


def test_overwriting_begins_when_there_is_room(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    convert(photos, out, **FOLDER)
    before = hashes(out)
    monkeypatch.setattr(command.commit, "free_bytes", lambda _: 0)
    monkeypatch.setattr(command.estimate, "remaining_bytes", lambda *_: 1)
    with pytest.raises(RunAgain, match="free some space"):
        convert(photos, out, **FOLDER, seed=1, overwrite=True)
    assert hashes(out) == before


@pytest.mark.parametrize("field", ["table", "names", "rgb_sum", "plan"])
def test_a_flipped_bit_in_a_note_is_noticed(photos, tmp_path, monkeypatch, field):
    """The note is JSON as before, and names the same shard. That shard is made again."""
    out, made, put = tmp_path / "out", {}, shards.publish
    convert(photos, tmp_path / "whole", **FOLDER, train_shards=3)
    with monkeypatch.context() as patch:
        patch.setattr(command.outputs, "finish", lambda *_: None)
        convert(photos, out, **FOLDER, train_shards=3)
    note = out / ".convert" / "train-00001-of-00003.json"
    text = bytearray(note.read_bytes())
    value = text.index(f'"{field}": '.encode()) + len(field) + 4
    text[re.compile(rb"\w").search(text, value).start()] ^= 1
    json.loads(text[text.index(b"{") :])
    note.write_bytes(text)

    def watched(folder, drafted):
        made[drafted.file] = bool(drafted.draft)
        return put(folder, drafted)

    monkeypatch.setattr(command.shards, "publish", watched)
    convert(photos, out, **FOLDER, train_shards=3)
    assert [name for name, anew in made.items() if anew] == ["train-00001-of-00003"]
    assert len(made) == 4 and hashes(out) == hashes(tmp_path / "whole")


def test_a_note_of_another_plan_is_not_believed(photos, tmp_path, monkeypatch):
    """Of a seed's shard, whose name and hash are right, but which is another conversion's."""
    out, other = tmp_path / "out", tmp_path / "other"
    for folder, seed in ((out, 0), (other, 1)):
        with monkeypatch.context() as patch:
            patch.setattr(command.outputs, "finish", lambda *_: None)
            convert(photos, folder, **FOLDER, train_shards=3, seed=seed)
    for name in ("train-00001-of-00003", ".convert/train-00001-of-00003.json"):
        (out / name).write_bytes((other / name).read_bytes())
    convert(photos, out, **FOLDER, train_shards=3)
    convert(photos, tmp_path / "whole", **FOLDER, train_shards=3)
    assert hashes(out) == hashes(tmp_path / "whole")


def test_a_damaged_plan_names_nothing_outside(tmp_path):
    (tmp_path / "out" / ".convert").mkdir(parents=True)
    (tmp_path / "precious").write_text("x")
    for files in (["../precious"], [3], "precious", None):
        fields = {"identity": "", "fingerprint": "", "files": files}
        (tmp_path / "out" / ".convert" / "plan.json").write_text(json.dumps(fields))
        plan.begin(tmp_path / "out", plan.ConversionPlan("a", "b", ()))
    assert (tmp_path / "precious").exists()


def test_what_was_laid_by_goes_at_the_start_of_the_next_run(tmp_path, monkeypatch):
    """And a link that was not put in place."""
    out = tmp_path / "out"
    (out / commit.SPOOL).mkdir(parents=True)
    (out / commit.SPOOL / "00").write_bytes(b"x")
    (out / commit.WORK).mkdir()
    (out / commit.WORK / "train-00000-of-00001.link.tmp").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    left = []

    def looks(*_):
        left.extend([*out.glob(f"{commit.SPOOL}*"), *(out / commit.WORK).iterdir()])
        raise InputError("before there is anything new")

    monkeypatch.setattr(command.sources, "collect", looks)
    with pytest.raises(InputError, match="before there is anything new"):
        convert(tmp_path / "empty", out, **FOLDER)
    assert not left


def test_a_link_that_cannot_be_put_in_place_is_removed(photos, tmp_path, monkeypatch):
    convert(photos, tmp_path / "shards", **FOLDER)
    (tmp_path / "shards" / dataset.MANIFEST).unlink()
    put = tfrecords.files.put

    def fails(temporary, path):
        if path.name.startswith("train-"):
            raise OSError(5, "Input/output error")
        put(temporary, path)

    monkeypatch.setattr(tfrecords.files, "put", fails)
    with pytest.raises(InputError, match="cannot be written .Input/output error"):
        convert(tmp_path / "shards", tmp_path / "out", **FOLDER | {"layout": "tfrecord"})
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left - {plan.LOCK} == {"plan.json"}


def test_a_copied_shard_is_what_was_read(photos, tmp_path, monkeypatch):
    """No links here, and the source changes between its reading and its copying."""
    convert(photos, tmp_path / "shards", **FOLDER)
    (tmp_path / "shards" / dataset.MANIFEST).unlink()

    def no_links(source, _):
        source.write_bytes(source.read_bytes()[::-1])
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(tfrecords.os, "link", no_links)
    with pytest.raises(RunAgain, match="00000-of-00001 changed while it was read"):
        convert(tmp_path / "shards", tmp_path / "out", **FOLDER | {"layout": "tfrecord"})
    assert not list((tmp_path / "out").glob("*-of-*"))


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_an_owner_that_has_not_told_yet(photos, tmp_path, content):
    out = tmp_path / "out"
    out.mkdir()
    with plan.lock_directory(out):
        owner = out / f"{plan.LOCK}.owner"
        assert f"process {os.getpid()} on " in owner.read_text()
        owner.unlink()
        if content is not None:
            owner.write_text(content)
        with pytest.raises(RunAgain, match="out is being written by another process; wait"):
            convert(photos, out, **FOLDER)
        owner.write_bytes(b"\xff\x1b[31m" * 1000)
        with pytest.raises(RunAgain, match=r"written by \S+; wait") as caught:
            convert(photos, out, **FOLDER)
        assert "\x1b" not in str(caught.value)
    assert not list(out.glob("*.owner*"))


def test_the_owner_s_file_is_never_partial(tmp_path, monkeypatch):
    seen, replace = [], os.replace

    def looks(source, target):
        seen.append((os.path.exists(target), open(source).read()))
        return replace(source, target)

    monkeypatch.setattr(plan.os, "replace", looks)
    with plan.lock_directory(tmp_path):
        pass
    assert len(seen) == 1 and not seen[0][0]
    assert re.fullmatch(rf"process {os.getpid()} on \S+", seen[0][1])


def test_an_owner_killed_before_its_rename_leaves_nothing_for_ever(photos, tmp_path):
    out = tmp_path / "out"

    def dies():
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        return convert_bench.plainly(photos, out)

    assert convert_bench.forked(dies) == -signal.SIGKILL
    assert len(list(out.glob(f"{plan.LOCK}.owner*"))) == 1
    convert(photos, out, **FOLDER)
    assert {path.name for path in out.iterdir() if path.name[0] == "."} <= {plan.LOCK}


def test_threads_end_before_what_they_work_on_is_let_go(monkeypatch):
    """However often Ctrl-C comes; the interrupt itself is not lost."""
    going, begun, done, interrupts = threading.Event(), [], [], [1, 2]

    def work(number):
        begun.append(number)
        if number > 1:
            going.wait(10)
        done.append(number)

    join = threading.Thread.join

    def interrupted(self, *more):
        if interrupts:
            interrupts.pop()
            raise KeyboardInterrupt
        going.set()
        return join(self, *more)

    results = pool.behind(work, iter([1, 2, 3, 4]))
    next(results)
    wait_for(lambda: len(begun) == 3)
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.close()
    assert not interrupts and sorted(done) == [1, 2, 3]


def test_a_conversion_closes_its_threads_within_the_lock(photos, tmp_path, monkeypatch):
    """The traceback keeps the generator alive: nothing but closing it waits for a late rename."""
    put, late = shards.publish, []

    def slow(folder, drafted):
        time.sleep(0.3)
        late.append((folder / f"{plan.LOCK}.owner").exists())
        return put(folder, drafted)

    @contextlib.contextmanager
    def interrupted(*_):
        def advance(*_):
            raise KeyboardInterrupt

        yield advance

    monkeypatch.setattr(command.shards, "publish", slow)
    monkeypatch.setattr(command.progress, "throughput", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(photos, tmp_path / "out", **FOLDER, train_shards=6)
    count = len(late)
    time.sleep(0.7)
    assert len(late) == count and all(late)


@pytest.mark.parametrize("inside", ["", "out", "cat", "cat/out"])
def test_an_output_among_the_classes_is_refused(photos, tmp_path, inside):
    before = hashlib.sha256(repr(sorted(photos.rglob("*"))).encode()).hexdigest()
    with pytest.raises(InputError, match="lies among the data in .*choose a folder elsewhere"):
        convert(photos, photos / inside, **FOLDER)
    assert hashlib.sha256(repr(sorted(photos.rglob("*"))).encode()).hexdigest() == before
    convert(photos, photos / ".records", **FOLDER)
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "1.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="album holds images; choose another"):
        convert(photos, tmp_path / "album", **FOLDER)


@pytest.mark.parametrize("interrupted", [False, True])
def test_where_nothing_was_begun_nothing_new_stays(photos, tmp_path, monkeypatch, interrupted):
    fault = KeyboardInterrupt if interrupted else InputError
    if interrupted:
        monkeypatch.setattr(command.Pool, "__enter__", raises(fault))
    else:
        shutil.rmtree(photos / "dog")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(fault):
        convert(photos, tmp_path / "new" / "er" / "out", **FOLDER)
    (tmp_path / "empty").mkdir()
    with pytest.raises(fault):
        convert(photos, tmp_path / "empty", **FOLDER)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "empty"])


def raises(fault):
    def function(*_):
        raise fault

    return function


def test_the_lists_of_the_source_are_not_replaced(photos, tmp_path):
    rows = [f"photos/{name}/{n}.jpg,{name}\n" for name in ("cat", "dog") for n in range(4)]
    (tmp_path / "train.csv").write_text("".join(rows))
    for source in (tmp_path, tmp_path / "train.csv"):
        with pytest.raises(InputError, match="lies among the data"):
            convert(source, tmp_path, **FOLDER | {"layout": "csv"}, overwrite=True)
    assert (tmp_path / "train.csv").read_text() == "".join(rows)
    convert(tmp_path, tmp_path / "out", **FOLDER | {"layout": "csv"})


def test_the_plan_is_on_the_disk_before_the_first_shard(photos, tmp_path, monkeypatch):
    """With the names on the way to it: the work folder's own is in the output's entries."""
    flushed, draft = [], shards.draft
    out, flush = tmp_path / "out", plan.files.flush

    def flushes(path):
        if (out / ".convert" / "plan.json").exists():
            flushed.append(path)
        flush(path)

    def looks(job):
        assert out in flushed
        return draft(job)

    monkeypatch.setattr(plan.files, "flush", flushes)

    monkeypatch.setattr(command.shards, "draft", looks)
    convert(photos, out, **FOLDER)
