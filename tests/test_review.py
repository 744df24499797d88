"""Tests for `squeezenext/convert/review.py`: what doctor.csv decides about a conversion."""

import json
import shutil

import numpy as np
import pytest

from squeezenext.convert import command, folder, review, sources
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.pool import Pool
from squeezenext.convert.review import Row
from squeezenext.errors import InputError
from squeezenext.records import dataset
from tests import tiny


@pytest.fixture
def photos(tmp_path):
    for number in range(20):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.jpeg(number, number % 2 + 1))
    return tmp_path / "photos"


def row(file, action="keep", group="", suggested="", size=""):
    return Row(file, file[0], "", group, suggested, action, str(size))


def split(photos, *rows, **options):
    """Splits the photographs as a doctor.csv of these rows says; returns it and the collection."""
    path = photos.parent / "doctor.csv"
    review.write(path, rows)
    options = ConvertOptions("folder", apply=str(path), **options)
    return review.split(folder.collect(photos, options, folder.ClassNames()), options)


def names(collection):
    return {name: set(listing.names) for name, listing in collection.splits.items()}


def test_a_removed_photograph_is_in_no_split_and_a_moved_one_has_the_other_class(photos):
    collection = split(photos, row("a/02.jpg", "remove"), row("b/01.jpg", "move to a"))
    whole = review.joined(collection.splits)
    label_of = {
        name.partition("/")[2]: collection.classes[label - 1].synset
        for name, label in zip(whole.names, whole.table["label"], strict=True)
    }
    assert len(label_of) == 19 and "a/02.jpg" not in label_of
    assert label_of["b/01.jpg"] == "a" and label_of["b/03.jpg"] == "b"
    assert collection.warnings[-1] == (
        "doctor.csv was applied: 1 photograph removed, 1 moved to another class, 0 groups kept "
        "together."
    )


def test_a_row_about_another_photograph_of_the_name_does_not_count_as_removed(photos):
    collection = split(photos, row("a/02.jpg", "remove"), row("a/04.jpg", "remove", size=1))
    assert collection.warnings[-1] == (
        "doctor.csv was applied: 1 photograph removed, 0 moved to another class, 0 groups kept "
        "together; 1 photograph that it names are gone or changed."
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_group_lies_in_one_split(photos, seed):
    pairs = [
        row(f"{'ab'[number % 2]}/{number:02d}.jpg", group=str(number // 4 * 2 + number % 2))
        for number in range(20)
    ]
    parts = names(split(photos, *pairs, seed=seed))
    for one in pairs:
        members = {other.file for other in pairs if other.group == one.group}
        assert members <= parts["train"] or members <= parts["validation"]
    assert len(parts["validation"]) == 4  # two of each class, as without groups


def test_a_class_that_is_one_group_stays_in_training(photos):
    rows = [row(f"a/{number:02d}.jpg", group="1") for number in range(0, 20, 2)]
    parts = names(split(photos, *rows))
    assert {row.file for row in rows} <= parts["train"]
    assert len(parts["validation"]) == 2


def test_where_each_class_is_one_group_it_is_torn_and_this_is_said(photos):
    rows = [row(f"{'ab'[n % 2]}/{n:02d}.jpg", group=str(n % 2)) for n in range(20)]
    collection = split(photos, *rows)
    assert len(collection.splits["validation"].names) == 4
    assert "whose score will be too good" in collection.warnings[-1]


def test_a_review_without_groups_changes_no_split(photos):
    options = ConvertOptions("folder")
    plain = review.split(folder.collect(photos, options, folder.ClassNames()), options)
    assert names(split(photos, row("a/00.jpg"))) == names(plain)


def test_names_have_their_split_where_there_are_several(photos):
    photos.rename(photos.parent / "all")
    for part in ("train", "test"):
        (photos / part).mkdir(parents=True)
    for name in "ab":
        (photos.parent / "all" / name).rename(photos / "train" / name)
        (photos / "test" / name).mkdir()
        (photos / "test" / name / "00.jpg").write_bytes(tiny.jpeg(50, 1))
    parts = names(split(photos, row("train/a/00.jpg", "remove")))
    assert "a/00.jpg" in parts["test"] and "a/00.jpg" not in parts["train"] | parts["validation"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a/00.jpg", "delete")], "'delete'; write keep, remove or move to CLASS"),
        ([row("a/00.jpg", "move to c")], "'c', which is no class here; there are a, b"),
        ([row("c/9.jpg")], "names none of these photographs, but c/9.jpg"),
        (
            [row(f"a/{number:02d}.jpg", "remove") for number in range(0, 20, 2)],
            "no training photograph of the class 'a'",
        ),
    ],
)
def test_a_review_that_cannot_be_obeyed(photos, rows, message):
    with pytest.raises(InputError, match=message):
        split(photos, *rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its first row must read file,class"),
        (b"a,b\n1,2\n", "its first row must read file,class"),
        (b"\xff\xfe\x00", "no CSV file in UTF-8"),
        (b"file,class,finding,group,suggested,action\na\n", "row 2 has 1 cells, not 6"),
    ],
)
def test_a_file_that_is_no_review(tmp_path, content, message):
    (tmp_path / "doctor.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        review.read(tmp_path / "doctor.csv")


def test_a_spreadsheet_may_have_saved_it(photos):
    """This one is of an earlier release, which had no column of sizes."""
    path = photos.parent / "doctor.csv"
    text = ";".join(review.COLUMNS[:6]) + "\r\na/00.jpg;a;;;; Remove \r\n;;;;;\r\n"
    path.write_text("\ufeff" + text, encoding="utf-8", newline="")
    assert review.read(path) == [row("a/00.jpg", "remove")]


def test_actions_may_be_written_in_capitals(photos):
    (photos / "a").rename(photos / "Keep")
    rows = [row("b/01.jpg", " REMOVE"), row("b/03.jpg", "Move to Keep"), row("b/05.jpg", "KEEP")]
    parts = split(photos, *rows).splits
    where = {
        name: label
        for part in parts.values()
        for name, label in zip(part.names, part.table["label"], strict=True)
    }
    assert "b/01.jpg" not in where and (where["b/03.jpg"], where["b/05.jpg"]) == (1, 2)


def test_the_review_of_other_photographs_of_the_same_names_is_refused(photos):
    sizes = {name: (photos / name).stat().st_size for name in names_of(photos)}
    mine = [row(name, "remove", size=size) for name, size in sizes.items() if "0.jpg" in name]
    parts = names(split(photos, *mine, row("a/02.jpg", "remove", size=7)))
    kept = set().union(*parts.values())
    assert len(kept) == 18 and "a/02.jpg" in kept
    theirs = [row(name, "remove", size=size + 1) for name, size in sizes.items() if "1" in name]
    with pytest.raises(InputError, match="is the review of other photographs: .* of its names"):
        split(photos, *mine, *theirs)


def test_a_name_that_a_spreadsheet_would_compute_is_found_again(photos):
    (photos / "a" / "00.jpg").rename(photos / "a" / "=1+1.jpg")
    (photos / "a").rename(photos / "=a")
    parts = names(split(photos, Row("=a/=1+1.jpg", "=a", "", "", "", "remove")))
    assert "=a/=1+1.jpg" not in set().union(*parts.values())


def test_names_may_begin_and_end_with_spaces(photos):
    (photos / "a").rename(photos / " a")
    (photos / "b").rename(photos / "b ")
    rows = [row(" a/00.jpg", "remove"), row(" a/02.jpg", "move to b "), row(" b /01.jpg", "remove")]
    collection = split(photos, *rows)
    parts = set().union(*names(collection).values())
    assert len(parts) == 18 and not {" a/00.jpg", "b /01.jpg"} & parts
    assert collection.warnings[-1].startswith("doctor.csv was applied: 2 photographs removed, 1")


def test_conversion_obeys_and_its_identity_covers_the_content(photos, tmp_path):
    path, out = tmp_path / "doctor.csv", tmp_path / "out"
    review.write(path, [row("a/00.jpg", "remove")])
    options = ConvertOptions("folder", apply=str(path), workers=1, show_progress=False)
    manifest = command.convert(photos, out, options)
    assert sum(split.examples for split in manifest.splits.values()) == 19
    again = json.loads((out / dataset.MANIFEST).read_text())
    assert "apply" not in again["arguments"]
    assert command.convert(photos, out, options).raw == manifest.raw  # done already
    review.write(path, [row("a/00.jpg")])
    with pytest.raises(InputError, match="holds another data set"):
        command.convert(photos, out, options)


def test_apply_is_for_layouts_of_photographs(photos, tmp_path):
    options = ConvertOptions("tfrecord", apply="doctor.csv", workers=1)
    with pytest.raises(InputError, match="--apply is for --layout folder and csv"):
        command.convert(tmp_path, tmp_path / "out", options)


def test_many_groups_are_split_by_class():
    """Each class gives its fifth, as near as its groups allow."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5, 100)
    groups = np.repeat(np.arange(100), sizes)
    labels = np.repeat(rng.integers(1, 4, 100), sizes)
    rows = [(0, 0, 1, int(label)) for label in labels]
    listing = review.Listing.of_rows(["x"], rows, [f"{n}" for n in range(len(rows))])
    parts = review.with_validation({"train": listing}, ConvertOptions("folder"), groups)
    held_out = np.array([int(name) for name in parts["validation"].names])
    assert np.isin(groups, groups[held_out]).sum() == len(held_out)
    for label in range(1, 4):
        share = (labels[held_out] == label).sum() / (labels == label).sum()
        assert 0.15 < share <= 0.21


@pytest.mark.parametrize("name", ["none", "Other", "BACKGROUND"])
def test_photographs_of_none_are_split_like_others_and_make_no_class(photos, tmp_path, name):
    for number in range(10):
        path = photos / name / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tiny.jpeg(200 + number, 1))
    without, alone = (apart(photos, none) for none in ("left out", "alone"))
    assert [label.synset for label in without.classes] == ["a", "b"]
    assert [label.synset for label in alone.classes] == [name]
    assert {*np.concatenate([each.table["label"] for each in without.splits.values()])} == {1, 2}
    assert {*alone.splits["train"].table["label"]} == {1}
    as_class = names(apart(photos, "a class"))
    assert [len(part) for part in names(alone).values()] == [8, 2] and without.none == 10
    for split, part in names(without).items():
        assert part | names(alone)[split] == as_class[split]
    few = f"The 10 photographs of {name} will have no effect until 19 photographs of the classes "
    assert without.notes == (few + "are held out, and 4 are; no class is made of them.",)
    assert without.warnings == alone.warnings == alone.notes == ()
    shutil.rmtree(photos / "b")  # of two classes, a classifier needs both
    left = apart(photos, "left out")
    assert len(left.classes) == 2
    assert left.notes == (f"{name} is a class here, since only one class lies beside it.",)


def apart(photos, none):
    """Lists photographs by the ordinary path."""
    options = ConvertOptions("folder", none=none, show_progress=False)
    with Pool(1) as pool:
        return sources.collect(photos, options, pool, photos.parent / "spool")


def test_a_new_folder_of_none_is_no_new_class(photos, tmp_path):
    _, before = model_of(photos, tmp_path / "first")
    (photos / "none").mkdir()
    (photos / "none/1.jpg").write_bytes(tiny.jpeg(77, 1))
    assert "1 new class: none" in go_on(photos, before).notes[-1]
    assert "new class" not in go_on(photos, before, none="left out").notes[-1]


def go_on(photos, before, **options):
    """Splits the photographs of a model that goes on from another one."""
    options = ConvertOptions("folder", before=str(before), **options)
    return review.split(folder.collect(photos, options, folder.ClassNames()), options)


def model_of(photos, output):
    """Converts the photographs; returns what was held out and what a model of them remembers."""
    manifest = command.convert(photos, output, ConvertOptions("folder", show_progress=False))
    review.remember(output.with_suffix(".json"), output, output / "absent.json")
    rows = (output / "val.csv").read_text().splitlines()[1:]
    assert len(rows) == manifest.splits["validation"].examples
    return {row.partition(",")[0] for row in rows}, output.with_suffix(".json")


@pytest.mark.parametrize("seed", range(5))
def test_no_photograph_that_was_held_out_comes_into_training(photos, tmp_path, seed):
    """Nor is one held out that the model was trained on: its score would be too good."""
    held, before = model_of(photos, tmp_path / "first")
    old = {str(path.relative_to(photos)) for path in photos.glob("*/*")}
    for number in range(30):
        path = photos / "abc"[number % 3] / f"more{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tiny.jpeg(100 + number, 1))
    assert not held <= names(go_on_without(photos, seed))["validation"]
    collection = go_on(photos, before, seed=seed)
    parts = names(collection)
    assert parts["validation"] & old == held and parts["train"] & old == old - held
    assert len(parts["validation"]) == 10  # a fifth of the 20 + 20 + 10
    assert collection.notes[-1] == (
        "Since the model was made: 30 photographs added, 1 new class: c. "
        "4 photographs stay held out."
    )
    assert not collection.warnings


def go_on_without(photos, seed):
    options = ConvertOptions("folder", seed=seed)
    return review.split(folder.collect(photos, options, folder.ClassNames()), options)


def test_a_photograph_with_a_mended_label_stays_in_its_split(photos, tmp_path):
    held, before = model_of(photos, tmp_path / "first")
    one, other = sorted(held)[0], sorted(names_of(photos) - held)[-1]
    assert (one[0], other[0]) == ("a", "b")
    (photos / one).rename(photos / one.replace("a/", "b/"))
    (photos / other).rename(photos / other.replace("b/", "a/"))
    (photos / sorted(held)[-1]).unlink()
    collection = go_on(photos, before)
    parts = names(collection)
    assert one.replace("a/", "b/") in parts["validation"]
    assert other.replace("b/", "a/") in parts["train"]
    assert "made: 1 removed, 2 moved to another class. " in collection.notes[-1]


def names_of(photos):
    return {str(path.relative_to(photos)) for path in photos.glob("*/*")}


def test_what_is_alike_follows_what_was_held_out(photos, tmp_path):
    held, before = model_of(photos, tmp_path / "first")
    one, other = sorted(held)[0], sorted(names_of(photos) - held)[0]
    for number, alike in enumerate((one, other)):
        (photos / f"a/alike{number}.jpg").write_bytes((photos / alike).read_bytes())
    path = tmp_path / "groups.csv"
    review.write(path, [row(one, group="1"), row("a/alike0.jpg", group="1"),
                        row(other, group="2"), row("a/alike1.jpg", group="2")])  # fmt: skip
    parts = names(go_on(photos, before, apply=str(path)))
    assert {one, "a/alike0.jpg"} <= parts["validation"]
    assert {other, "a/alike1.jpg"} <= parts["train"]
    (photos / "c").mkdir()
    for number in range(2):  # a new class with the wrong labels
        (photos / f"c/{number}.jpg").write_bytes((photos / one).read_bytes())
    review.write(path, [row(name, group="1") for name in (one, "c/0.jpg", "c/1.jpg")])
    collection = go_on(photos, before, apply=str(path))
    assert held <= names(collection)["validation"] and "groups were torn" in collection.warnings[-1]


def test_a_model_that_went_on_remembers_both(photos, tmp_path):
    held, before = model_of(photos, tmp_path / "first")
    gone = sorted(held)[0]
    data = (photos / gone).read_bytes()
    (photos / gone).unlink()
    options = ConvertOptions("folder", before=str(before), show_progress=False)
    command.convert(photos, tmp_path / "second", options)
    review.remember(tmp_path / "both.json", tmp_path / "second", before)
    (photos / gone).write_bytes(data)
    parts = names(go_on(photos, tmp_path / "both.json", seed=3))
    assert parts["validation"] >= held


def test_a_class_of_held_out_photographs_alone_is_refused(photos, tmp_path):
    held, before = model_of(photos, tmp_path / "first")
    for name in names_of(photos) - held:
        if name[0] == "a":
            (photos / name).unlink()
    with pytest.raises(InputError, match="photographs of the class 'a' were held out when"):
        go_on(photos, before)
    before.write_text("[1]")
    with pytest.raises(InputError, match="first.json is damaged"):
        go_on(photos, before)
    (tmp_path / "first" / "val.csv").write_text("image,class\na.jpg,77\n")
    with pytest.raises(InputError, match="val.csv is damaged"):
        review.remember(before, tmp_path / "first", tmp_path / "absent.json")


@pytest.mark.parametrize("seed", range(50))
def test_no_class_loses_all_its_training_photographs(seed):
    """Both photographs of the second class are alike with one of the first."""
    labels, groups = np.array([1] * 20 + [2] * 2), np.minimum(np.arange(22), 19)
    rows = [(0, 0, 1, int(label)) for label in labels]
    listing = review.Listing.of_rows(["x"], rows, [f"{n}" for n in range(22)])
    options = ConvertOptions("folder", seed=seed)
    parts = review.with_validation({"train": listing}, options, groups)
    assert set(parts["train"].table["label"]) == {1, 2}
    assert len(parts["validation"].names) >= 3
