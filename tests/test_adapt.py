"""Tests for the room `adapt`; test_docs.py runs the command itself."""

import ast
import dataclasses
import json
import math
import os
import re
import types
from pathlib import Path

import pytest

from squeezenext import export, labels
from squeezenext.adapt import command as adapt_command
from squeezenext.adapt import course as courses
from squeezenext.adapt import photographs, shipping
from squeezenext.adapt import plan as planning
from squeezenext.compress import allocation
from squeezenext.compress.allocation import BudgetTooSmall
from squeezenext.config import recipes
from squeezenext.convert import review
from squeezenext.errors import InputError, NotFinite, NotKept, RunAgain
from squeezenext.model import directory as model_directory
from squeezenext.model import published
from squeezenext.network import known
from squeezenext.records.dataset import ANEW, Split

SPEED = planning.Speed(images_per_second=100.0, build_seconds=10.0)  # some laptop


def splits(train: int, validation: int = 40, test: int = 0) -> dict[str, Split]:
    counts = {"train": train, "validation": validation, "test": test}
    return {name: types.SimpleNamespace(examples=n) for name, n in counts.items() if n}


def plan(train: int, minutes: float, speed=SPEED, max_bytes=250_000) -> planning.Plan:
    photographs = planning.Photographs(train, 40, 40, 10)
    return planning.plan(
        "squeezenet_v1_1", photographs, speed, minutes=minutes, seconds=60 * minutes - 30,
        max_bytes=max_bytes,
    )  # fmt: skip


def test_more_time_gives_more_epochs_then_larger_images():
    plans = [plan(3000, minutes) for minutes in (0.1, 4, 6, 10, 15, 30, 240)]
    sizes, epochs = zip(*((each.size, each.epochs) for each in plans), strict=True)
    assert list(sizes) == sorted(sizes) and sizes[0] == 128 and sizes[-1] == 227
    assert epochs[0] == 2 and epochs[-1] == planning.MAX_EPOCHS
    assert not plans[-1].growing  # with all the time there is no need
    assert any(each.growing and "at up to" in str(each) for each in plans)
    for each in plans:
        config = each.config()
        assert config.training.epochs == each.epochs and config.images.size == each.size
        assert bool(config.images.progressive) == each.growing


def test_a_small_set_is_seen_more_often():
    small = plan(160, 5)
    assert small.epochs > planning.MIN_EPOCHS and small.size == 227
    rates = [plan(train, 15).config().training.learning_rate for train in (479, 480)]
    assert rates == [3e-4, 6e-4]
    assert plan(160, 60).epochs * 160 / recipes.FINE_TUNE_BATCH >= planning.MAX_STEPS
    assert plan(160, 60).evaluate_every_epochs > 1


def test_minutes_that_do_not_suffice_are_told():
    assert "needs" not in str(plan(3000, 15)) and not plan(3000, 15).needs_minutes
    least = plan(200_000, 15)
    # Two epochs of the smallest images, at 100 a second of the full size, and all the rest.
    assert least.epochs == 2 and least.size == 128
    assert 20 < least.needs_minutes < 30
    assert plan(200_000, 15, max_bytes=100_000).needs_minutes > least.needs_minutes + 10


@pytest.mark.parametrize("train", [160, 3000, 20_000])
@pytest.mark.parametrize("minutes", [5, 15, 60])
@pytest.mark.parametrize("speed", [planning.Speed(20.0, 30.0), SPEED, planning.Speed(1000.0, 5.0)])
def test_a_plan_fits_into_its_time(train, minutes, speed):
    """Images of training and of retraining, with a teacher's answers, at the measured rate."""
    found = plan(train, minutes, speed, max_bytes=100_000)
    side = (found.size / 227) ** 2
    mean = sum(g * g for g in recipes.GROWTH) / 3 if found.growing else 1.0
    seconds = train * side * (found.epochs * mean + found.compression_epochs * 4 / 3)
    seconds /= speed.images_per_second
    seconds += 8 * speed.build_seconds  # what has to be built at least
    assert seconds < 60 * minutes or found.epochs == 2  # which is the least


def test_compression_has_what_time_is_left_where_it_retrains():
    assert plan(3000, 15).compression_epochs == plan(3000, 15, max_bytes=0).compression_epochs == 0
    assert plan(3000, 15, max_bytes=0).epochs > plan(3000, 15).epochs
    assert plan(3000, 15).compression_epochs_within(0, 3000) == 0
    found = plan(3000, 30, max_bytes=150_000)
    assert found.compression_epochs > 2 and "more to compress it" in str(found)
    assert found.compression_epochs_within(1e9, 3000) == found.compression_epochs
    assert found.compression_epochs_within(math.inf, 3000) == found.compression_epochs
    assert found.compression_epochs_within(0, 3000) == 2


@pytest.mark.parametrize("first", [0, 250_000])
def test_another_budget_gets_retraining_of_its_own(tmp_path, monkeypatch, first):
    """Training stays as planned, for it may be done."""
    made = plan(3000, 30, max_bytes=first)
    courses.keep(tmp_path / "adapt.json", made)
    found = types.SimpleNamespace(splits=splits(3000), classes=range(10))

    def again(max_bytes):
        given = (tmp_path, found, "squeezenet_v1_1", 30, max_bytes, 0.0)
        return courses.begun(*given).plan

    monkeypatch.setattr(planning, "measured", lambda configuration: pytest.fail("measured anew"))
    assert again(first) == made and not made.compression_epochs
    smaller = again(100_000)
    assert smaller.compression_epochs > 2 and smaller.max_bytes == 100_000
    kept = {"compression_epochs": 0.0, "max_bytes": first}
    assert dataclasses.replace(smaller, **kept) == made
    assert again(100_000) == smaller
    assert again(first) == made


def test_a_plan_is_kept_and_another_is_refused(tmp_path):
    path, made = tmp_path / "adapt.json", plan(160, 5)
    assert courses.kept(path, ("squeezenet_v1_1",), 5) is None
    courses.keep(path, made)
    assert courses.kept(path, ("squeezenet_v1_1",), 5) == made
    with pytest.raises(InputError, match="was begun with --configuration squeezenet_v1_1"):
        courses.kept(path, ("squeezenet_v1_1",), 6)
    # Removed, it would be planned anew, and training refuse to go on otherwise than it began.
    of_a_stranger = json.dumps(dataclasses.asdict(made) | {"epochs": "x"})
    for text in ("{}", "no", '{"release": 3}', of_a_stranger):
        path.write_text(text)
        with pytest.raises(InputError, match=r"adapt\.json is damaged, or of another release"):
            courses.kept(path, ("squeezenet_v1_1",), 5)


@pytest.fixture
def makers(monkeypatch):
    """Stand-ins of the makers of files: each call is noted, and writes a file."""
    called = []

    def make(path, *_, **__):
        called.append(path.name)
        path.write_bytes(b"made")

    monkeypatch.setattr(export, "export", lambda model, kind, path, *_: make(path))
    monkeypatch.setattr(shipping, "compress", lambda model, path, *_, **__: make(path))
    return called


def ship(folder, sha256="a", max_bytes=250_000):
    made = shipping.export_once(folder, folder / "records", sha256, print)
    made += shipping.compress_once(folder, folder / "records", sha256, max_bytes, 2.0, print)
    return made.files, made.faults


def test_a_file_is_made_once_for_the_same_weights(makers, tmp_path, monkeypatch):
    everything = ["model-float32.tflite", "model-int8.tflite", "model.sqz"]
    files, faults = ship(tmp_path)
    assert [path.name for path in files.values()] == makers == everything and not faults
    ship(tmp_path)
    assert makers == everything
    ship(tmp_path, max_bytes=200_000)
    assert makers == [*everything, "model.sqz"]
    files["int8"].unlink()  # the note beside it is not enough
    ship(tmp_path, max_bytes=200_000)
    assert makers[4:] == ["model-int8.tflite"]
    ship(tmp_path, sha256="b")  # trained on
    assert makers[5:] == everything

    def interrupted(model, path, *_, **__):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    whole = shipping.compress
    monkeypatch.setattr(shipping, "compress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ship(tmp_path, sha256="c")
    monkeypatch.setattr(shipping, "compress", whole)
    ship(tmp_path, sha256="c")
    assert makers[8:] == everything


def test_a_budget_that_cannot_be_met_costs_nothing_else(makers, tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise BudgetTooSmall("--max_bytes 10 is too little.")

    old = tmp_path / "exported" / "model.sqz"
    ship(tmp_path)
    monkeypatch.setattr(shipping, "compress", refuse)
    ship(tmp_path, max_bytes=10)
    assert old.is_file()  # for another budget, of the same weights
    files, (fault,) = ship(tmp_path, sha256="b", max_bytes=10)
    assert not old.exists()
    assert set(files) == {"float32", "int8"}
    assert "--max_bytes 10 is too little" in fault and "--max_bytes" in fault
    done = shipping.Adapted(
        tmp_path, plan(160, 5), {"network": 0.5, "float32": 0.5}, "test", 40, files,
        tmp_path / "report/index.html", 60.0, (fault,),
    )  # fmt: skip
    monkeypatch.setattr(adapt_command, "adapt", lambda *_, **__: done)
    assert adapt_command.main(["adapt", "photos", "--model_dir", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "0.5000 (0.3520 to 0.6480)" in told.out and "40 test images" in told.out
    assert "too little" in told.err


def test_a_temperature_that_was_fitted_since_makes_the_files_anew(makers, tmp_path, monkeypatch):
    everything = ["model-float32.tflite", "model-int8.tflite", "model.sqz"]
    files, _ = ship(tmp_path)
    (tmp_path / "calibration.json").write_text('{"temperature": 1.5}')
    ship(tmp_path)
    assert makers[3:] == everything
    ship(tmp_path)
    assert makers[6:] == []
    (tmp_path / "calibration.json").write_text('{"temperature": 1.6}')

    def refuse(*_, **__):
        raise BudgetTooSmall("Too little.")

    monkeypatch.setattr(shipping, "compress", refuse)
    ship(tmp_path)
    assert not files["sqz"].exists()  # whose probabilities are others than the rest's


@pytest.mark.parametrize("failing", ["int8", "sqz"])
def test_a_file_that_answers_otherwise_costs_nothing_else(makers, tmp_path, monkeypatch, failing):
    ship(tmp_path)
    name, way = ("compress", shipping) if failing == "sqz" else ("export", export)
    make = getattr(way, name)

    def refuse(*given, **how):
        if failing == "sqz":
            raise NotFinite("The gradient is not finite; lower --set training.learning_rate.")
        if "int8" in given[2].name:
            raise NotKept("The exported file's probabilities differ; it was not kept.")
        make(*given, **how)

    monkeypatch.setattr(way, name, refuse)
    files, (fault,) = ship(tmp_path, sha256="b")
    assert set(files) == {"float32", "int8", "sqz"} - {failing}
    assert failing in fault and "was not made" in fault and "--set" not in fault
    assert not [path for path in (tmp_path / "exported").iterdir() if failing in path.name]
    monkeypatch.setattr(way, name, make)
    files, faults = ship(tmp_path, sha256="b")
    assert set(files) == {"float32", "int8", "sqz"} and not faults


def test_what_is_no_budget_is_told_as_it_is(makers, tmp_path, monkeypatch):
    """And does not take report, scores and card with it."""

    def refuse(*_, **__):
        raise InputError("model.sqz cannot be written: No space left on device.")

    monkeypatch.setattr(shipping, "compress", refuse)
    files, (fault,) = ship(tmp_path)
    assert set(files) == {"float32", "int8"} and "No space left on device." in fault
    assert "--" not in fault


def test_a_budget_s_sentence_names_no_flag_that_adapt_lacks(tmp_path, monkeypatch):
    """The search's own, of a network that has no file so small."""

    def search(model, path, method, *_, **__):
        file = types.SimpleNamespace(data=bytes(900))
        trial = types.SimpleNamespace(encoded=file, nats=9.0, information=1.0)
        allocation._fitting(lambda slope: trial, method.max_bytes)

    monkeypatch.setattr(shipping, "compress", search)
    (tmp_path / "exported").mkdir()
    given = (tmp_path, tmp_path / "records", "a", 300, 2.0, print)
    made = shipping.compress_once(*given)
    (fault,) = made.faults
    assert (
        not made.files and "--max_bytes 300 is too little for this network: at 900 bytes" in fault
    )
    assert set(re.findall(r"--(\w+)", fault)) <= {"max_bytes", "minutes", "model_dir"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"configuration": "v_1_0_SqNxt_23"}, "no published weights to start from"),
        ({"minutes": 0.0}, "must be positive"),
        ({"minutes": float("inf")}, "must be positive and finite"),
        ({"minutes": float("nan")}, "must be positive and finite"),
        ({"max_bytes": 10}, "--max_bytes 10 is too little for any .sqz file"),
        ({"photos": "absent"}, "absent is neither a folder nor a file; give"),
        ({"model_dir": "photos/mine"}, "lies in photos"),
        ({"photos": "scored"}, "scored has no train folder, but test, val; put"),
        ({"photos": "scored/1.jpg"}, "1.jpg is no zip or tar; give a folder"),
        ({"model_dir": "scored/1.jpg"}, "--model_dir scored/1.jpg is a file; name a folder"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(published, "resolve", Path)  # downloads nothing
    for folder in ("photos", "scored/val/ants", "scored/test/ants"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "scored" / "1.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=message):
        adapt_command.adapt(**({"photos": "photos", "model_dir": "mine"} | change))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "scored"]


def converted(photos, records, review=None):
    return photographs.converted(photos, records, photographs.options(photos, 0, False, review))


def recorded(photos, model_dir, networks=("squeezenet_v1_1",), **changes):
    options = {"seed": 0, "follow_links": False, "apply": None} | changes
    return photographs.record(photos, model_dir, networks, **options)


def test_a_review_is_obeyed_and_another_one_wants_another_directory(tmp_path):
    from tests import tiny

    for number in range(12):
        path = tmp_path / "photos" / f"n{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.jpeg(number, number % 2 + 1))
    review, records = tmp_path / "doctor.csv", tmp_path / "mine" / "records"
    review.write_text("file,class,finding,group,suggested,action\nn0/0.jpg,n0,,,,remove\n")
    converted(tmp_path / "photos", records, review)
    splits = json.loads((records / "manifest.json").read_text())["splits"]
    assert sum(split["examples"] for split in splits.values()) == 11
    with pytest.raises(InputError, match="--follow_links or --apply; give another --model_dir"):
        recorded(tmp_path / "photos", tmp_path / "mine")


def test_photographs_that_are_alike_stay_in_one_split(tmp_path, capsys):
    from tests import tiny

    tiny.model_directory(tmp_path / "network", tiny.SQUEEZENET)
    for number in range(24):  # each four times
        path = tmp_path / "photos" / f"n{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.jpeg(number % 6, number % 2 + 1))
    mine, network = tmp_path / "mine", str(tmp_path / "network")
    groups = photographs.groups(tmp_path / "photos", mine, network, False)
    assert groups == mine / "doctor" / "groups.csv"
    assert "exact copy 6" in capsys.readouterr().err
    assert (mine / "doctor" / "index.html").is_file()
    assert {row.action for row in review.read(groups)} == {"keep"}
    assert photographs.groups(tmp_path / "photos", mine, network, False) == groups
    assert not capsys.readouterr().err  # examined once
    (tmp_path / "old" / "records").mkdir(parents=True)
    assert photographs.groups(tmp_path / "photos", tmp_path / "old", network, False) is None


def test_other_photographs_want_another_directory_and_twins_are_told(tmp_path, capsys):
    from tests import tiny

    for split in ("train", "validation"):
        for label in (1, 2):
            folder = tmp_path / "photos" / split / f"n{label}"
            folder.mkdir(parents=True)
            for number in range(2):
                (folder / f"{number}.jpg").write_bytes(tiny.jpeg(label * 10 + number, label))
    (tmp_path / "photos/train/n1/broken.jpg").write_bytes(b"no image")
    (tmp_path / "photos/train/n1/IMG.MOV").write_bytes(b"of a telephone")
    records = tmp_path / "mine" / "records"
    faults = converted(tmp_path / "photos", records)
    told = capsys.readouterr().err
    assert "4 images lie in two splits" in told and "1 .mov" in told
    assert len(faults) == 1 and "broken.jpg" in told
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "photos").rename(tmp_path / "elsewhere" / "pictures")
    assert converted(moved, records) == faults
    assert "is newer than" not in capsys.readouterr().err
    later = (records / "manifest.json").stat().st_mtime_ns + 10**9
    os.utime(moved / "train/n1/0.jpg", ns=(later, later))
    assert converted(moved, records) == faults
    assert f"warning: {moved / 'train/n1/0.jpg'} is newer than" in capsys.readouterr().err
    (moved / "train/n1/9.jpg").write_bytes(tiny.jpeg(9, 1))
    with pytest.raises(InputError, match="begun with other photographs"):
        recorded(moved, tmp_path / "mine")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InputError("a is there; choose another --output, or give --overwrite to lose it."),
         "a is there; choose another --model_dir."),
        (InputError(f"a is damaged: cut; {ANEW}."),
         "a is damaged: cut; remove mine/records and run the same command again."),
        (RunAgain("A worker was killed; run again to go on, with fewer --workers if it happens "
                  "again."), "A worker was killed; run again to go on."),
        (InputError("mine holds imported weights; give --fine_tune_from mine and another "
                    "--model_dir."), "mine holds imported weights; choose another --model_dir."),
        (NotFinite("It is not finite. What can be done: go on with --on_nan rollback, or more."),
         "It is not finite. What can be done: the same command with another --model_dir and "
         "--seed, without the photographs that are at fault."),
        (InputError("A device's memory is too small; run again with --micro_batch_size 4."),
         "A device's memory is too small; end other programs that use it, and run again."),
        (InputError("--some_flag is not right."),
         "--some_flag is not right. Give another --model_dir, or other photographs, to begin "
         "anew."),
        (InputError("a is wrong; give --some_flag, or --other."),
         "a is wrong. Give another --model_dir, or other photographs, to begin anew."),
        (InputError("a is a link; give --follow_links."), "a is a link; give --follow_links."),
        (InputError("/x/my--hats is damaged."), "/x/my--hats is damaged."),
    ],
)  # fmt: skip
def test_errors_of_its_parts_name_its_own_flags(error, told):
    with pytest.raises(type(error), match=f"^{re.escape(told)}$"):
        with adapt_command._in_adapts_words(Path("mine")):
            raise error


def test_each_advice_is_there_because_of_a_sentence_in_the_code():
    """Else a sentence has been reworded, and what adapt says instead is never said."""
    sentences = [ANEW]
    for path in Path(adapt_command.__file__).parents[1].rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        if path != Path(adapt_command.__file__):
            sentences += [_text(node) for node in nodes if isinstance(node, ast.expr)]
    for pattern, _ in adapt_command._ADVICE:
        assert any(re.search(pattern, sentence) for sentence in sentences), pattern


def _text(node: ast.expr) -> str:
    """Returns a string of the code, with 7 for what an f-string fills in."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in parts)


def test_damaged_records_are_told_in_its_own_words(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "resolve", lambda name: None)
    (tmp_path / "photos/a").mkdir(parents=True)
    (tmp_path / "mine/records").mkdir(parents=True)
    (tmp_path / "photos/a/a.jpg").write_bytes(b"a")
    (tmp_path / "photos/b").mkdir()
    (tmp_path / "photos/b/b.jpg").write_bytes(b"b")
    (tmp_path / "photos/b/c.jpg").write_bytes(b"c")
    (tmp_path / "mine/records/manifest.json").write_text("{}")
    with pytest.raises(InputError, match="; remove .*mine/records and run the same command again"):
        adapt_command.adapt(tmp_path / "photos", tmp_path / "mine")


def test_few_photographs_are_learnt_by_the_whole_network_too():
    """However little time there is: a new graph for a single step would teach nothing."""
    for examples in (4, 31, 100):
        for minutes in (0.1, 15):
            found = plan(examples, minutes)
            assert found.epochs >= planning.LEAST_STEPS * min(1, 32 / examples)


def test_a_model_of_ones_own_goes_on_with_a_new_class(tmp_path, capsys):
    """What it knew it still knows, by name, whatever the order of the classes is now.

    And what was held out from it stays held out.
    """
    from tests import tiny

    tiny.model_directory(tmp_path / "first", tiny.SQUEEZENET)
    for number in range(10):
        path = tmp_path / "photos" / f"n{number % 2 + 1}" / f"old{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.jpeg(100 + number, number % 2 + 1))
    converted(tmp_path / "photos", tmp_path / "first" / "records")
    for label, name in enumerate(("a_new_one", "n2", "n1"), 1):
        (tmp_path / "photos" / name).mkdir(exist_ok=True)
        for number in range(3):
            image = tiny.jpeg(10 * label + number, label)
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(image)
    start = str(tmp_path / "first")
    arguments = ["adapt", str(tmp_path / "photos"), "--configuration", start, "--dry_run"]
    assert adapt_command.main(arguments) == 0
    changed = "9 photographs added, 1 new class: a_new_one. 2"
    assert changed in capsys.readouterr().out
    adapted = adapt_command.adapt(
        tmp_path / "photos", tmp_path / "mine", configuration=start, minutes=0.001, max_bytes=0
    )
    assert adapted.plan.configuration == start and set(adapted.files) == {"float32", "int8"}
    classes = labels.read(tmp_path / "mine" / "labels.json")
    assert [label.synset for label in classes] == ["a_new_one", "n1", "n2"]
    told = capsys.readouterr().err
    assert "A first answer after" in told and changed in told
    old, new = (held_out(tmp_path / name / "records") for name in ("first", "mine"))
    assert old and old < new and old.isdisjoint(held_out(tmp_path / "mine/records", "train"))
    assert "that the model before has, its top-1 is " in adapted.remarks[-1]
    again = adapt_command.adapt(
        tmp_path / "photos", tmp_path / "mine", configuration=start, minutes=0.001, max_bytes=0
    )
    assert again.plan == adapted.plan
    with pytest.raises(InputError, match="--configuration is that, too"):
        adapt_command.adapt(tmp_path / "photos", tmp_path / "first", configuration=start)
    with pytest.raises(InputError, match="is not a model directory"):
        adapt_command.adapt(
            tmp_path / "photos", tmp_path / "x", configuration=str(tmp_path / "photos")
        )


def photographs_of(folder, classes, numbers=range(10)):
    """Makes photographs of n1, n2 and, of noise, of other classes."""
    from tests import tiny

    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        label = int(name[1]) if name[1:] in "12" else 3
        for number in numbers:
            image = tiny.jpeg(1000 * label + number, label)
            (folder / name / f"{number}.jpg").write_bytes(image)
    return folder


@pytest.fixture
def default(tmp_path, monkeypatch):
    """A model that training starts from where none is named, in place of the published one."""
    from tests import tiny

    tiny.model_directory(tmp_path / "first", tiny.SQUEEZENET)
    directory = os.path.realpath(tmp_path / "first")
    monkeypatch.setattr(photographs, "DEFAULT", directory)
    monkeypatch.setattr(known, "LEAST", 1)
    return directory


def adapted(photos, model_dir, start, **more):
    more = {"minutes": 0.001, "max_bytes": 0} | more
    return adapt_command.adapt(photos, model_dir, configuration=start, **more)


def test_a_folder_of_none_teaches_what_is_unknown(tmp_path, default, capsys):
    photos = photographs_of(tmp_path / "photos", ("n1", "n2", "None"))
    arguments = ["adapt", str(photos), "--configuration", default, "--dry_run"]
    assert adapt_command.main(arguments) == 0
    taught = "The 10 photographs of None will teach what is unknown, 2 of them held out"
    assert taught in capsys.readouterr().out
    found = adapted(photos, tmp_path / "mine", default, max_bytes=20_000)
    told = capsys.readouterr().err
    assert taught in told and f"warning: {taught}" not in told
    mine = tmp_path / "mine"
    assert [each.synset for each in labels.read(mine / "labels.json")] == ["n1", "n2"]
    assert held_out(mine / "records/none", "train").isdisjoint(held_out(mine / "records/none"))
    assert found.images == 4 and len(held_out(mine / "records/none")) == 2
    counts = json.loads((mine / "known.json").read_text())["fitted_to"]
    assert counts == {"train": 16, "held_out": 4, "none": 8}
    scores = json.loads((mine / "scores.json").read_text())
    assert set(found.files) == {"float32", "int8", "sqz"}
    refused = [scores["network"], *scores["files"].values()]
    assert {each["refused"] for each in refused} <= {0.0, 0.5, 1.0} and len(refused) == 4
    (remark,) = (line for line in found.remarks if "none of the classes" in line)
    assert remark.startswith("Of 2 held-out photographs that show none of the classes ")
    assert remark in (mine / "report/index.html").read_text()
    assert remark in (mine / "MODEL_CARD.md").read_text()
    assert adapted(photos, mine, default, max_bytes=20_000).scores == found.scores
    later = adapted(photos, tmp_path / "later", str(mine))  # holds the same ones out
    assert later.scores.keys() == {"network", "float32", "int8"}
    assert held_out(tmp_path / "later/records/none") == held_out(mine / "records/none")


def test_a_model_with_a_class_other_keeps_it(tmp_path):
    """An earlier release made it, or it has no second class beside that."""
    photos = photographs_of(tmp_path / "photos", ("n1", "n2", "other"))
    how = photographs.options(photos, 0, False, None)
    assert how.none == "left out"
    photographs.converted(
        photos, tmp_path / "old/records", dataclasses.replace(how, none="a class")
    )
    for directory, start in (("old", "squeezenet_v1_1"), ("new", str(tmp_path / "old"))):
        (tmp_path / directory).mkdir(exist_ok=True)
        found = photographs.going_on(how, tmp_path / directory, start)
        photographs.converted(photos, tmp_path / directory / "records", found)
        assert not (tmp_path / directory / "records/none").exists()


def test_a_finished_model_goes_on_in_place(tmp_path, default, capsys):
    """The model before is kept; a second time, the first one is dropped."""
    photos = photographs_of(tmp_path / "photos", ("n1", "n2"))
    mine = finished(photos, tmp_path / "mine", default)
    was, start = held_out(mine / "records"), (os.path.realpath(mine / "before"),)
    photographs_of(photos, ("n1", "n2"), range(20, 25))
    capsys.readouterr()
    arguments = [str(photos), "--model_dir", str(mine), "--configuration", default]
    assert adapt_command.main(["adapt", *arguments, "--dry_run"]) == 0
    assert ": 10 photographs added. " in capsys.readouterr().out
    assert not (mine / "before").exists()
    second = adapted(photos, mine, default, minutes=0.002)
    told = capsys.readouterr().err
    assert f"training goes on from that model, which is kept in {mine / 'before'}.\n" in told
    assert ": 10 photographs added. " in told
    assert was < held_out(mine / "records") and was == held_out(mine / "before/records")
    assert "that the model before has, its top-1 is " in second.remarks[-1]
    assert (second.plan.configuration,) == start and photographs.is_finished(mine / "before")
    mine.rename(moved := tmp_path / "moved")
    (moved / "scores.json").unlink()  # as if it was interrupted shortly before the end
    again = adapted(photos, moved, default, minutes=0.002)
    assert again.plan.configuration == os.path.realpath(moved / "before")
    assert again.scores == second.scores and again.remarks[-1] == second.remarks[-1]
    moved.rename(mine)
    assert recorded(photos, mine, photographs.start(mine, (default,)))[0] == start  # as it is
    assert was == held_out(mine / "before/records")
    photographs_of(photos, ("n1",), range(30, 31))
    for networks, change in ((("squeezenet_v1_0",), {}), (start, {"seed": 1})):
        with pytest.raises(InputError, match="begun with other photographs"):
            recorded(photos, mine, networks, **change)
    assert recorded(photos, mine, start)[0] == start
    assert "instead of the one that was there" in capsys.readouterr().err
    assert was < held_out(mine / "before/records") and not (mine / "before/before").exists()
    assert was < held_out(mine / "records")


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_wherever_it_is_killed_the_same_command_sets_the_model_aside(tmp_path, monkeypatch):
    names = ("config.json", "adapt.json", "records/manifest.json", "report/index.html")

    def made(directory, text):
        for name in names:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)

    def contents(directory):
        return [(directory / name).read_text() for name in names]

    for stop in range(50):
        mine = tmp_path / f"{stop}"
        made(mine / "before", "oldest")
        made(mine, "old")
        (mine / "holiday.txt").write_text("mine")
        calls = iter(range(stop))
        with monkeypatch.context() as patch:
            for module, name in ((os, "rename"), (os, "unlink"), (os, "rmdir"), (os, "mkdir")):
                patch.setattr(module, name, _until(calls, getattr(module, name)))
            try:
                model_directory.set_aside(mine)
                break
            except Killed:
                assert model_directory.is_moving(mine) or not contents_differ(mine, names)
        if model_directory.is_moving(mine):
            left = [name for name in names if (mine / name).exists()]
            assert not left or "config.json" in left  # else the same command refuses a stranger's
            model_directory.set_aside(mine)
            assert contents(mine / "before") == ["old"] * 4
            assert sorted(path.name for path in mine.iterdir()) == ["before", "holiday.txt"]
    assert stop > 8 and contents(mine / "before") == ["old"] * 4


def contents_differ(mine, names):
    return [name for name in names if (mine / name).read_text() != "old"]


def _until(calls, function):
    """Returns a function that works until the calls are used up."""

    def call(*arguments, **named):
        if next(calls, None) is None:
            raise Killed
        return function(*arguments, **named)

    return call


def finished(photos, model_dir, start):
    """Makes what a finished `adapt` leaves, without its training."""
    from tests import tiny

    recorded(photos, model_dir, (start,))
    tiny.model_directory(model_dir, tiny.SQUEEZENET)
    for name in ("adapt.json", "scores.json"):
        (model_dir / name).write_text("{}")
    return model_dir


def test_an_interrupted_move_goes_on_with_the_same_command(tmp_path, default, monkeypatch):
    photos = photographs_of(tmp_path / "photos", ("n1", "n2"))
    mine = finished(photos, tmp_path / "mine", default)
    was = held_out(mine / "records")
    photographs_of(photos, ("n1",), range(20, 23))
    rename, calls = os.rename, iter(range(4))
    monkeypatch.setattr(os, "rename", _until(calls, rename))
    with pytest.raises(Killed):
        adapted(photos, mine, default)
    assert (mine / ".before").is_dir() and not (mine / "before").exists()
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(adapt_command, "_first_answer", _until(iter(()), print))
    for _ in range(2):  # killed again before there is an adapt.json
        with pytest.raises(Killed):
            adapted(photos, mine, default)
    assert was <= held_out(mine / "records") and not (mine / ".before").exists()
    assert was == held_out(mine / "before/records")


def test_an_unfinished_model_of_other_photographs_is_left_alone(tmp_path, default):
    photos, mine = photographs_of(tmp_path / "photos", ("n1", "n2")), tmp_path / "mine"
    recorded(photos, mine, (default,))
    photographs_of(photos, ("n1",), range(20, 23))
    with pytest.raises(InputError, match="begun with other photographs"):
        recorded(photos, mine, (default,))
    assert not (mine / "before").exists()


def test_a_review_that_moved_with_the_model_is_found(tmp_path, default):
    photos = photographs_of(tmp_path / "photos", ("n1", "n2"))
    mine = finished(photos, tmp_path / "mine", default)
    path = mine / "doctor/doctor.csv"
    review.write(path, [review.Row("n1/0.jpg", "n1", "", "", "", "remove")])
    for _ in range(2):
        recorded(photos, mine, photographs.start(mine, (default,)), apply=path)
    assert len(held_out(mine / "records") | held_out(mine / "records", "train")) == 19
    assert len(held_out(mine / "before/records", "train")) == 16
    for name in ("adapt.json", "scores.json"):
        (mine / name).write_text("{}")
    with pytest.raises(InputError, match="or --apply; give another"):  # forgotten
        recorded(photos, mine, photographs.start(mine, (default,)))


def held_out(records, split="val") -> set[str]:
    """Returns the names of the photographs in a split, "val" or "train"."""
    rows = (records / f"{split}.csv").read_text().splitlines()[1:]
    return {row.rpartition(",")[0] for row in rows}


def test_a_directory_of_an_earlier_release_goes_on_without_what_was_before(tmp_path):
    from tests import tiny

    for number in range(12):
        path = tmp_path / "photos" / f"n{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.jpeg(number, number % 2 + 1))
    start, plain = tmp_path / "first", photographs.options(tmp_path / "photos", 0, False, None)
    photographs.converted(tmp_path / "photos", start / "records", plain)
    photographs.converted(tmp_path / "photos", tmp_path / "old" / "records", plain)
    assert photographs.going_on(plain, tmp_path / "old", str(start)) == plain
    (tmp_path / "new").mkdir()
    assert photographs.going_on(plain, tmp_path / "new", "squeezenet_v1_1") == plain
    options = photographs.going_on(plain, tmp_path / "new", str(start))
    photographs.converted(tmp_path / "photos", tmp_path / "new" / "records", options)
    (start / "records" / "val.csv").unlink()  # what is before has its own list
    assert photographs.going_on(plain, tmp_path / "new", str(start)) == options


def test_uneven_classes_are_adjusted(tmp_path):
    """Above three times the smallest class; the plan says so, and keeps it."""
    from squeezenext.records.dataset import find_dataset
    from tests import tiny

    for numbers, wanted in (((20, 4, 8), "adjusted"), ((12, 4, 4), "none")):
        labels = [label for label, count in enumerate(numbers, 1) for _ in range(count)]
        payloads = [tiny.payload(number, label) for number, label in enumerate(labels)]
        found = find_dataset(tiny.data_set(tmp_path, "train", payloads), None, None)
        assert courses.weighting(found.splits["train"], 3) == wanted
    made = planning.plan(
        "squeezenet_v1_1", planning.Photographs(32, 8, 8, 3), planning.Speed(10.0, 3.0),
        minutes=5.0, seconds=300.0, max_bytes=0, class_weights="adjusted",
    )  # fmt: skip
    assert made.config().training.class_weights == "adjusted"
    courses.keep(tmp_path / "adapt.json", made)
    assert courses.kept(tmp_path / "adapt.json", ("squeezenet_v1_1",), 5.0) == made


def test_the_summary_shows_that_one_class_is_always_named(tmp_path):
    report = tmp_path / "report" / "index.html"
    remark = "It names hat for every image: it tells nothing apart, whatever top-1."
    done = shipping.Adapted(
        model_dir=tmp_path, plan=None, scores={"network": 0.83}, split="validation", images=12,
        files={}, report=report, seconds=60.0, balanced={"network": 0.25}, remarks=(remark,),
    )  # fmt: skip
    lines = adapt_command.summary_lines(done)
    assert "top-1 0.8300" in lines[1] and "balanced 0.2500" in lines[1] and lines[2] == remark


def test_a_folder_of_other_files_is_no_place_for_a_model(tmp_path):
    for name in ("photos/a", "photos/b", "mine/records"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("photos/a/1.jpg", "photos/b/1.jpg", "mine/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"holds other files, such as notes\.txt; name a new"):
        adapt_command.adapt(tmp_path / "photos", tmp_path / "mine")
    assert not list((tmp_path / "mine" / "records").iterdir())


def test_swapped_arguments_leave_the_photographs_alone(tmp_path):
    from tests import tiny

    for name in ("photos/a", "photos/b", "split/train/a", "split/train/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.jpg").write_bytes(b"x")
    tiny.model_directory(tmp_path / "mine", tiny.SQUEEZENEXT)
    with pytest.raises(InputError, match="mine is a model directory; give the photographs"):
        adapt_command.adapt(tmp_path / "mine", tmp_path / "photos")
    (tmp_path / "mine" / "config.json").write_text("{}")  # another program's
    for place in ("photos", "split"):
        with pytest.raises(InputError, match=f"{place} holds photographs, which are given first"):
            adapt_command.adapt(tmp_path / "mine", tmp_path / place)
    with pytest.raises(InputError, match="model_dir is empty"):
        adapt_command.adapt(tmp_path / "photos", "")
    with pytest.raises(InputError, match="--seed 4294967296: must be below"):
        adapt_command.adapt(tmp_path / "photos", tmp_path / "new", seed=1 << 32)
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["a", "b"]


def test_images_in_its_own_directory_are_no_photographs(tmp_path):
    """Such as heat maps of `predict --explain mine/maps`; the next fault is another one."""
    from tests import tiny

    (tmp_path / "photos").mkdir()
    tiny.model_directory(tmp_path / "mine", tiny.SQUEEZENEXT)
    (tmp_path / "mine" / "maps").mkdir()
    (tmp_path / "mine" / "maps" / "1.jpg").write_bytes(b"x")
    (tmp_path / "mine" / "adapt.json").write_text("{}")
    adapt_command._check(tmp_path / "photos", tmp_path / "mine", "squeezenet_v1_1", 1)
    (tmp_path / "mine" / "adapt.json").unlink()
    with pytest.raises(InputError, match="mine holds a model that adapt did not make"):
        adapt_command._check(tmp_path / "photos", tmp_path / "mine", "squeezenet_v1_1", 1)
    (tmp_path / "mine" / "config.json").unlink()
    with pytest.raises(InputError, match="mine holds photographs"):
        adapt_command._check(tmp_path / "photos", tmp_path / "mine", "squeezenet_v1_1", 1)


@pytest.mark.parametrize("there", [False, True])
def test_refused_photographs_leave_nothing_behind(tmp_path, there):
    from tests import tiny

    tiny.model_directory(tmp_path / "first", tiny.SQUEEZENET)
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "1.jpg").write_bytes(tiny.jpeg(1, 1))
    if there:
        (tmp_path / "mine").mkdir()
    with pytest.raises(
        InputError, match="1 class folder with images, a, but .* make one folder per class"
    ):
        adapt_command.adapt(
            tmp_path / "photos", tmp_path / "mine", configuration=str(tmp_path / "first")
        )
    assert (tmp_path / "mine").exists() == there
    assert not there or not list((tmp_path / "mine").iterdir())
