"""Caltech256, ImageNet as others extracted it, and shards that other programs wrote."""

import os
import re
import shutil

import pytest

from squeezenext.convert import tfrecords, verify
from squeezenext.convert.command import main
from squeezenext.errors import InputError
from squeezenext.records import dataset, tfrecord
from squeezenext.records import example as records_example
from tests import imagenet_archives as archives
from tests import records
from tests.converting import convert
from tests.imagenet_archives import encoded, jpeg, picture, validation_name
from tests.test_convert import examples, hashes

TENCH, GOLDFISH = "n01440764", "n01443537"
OPTIONS = {"workers": 1, "show_progress": False}
CALTECH = OPTIONS | {"layout": "caltech256"}
IMAGENET = OPTIONS | {"layout": "imagenet", "partial": True}
TFRECORD = OPTIONS | {"layout": "tfrecord"}


@pytest.fixture
def caltech(tmp_path):
    for number, name in enumerate(("001.ak47", "056.dog", "257.clutter"), 1):
        folder = tmp_path / "source" / "256_ObjectCategories" / name
        folder.mkdir(parents=True)
        for n in range(5):
            (folder / f"{name[:3]}_{n:04d}.jpg").write_bytes(jpeg(10 * number + n))
    return tmp_path / "source"


def test_caltech256(caltech, tmp_path):
    nested = caltech / "256_ObjectCategories" / "056.dog" / "greg"
    nested.mkdir()
    (nested / "1.jpg").write_bytes(jpeg(1))
    manifest = convert(caltech, tmp_path / "out", **CALTECH)
    assert [label.text for label in manifest.classes] == ["ak47", "dog"]
    assert {name: split.examples for name, split in manifest.splits.items()} == {
        "train": 8,
        "validation": 2,
    }
    assert manifest.raw["warnings"] == ["056.dog/greg is a folder in a class: left out."]
    inner = caltech / "256_ObjectCategories"
    with_clutter = convert(inner, tmp_path / "all", **CALTECH, clutter=True)
    assert [label.text for label in with_clutter.classes] == ["ak47", "dog", "clutter"]


def test_class_patterns(caltech, tmp_path, capsys):
    source = caltech / "256_ObjectCategories"
    folder = {"layout": "folder", "class_pattern": r"\d+\.(\w).*"}
    manifest = convert(source, tmp_path / "out", **OPTIONS | folder)
    assert [label.text for label in manifest.classes] == ["a", "d", "c"]
    line = ["convert", "--layout=folder", f"--source={source}", f"--output={tmp_path / 'x'}"]
    for pattern, message in (
        (r"\d+\.(dog)", "does not fit the pattern"),
        (r"\d(\d)\d\..*", "Two folders .* are the class '5'"),
        ("dog", "has 0 groups"),
        ("(", "is no regular expression"),
    ):
        shutil.copytree(source / "056.dog", source / "157.cat", dirs_exist_ok=True)
        assert main([*line, f"--class_pattern={pattern}"]) == 2
        said = capsys.readouterr().err
        assert re.search(message, said), said


@pytest.fixture
def trees(tmp_path):
    """The same images as archives, and extracted with val/ flat and in classes."""
    train = {s: {f"{s}_{n}.JPEG": jpeg(b + n) for n in range(4)} for b, s in enumerate(SYNSETS)}
    validation = {validation_name(s, n): jpeg(50 + n) for n, s in enumerate(SYNSETS)}
    boxes = {f"{TENCH}/{TENCH}_1.xml": archives.box_xml(TENCH, (10, 10, 60, 40))}
    source = archives.write_imagenet(tmp_path / "tar", train, validation, boxes)
    for form in ("flat", "classes"):
        for synset, images in train.items():
            for name, data in images.items():
                write(tmp_path / form / "train" / synset / name, data)
        for synset, (name, data) in zip(SYNSETS, validation.items(), strict=True):
            folder = synset if form == "classes" else "."
            write(tmp_path / form / "val" / folder / name, data)
        shutil.copy(source / "ILSVRC2012_bbox_train_v2.tar.gz", tmp_path / form)
    return tmp_path


SYNSETS = (TENCH, GOLDFISH)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_extracted_imagenet_gives_the_archives_records(trees):
    for form in ("tar", "flat", "classes"):
        convert(trees / form, trees / f"out-{form}", **IMAGENET)
    wanted = hashes(trees / "out-tar")
    for form in ("flat", "classes"):
        found = hashes(trees / f"out-{form}")
        assert {n for n in found if found[n] != wanted[n]} == {"manifest.json"}
    row = examples(dataset.load_manifest(trees / "out-flat"), "train")[f"{TENCH}_1.JPEG"]
    assert row["image/object/bbox/xmin"] == pytest.approx([0.1])


def test_extracted_imagenet_names_its_faults(trees):
    root = trees / "classes"
    name = validation_name(GOLDFISH, 3)
    write(root / "val" / TENCH / name, jpeg(1))
    write(root / "train" / TENCH / "notes.txt", b"x")
    write(root / "train" / "tench" / f"{TENCH}_9.JPEG", jpeg(1))
    write(root / "train" / "n99999999" / "n99999999_1.JPEG", jpeg(1))
    write(root / "val" / TENCH / "ILSVRC2012_val_00050001.JPEG", jpeg(1))
    manifest = convert(root, trees / "out", **IMAGENET)
    reasons = {row["file"]: row["reason"] for row in manifest.raw["rejected"]}
    assert reasons == {
        f"{TENCH}/{name}": f"lies in {TENCH}, the official list says another class",
        f"{TENCH}/notes.txt": "is no image of the data set",
        "train/n99999999": "is none of the 1000 classes",
        "train/tench": "is no class folder, nXXXXXXXX",
        f"{TENCH}/ILSVRC2012_val_00050001.JPEG": "has a number outside 1..50000",
    }
    with pytest.raises(InputError, match="holds 8 images of 2 classes.*--partial"):
        convert(trees / "flat", trees / "x", **IMAGENET | {"partial": False})
    shutil.rmtree(trees / "flat" / "val")
    write(trees / "flat" / "val" / TENCH / name, jpeg(1))
    write(trees / "flat" / "train" / TENCH / "stray.txt", b"")  # which is no fault of val/
    with pytest.raises(InputError, match=rf"are, ILSVRC\S+; {TENCH}/{name} lies in {TENCH}"):
        convert(trees / "flat", trees / "x", **IMAGENET)
    (trees / "flat" / "val" / TENCH / name).unlink()
    with pytest.raises(InputError, match=r"are, ILSVRC2012_val_NNNNNNNN.JPEG\.$"):
        convert(trees / "flat", trees / "x", **IMAGENET)
    shutil.rmtree(trees / "flat" / "val")
    with pytest.raises(InputError, match="has no folder val"):
        convert(trees / "flat", trees / "x", **IMAGENET)


def slim_shards(folder, names=("train", "validation"), labels=(1, 2), image=None, **changes):
    """Writes shards as TensorFlow itself does, in the schema of TF-slim."""
    tf = pytest.importorskip("tensorflow")
    folder.mkdir(exist_ok=True)
    for name in names:
        for shard in range(2):
            with tf.io.TFRecordWriter(str(folder / f"{name}-{shard:05d}-of-00002")) as writer:
                for n in range(3):
                    label = labels[n % 2]
                    data = image or jpeg(len(name) * 100 + shard * 10 + n)
                    texts = (f"n{label}", f"class {label}", f"{shard}{n}.jpg")
                    image_example = records_example.ImageExample(data, 16, 24, label, *texts)
                    features = records.example_features(image_example)
                    row = records_example.decode_example(records.encode_example(features | changes))
                    example = tf.train.Example()
                    for key, values in row.items():
                        feature = example.features.feature[key]
                        kinds = {bytes: feature.bytes_list, int: feature.int64_list}
                        if values and type(values[0]) in kinds:
                            kinds[type(values[0])].value.extend(values)
                    writer.write(example.SerializeToString())
    return folder


def test_shards_without_a_manifest(tmp_path):
    source = slim_shards(tmp_path / "slim")
    before = hashes(source)
    manifest = convert(source, tmp_path / "out", **TFRECORD)
    assert {name: split.examples for name, split in manifest.splits.items()} == {
        "train": 6,
        "validation": 6,
    }
    assert [label.text for label in manifest.classes] == ["class 1", "class 2"]
    assert verify.verify(tmp_path / "out", decode=True, workers=1) == []
    assert before.items() <= hashes(tmp_path / "out").items() and hashes(source) == before
    shard = tmp_path / "out" / "train-00000-of-00002"
    assert shard.samefile(source / shard.name)
    assert len((tmp_path / "out" / "train.csv").read_text().splitlines()) == 7


def test_shards_are_copied_where_links_cannot_be(tmp_path, monkeypatch):
    source = slim_shards(tmp_path / "slim")

    def refused(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(tfrecords.os, "link", refused)
    convert(source, tmp_path / "out", **TFRECORD)
    assert hashes(source).items() <= hashes(tmp_path / "out").items()
    assert not (tmp_path / "out" / "train-00000-of-00002").samefile(source / "train-00000-of-00002")


def test_shards_in_place(tmp_path):
    """Also with --overwrite: it takes the manifest away, never the shards, which are the source."""
    source = slim_shards(tmp_path / "slim")
    before = hashes(source)
    convert(source, source, **TFRECORD)
    again = convert(source, source, **TFRECORD)
    assert convert(source, source, **TFRECORD, overwrite=True).raw == again.raw
    assert before.items() <= hashes(source).items()
    assert verify.verify(source, workers=1) == []


def test_labels_txt_names_the_classes(tmp_path):
    empty = {"image/class/text": [], "image/class/synset": []}
    source = slim_shards(tmp_path / "slim", **empty)
    (source / "labels.txt").write_text("0:background\n1:cat\n2:dog\n3:owl\n")
    manifest = convert(source, tmp_path / "out", **TFRECORD)
    assert [label.text for label in manifest.classes] == ["cat", "dog", "owl"]


def unreadable(*_):
    raise OSError(5, "Input/output error")


def test_bad_shards_are_named(tmp_path, monkeypatch):
    source = slim_shards(tmp_path / "slim")
    path = source / "train-00001-of-00002"
    data = bytearray(path.read_bytes())
    data[tfrecord.offsets(path)[1] + 99] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="train-00001-of-00002: record 1 fails its checksum"):
        convert(source, tmp_path / "out", **TFRECORD)
    os.truncate(path, 100)
    with pytest.raises(InputError, match="train-00001-of-00002: record 0 ends at"):
        convert(source, tmp_path / "out", **TFRECORD)
    with monkeypatch.context() as patch:
        patch.setattr(tfrecords.hashlib, "file_digest", unreadable)
        with pytest.raises(InputError, match="00000-of-00002 cannot be read .Input/output error"):
            convert(source, tmp_path / "out", **TFRECORD)
    path.unlink()
    with pytest.raises(InputError, match="holds 1 shards like .*promise 00002"):
        convert(source, tmp_path / "out", **TFRECORD)
    with pytest.raises(InputError, match="has no training shards"):
        convert(tmp_path, tmp_path / "other", **TFRECORD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": (0, 1)}, "record 0 .00.jpg. has the label 0, but labels count from 1"),
        (
            {"labels": (1 << 40, 1)},
            "label 1099511627776, but labels count from 1 to 100000",
        ),
        ({"image/class/text": [b"a\n7:forged"]}, "has a name that is no text"),
        ({"image": encoded(picture(), "PNG")}, "holds an image that is no JPEG"),
        ({"image": jpeg()[:40]}, "is cut short"),
        ({"image/encoded": []}, "has no image/class/label or no image/encoded"),
    ],
)
def test_records_that_training_cannot_read(tmp_path, changes, message):
    source = slim_shards(tmp_path / "slim", **changes)
    with pytest.raises(InputError, match=message):
        convert(source, tmp_path / "out", **TFRECORD)
    assert not (tmp_path / "out" / "manifest.json").exists()
