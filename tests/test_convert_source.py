"""Sources that are strange, reached by other ways, or change: nothing of the user's is lost."""

import os
import shutil
import threading

import pytest

from squeezenext.convert import command, imagenet
from squeezenext.convert import verify as datasets_verify
from squeezenext.errors import InputError, RunAgain
from squeezenext.records import dataset
from tests import imagenet_archives as archives
from tests.converting import convert
from tests.imagenet_archives import class_folders, jpeg
from tests.test_convert import FOLDER, hashes

SYNSETS = ("n01440764", "n01443537")
VALIDATION = archives.validation_name(SYNSETS[0])


@pytest.fixture
def photos(tmp_path):
    return class_folders(tmp_path / "photos", 6)


def test_a_name_cannot_forge_a_line_of_the_report(photos, tmp_path, capsys):
    (photos / "cat" / "x.\n\x1b[2Jrejected: all is well").write_text("x")
    command.log_outcome(convert(photos, tmp_path / "out", **FOLDER))
    said = capsys.readouterr().err
    assert "\x1b" not in said and said.count("\n") == 2
    assert r"\n\x1b[2jrejected: all is well" in said


TFRECORD = FOLDER | {"layout": "tfrecord"}


@pytest.fixture
def slim(photos, tmp_path):
    """Shards as another program would leave them, two of training and one of validation."""
    convert(photos, tmp_path / "made", **FOLDER, train_shards=2)
    (tmp_path / "slim").mkdir()
    for shard in (tmp_path / "made").glob("*-of-*"):
        shard.rename(tmp_path / "slim" / shard.name)
    return tmp_path / "slim"


def test_symbolic_links_to_shards_are_followed(slim, tmp_path):
    """A relative one, and absolute ones: what is made holds the shards themselves."""
    view = tmp_path / "view"
    view.mkdir()
    for number, shard in enumerate(sorted(slim.iterdir())):
        target = shard if number else os.path.relpath(shard, view)
        (view / shard.name).symlink_to(target)
    shutil.copy(slim / "train-00000-of-00002", view / "holdout-00000-of-00001")
    made = convert(view, tmp_path / "out", **TFRECORD)
    (warning,) = made.raw["warnings"]
    assert warning.startswith(
        "1 file named as no split's shard, as holdout-00000-of-00001: skipped"
    )
    for shard in slim.iterdir():
        assert not (tmp_path / "out" / shard.name).is_symlink()
        assert (tmp_path / "out" / shard.name).samefile(shard)
    dataset.check_shards(dataset.load_manifest(tmp_path / "out"))


@pytest.mark.parametrize("size", [None, 100])
def test_what_is_said_of_a_bad_shard_of_a_finished_set_helps(photos, tmp_path, size):
    out = tmp_path / "out"
    convert(photos, out, **FOLDER)
    whole = hashes(out)
    shard = out / "train-00000-of-00001"
    os.truncate(shard, size) if size else shard.unlink()
    for _ in range(2):
        with pytest.raises(InputError, match="copy it again, or convert .* --overwrite"):
            convert(photos, out, **FOLDER)
    convert(photos, out, **FOLDER, overwrite=True)
    assert hashes(out) == whole


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_that_links_of_the_source_lead_to_is_refused(slim, tmp_path, overwrite):
    before = hashes(slim)
    (tmp_path / "view").mkdir()
    for shard in slim.iterdir():
        (tmp_path / "view" / shard.name).symlink_to(f"../slim/{shard.name}")
    with pytest.raises(InputError, match="leads to .*, in --output .*; give --source .*slim, too"):
        convert(tmp_path / "view", slim, **TFRECORD, overwrite=overwrite)
    assert hashes(slim) == before


@pytest.mark.parametrize("layout", ["folder", "csv", "tfrecord", "imagenet folders"])
def test_a_change_between_listing_and_plan_is_noticed(photos, slim, tmp_path, monkeypatch, layout):
    """Of an image or shard whose length is known, but which has not been read."""
    (tmp_path / "train.csv").write_text(
        "".join(f"photos/{name}/{n}.jpg,{name}\n" for name in ("cat", "dog") for n in range(4))
    )
    victim, source = photos / "cat" / "0.jpg", photos
    if layout == "csv":
        source = tmp_path
    elif layout == "tfrecord":
        victim, source = slim / "train-00001-of-00002", slim
    elif layout == "imagenet folders":
        source, layout = tmp_path / "extracted", "imagenet"
        for split, name in (("train", f"{SYNSETS[0]}_0.JPEG"), ("val", VALIDATION)):
            victim = source / split / SYNSETS[0] / name
            victim.parent.mkdir(parents=True)
            victim.write_bytes(jpeg(1))
    collect = command.sources.collect

    def edited(*arguments):
        collection = collect(*arguments)
        os.utime(victim, ns=(1, 1))
        return collection

    options = FOLDER | {"layout": layout, "partial": True}
    with monkeypatch.context() as patch:
        patch.setattr(command.sources, "collect", edited)
        with pytest.raises(RunAgain, match="changed while it was read"):
            convert(source, tmp_path / "out", **options)
    convert(source, tmp_path / "out", **options)


@pytest.mark.parametrize("sequential", [False, True])
def test_an_archive_that_changes_while_it_is_listed_is_noticed(tmp_path, monkeypatch, sequential):
    """Written anew behind the reader: a sequential pass reads all of it before there is a plan."""
    train = {s: {f"{s}_{n}.JPEG": jpeg(n) for n in range(2)} for s in SYNSETS}
    validation = {VALIDATION: jpeg(9)}
    source = archives.write_imagenet(tmp_path / "source", train, validation)
    archive, listed = source / "ILSVRC2012_img_train.tar", imagenet._train_listing

    def rewritten(*arguments):
        os.utime(archive, ns=(1, 1))
        return listed(*arguments)

    options = FOLDER | {"layout": "imagenet", "partial": True, "sequential": sequential}
    with monkeypatch.context() as patch:
        patch.setattr(imagenet, "_train_listing", rewritten)
        with pytest.raises(RunAgain, match="changed while it was read"):
            convert(source, tmp_path / "out", **options)
    convert(source, tmp_path / "out", **options)


def test_shards_of_unchecked_bytes_are_made_again_under_a_checksum(tmp_path, monkeypatch):
    """A pipe gave a flipped byte; killed, and begun again with --checksum."""
    train = {s: {f"{s}_{n}.JPEG": jpeg(n) for n in range(4)} for s in SYNSETS}
    source = archives.write_imagenet(tmp_path / "source", train, {VALIDATION: jpeg(9)})
    options = FOLDER | {"layout": "imagenet", "partial": True, "train_shards": 2}
    whole, out = tmp_path / "whole", tmp_path / "out"
    convert(source, whole, **options, checksum=True)
    right = (source / "ILSVRC2012_img_train.tar").rename(tmp_path / "moved.tar").read_bytes()
    wrong = bytearray(right)
    wrong[right.index(jpeg(3)) + len(jpeg(3)) - 40] ^= 1
    os.mkfifo(source / "ILSVRC2012_img_train.tar")
    with monkeypatch.context() as patch:
        patch.setattr(command.outputs, "finish", lambda *_: None)
        piped(source, wrong, out, **options)
    piped(source, right, out, **options, checksum=True)
    assert hashes(out) == hashes(whole)


def piped(source, data, out, **options):
    pipe = source / "ILSVRC2012_img_train.tar"
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    convert(source, out, **options)
    writer.join()


@pytest.mark.parametrize("name", ["train.csv", "categories.csv", "validation.index"])
def test_in_place_nobody_elses_list_is_replaced(slim, name):
    (slim / name).write_text("precious")
    before = hashes(slim)
    with pytest.raises(InputError, match=rf"{name} is there already.*--overwrite to lose it"):
        convert(slim, slim, **TFRECORD)
    assert hashes(slim) == before
    convert(slim, slim, **TFRECORD, overwrite=True)
    assert (slim / name).read_bytes() != b"precious"
    before.pop(name)
    assert before.items() <= hashes(slim).items()


@pytest.mark.parametrize("own_labels", [False, True])
def test_in_place_an_interrupted_conversion_goes_on(slim, monkeypatch, own_labels):
    """Its own lists are no strangers; the source's labels.txt stays as it is throughout."""
    if own_labels:
        (slim / "labels.txt").write_text("0:background\n1:a cat\n2:a dog\n")
    before = hashes(slim)
    write_json = command.commit.write_document

    def interrupted(path, *more):
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        write_json(path, *more)

    with monkeypatch.context() as patch:
        patch.setattr(command.commit, "write_document", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(slim, slim, **TFRECORD)
    assert (slim / "train.csv").exists() and (slim / "labels.txt").exists()
    convert(slim, slim, **TFRECORD)
    for options in ({}, {"overwrite": True}):
        convert(slim, slim, **TFRECORD, **options)
        assert before.items() <= hashes(slim).items()
        assert {"train.csv", "train.index", "labels.txt"} <= set(hashes(slim))


def test_overwriting_in_place_takes_what_was_unfinished_away_but_no_shard(slim, monkeypatch):
    before = hashes(slim)
    with monkeypatch.context() as patch:
        patch.setattr(command.outputs, "finish", lambda *_: None)
        convert(slim, slim, **TFRECORD)
    (slim / "rgb_val.json").write_text("left by the plan")
    convert(slim, slim, **TFRECORD, overwrite=True)
    assert before.items() <= hashes(slim).items()
    assert not (slim / "rgb_val.json").exists()  # these shards' colours are not looked at


@pytest.mark.parametrize("error", [BrokenPipeError, BlockingIOError])
def test_what_is_not_the_source_s_fault_is_not_called_so(photos, tmp_path, monkeypatch, error):
    """Standard error that nobody reads any more; no room for another process."""

    def fails(*_):
        raise error

    monkeypatch.setattr(command.sources.folder, "collect", fails)
    with pytest.raises(error):
        convert(photos, tmp_path / "out", **FOLDER)


def test_data_to_score_a_finished_model_on(tmp_path, capsys):
    """A folder with test/CLASS alone, and not of every class: the classes are the model's."""
    from squeezenext.evaluate import command as evaluate_command
    from tests import tiny

    tiny.model_directory(tmp_path / "model", tiny.SQUEEZENEXT)
    photos = tmp_path / "photos"
    class_folders(photos / "test", 3, ("n2", "n3"))
    flags = ["--layout", "folder", "--source", str(photos), "--output", str(tmp_path / "out")]
    assert command.main(["convert", *flags, "--labels_of", str(tmp_path / "model")]) == 0
    made = dataset.load_manifest(tmp_path / "out")
    assert {name: split.examples for name, split in made.splits.items()} == {"test": 6}
    assert [label.synset for label in made.classes] == ["n1", "n2", "n3"]
    assert command.main(["convert", *flags, "--labels_of", str(tmp_path / "model")]) == 0
    assert datasets_verify.main(["verify", str(tmp_path / "out"), "--decode"]) == 0
    capsys.readouterr()
    score = [
        "evaluate",
        "--model_dir",
        str(tmp_path / "model"),
        "--data_dir",
        str(tmp_path / "out"),
    ]
    assert evaluate_command.main([*score, "--split", "test"]) == 0
    told = capsys.readouterr().out
    assert "on 6 images" in told and "of these classes: class 1." in told
    assert evaluate_command.main(score) == 2
    assert "has no validation split (it has test)" in capsys.readouterr().err


def test_a_published_model_s_classes_go_by_its_name(tmp_path):
    photos = class_folders(tmp_path / "photos" / "test", 2, ("n01440764", "n01443537")).parent
    made = convert(photos, tmp_path / "out", **FOLDER, labels_of="squeezenet_v1_0")
    assert len(made.classes) == 1000 and made.splits["test"].examples == 4


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (("test/n1", "test/red"), "red: no class of --labels_of, whose classes are n1, n2, n3"),
        (("train/n1", "train/n2", "test/n1"), "--labels_of is for data without training"),
    ],
)
def test_classes_of_a_model_are_for_data_to_score_it_on(tmp_path, made, told):
    from squeezenext import labels

    labels.write(tmp_path / "labels.json", [labels.Label(f"n{i}", f"n{i}") for i in (1, 2, 3)])
    for name in made:
        class_folders(tmp_path / "photos" / name.rpartition("/")[0], 3, (name.rpartition("/")[2],))
    with pytest.raises(InputError, match=told):
        convert(
            tmp_path / "photos", tmp_path / "out", **FOLDER, labels_of=str(tmp_path / "labels.json")
        )


def test_held_out_splits_alone_are_splits(tmp_path):
    """Without a model their folders are the classes; a class that is called test stays one."""
    class_folders(tmp_path / "one" / "val", 3)
    class_folders(tmp_path / "one" / "test", 2)
    made = convert(tmp_path / "one", tmp_path / "out", **FOLDER)
    assert {name: split.examples for name, split in made.splits.items()} == {
        "validation": 6, "test": 4
    }  # fmt: skip
    class_folders(tmp_path / "two", 5, ("test", "dev"))
    made = convert(tmp_path / "two", tmp_path / "out2", **FOLDER)
    assert [label.synset for label in made.classes] == ["dev", "test"] and "train" in made.splits


def test_a_split_that_is_a_link_needs_the_flag(tmp_path):
    class_folders(tmp_path / "elsewhere", 3)
    class_folders(tmp_path / "photos" / "train", 3)
    (tmp_path / "photos" / "val").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="val is a symbolic link; give --follow_links"):
        convert(tmp_path / "photos", tmp_path / "out", **FOLDER)
    made = convert(tmp_path / "photos", tmp_path / "out", **FOLDER, follow_links=True)
    assert {name: split.examples for name, split in made.splits.items()} == {
        "train": 6, "validation": 6
    }  # fmt: skip


@pytest.mark.parametrize("form", ["folders", "list", "test.csv"])
def test_class_folders_and_lists_can_be_scored_on_too(tmp_path, form):
    from squeezenext import labels

    known = [labels.Label(name, name.title()) for name in ("owl", "dog", "cat")]
    labels.write(tmp_path / "labels.json", known)
    source = class_folders(tmp_path / "photos", 2, ("dog", "owl"))
    options = {"layout": "folder" if form == "folders" else "csv", "workers": 1}
    options |= {"labels_of": str(tmp_path / "labels.json")}
    if form != "folders":
        path = source / "test.csv"
        rows = "".join(f"{name}/{n}.jpg,{name}\n" for name in ("dog", "owl") for n in range(2))
        path.write_text("image,label\n" + rows.replace("owl\n", "red\n"))
        source = path if form == "list" else source
        with pytest.raises(InputError, match="has the class 'red', which is none of --labels_of"):
            convert(source, tmp_path / "out", **options)
        if form == "test.csv":
            (source / "val.csv").write_text(rows)  # the list that has it is named
            with pytest.raises(InputError, match=r"test.csv has the class 'red', which"):
                convert(source, tmp_path / "out", **options)
            (source / "val.csv").unlink()
        path.write_text("image,label\n" + rows)
    made = convert(source, tmp_path / "out", **options)
    assert {name: split.examples for name, split in made.splits.items()} == {"test": 4}
    assert made.classes == tuple(known)
    rows = (tmp_path / "out" / "test.csv").read_text().splitlines()[1:]
    assert sorted(rows) == ["dog/0.jpg,1", "dog/1.jpg,1", "owl/0.jpg,0", "owl/1.jpg,0"]
