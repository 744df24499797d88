"""Images listed in CSV files, in the forms people have them."""

import os
import subprocess
import sys

import pytest

from squeezenext.convert import csv_lists
from squeezenext.convert.options import ConvertOptions
from squeezenext.errors import InputError
from squeezenext.records import dataset
from tests.converting import convert
from tests.imagenet_archives import jpeg
from tests.test_convert import ROOT

CSV = {"layout": "csv", "workers": 1, "show_progress": False}
HALF = ConvertOptions("csv", validation_fraction=0.5)


@pytest.fixture
def images(tmp_path):
    for n in range(6):
        path = tmp_path / "images" / f"{n}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(n))
    return tmp_path


def rows(names=range(6), classes=("cat", "dog")):
    return "".join(f"images/{n}.jpg,{classes[n % 2]}\n" for n in names)


def listed(path):
    collection = csv_lists.collect(path, HALF)
    found = {}
    for split in collection.splits.values():
        for name, label in zip(split.names, split.table["label"].tolist(), strict=True):
            found[name] = collection.classes[label - 1].text
    return found


WANTED = {f"images/{n}.jpg": ("cat", "dog")[n % 2] for n in range(6)}


@pytest.mark.parametrize(
    "text",
    [
        rows(),
        "image,label\n" + rows(),
        "\ufeffFile,Class\n" + rows(),
        "\ufeff" + rows(),
        "filename;category\n" + rows().replace(",", ";"),
        "path\tlabel\n" + rows().replace(",", "\t"),
        "label,width,image\n" + "".join(f"{c},9,{i}\n" for i, c in WANTED.items()),
        "what,ever\n" + rows(),
        rows().replace(".jpg", ""),
        "id,breed\n" + rows().replace(".jpg", ""),
        "sku,kind\n" + rows().replace(".jpg", ""),
        "sku,id\n" + rows(),
        "id,cat,dog\n" + "".join(f"{i},{c == 'cat':d},{c == 'dog':d}\n" for i, c in WANTED.items()),
        rows().replace("/", "\\"),
        "filename, cat, dog\n"
        + "".join(f"{i},{c == 'cat':d},{c == 'dog':d}\n" for i, c in WANTED.items()),
        "cat;dog;image\n"
        + "".join(f"{c == 'cat':d};{c == 'dog':d};{i}\n" for i, c in WANTED.items()),
        "image,label\n" + rows().replace("\n", ",\n"),
        rows().replace("\n", "\r\n"),
        "\n" + "".join(f'"{i}", {c} \n' for i, c in WANTED.items()),
        "".join(f"{c},{i}\n" for i, c in WANTED.items()),
        "kind,photo\n" + "".join(f"{c},{i}\n" for i, c in WANTED.items()),
        "label,photo\n" + "".join(f"{c},{i}\n" for i, c in WANTED.items()).replace(".jpg", ""),
        "label,width,photo\n" + "".join(f"{c},9,{i}\n" for i, c in WANTED.items()),
        "image,label\n" + rows(range(3)) + "Image, Label\n" + rows(range(3, 6)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_forms(images, text, encoding):
    text = text if encoding == "utf-8" else text.lstrip("\ufeff")  # which Python writes itself
    (images / "list.csv").write_text(text, encoding)
    found = listed(images / "list.csv")
    names = {name.replace("\\", "/").removesuffix(".jpg") + ".jpg": x for name, x in found.items()}
    assert names == WANTED


@pytest.mark.parametrize("label", ["cat", "owl"])
@pytest.mark.parametrize(("name", "ending"), [("images/9", ""), ("9", ""), ("9.jpg", ".jpg")])
def test_a_first_row_whose_image_is_missing_is_counted(images, name, ending, label):
    """Its image has no ending, as those of the other rows; its class may be that of no other."""
    root = images if "/" in name else images / "images"
    lines = rows().replace(".jpg", ending)
    (root / "list.csv").write_text(
        f"{name},{label}\n" + (lines if "/" in name else lines.replace("images/", ""))
    )
    if label == "owl":
        with pytest.raises(InputError, match=f"class 'owl' in .*; {name}, for example, is listed"):
            csv_lists.collect(root / "list.csv", HALF)
        return
    collection = csv_lists.collect(root / "list.csv", HALF)
    (fault,) = collection.rejected
    assert (fault.file, fault.reason) == (name, "is listed in list.csv but is no file")
    assert sum(len(split.names) for split in collection.splits.values()) == 6


def test_digits_as_classes_are_columns_too(images):
    names = "".join(f"{i},{c == 'cat':d},{c == 'dog':d}\n" for i, c in WANTED.items())
    (images / "list.csv").write_text("id,0,1\n" + names)
    assert listed(images / "list.csv") == {
        name: str(int(label == "dog")) for name, label in WANTED.items()
    }


def test_the_order_of_classes_does_not_depend_on_pythons_hashes(images):
    """1 and 01 are equal by value, and a set's order is another one in each process."""
    labels = ["1", "01", "001"]
    lines = [f"images/{n}.jpg,{labels[n % 3]}\n" for n in range(6)]
    (images / "list.csv").write_text("".join(lines))
    code = "import pathlib, sys; from squeezenext.convert import csv_lists, options;"
    code += "path, options = pathlib.Path(sys.argv[1]), options.ConvertOptions('csv');"
    code += "print([c.text for c in csv_lists.collect(path, options).classes])"
    line = [sys.executable, "-c", code, images / "list.csv"]
    for seed in range(3):
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        told = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert told.stdout == f"{sorted(labels)}\n"


@pytest.mark.parametrize("label", ["9" * 5000, '"a\nb"', "a\x1bb"])
def test_labels_that_no_list_could_carry(images, label):
    (images / "list.csv").write_text(rows(classes=("7", label)), "utf-8")
    if label.isdecimal():
        assert sorted(set(listed(images / "list.csv").values())) == ["7", label]
        return
    with pytest.raises(InputError, match=r"^The class .* has the control character \\(n|x1b) in"):
        listed(images / "list.csv")


def test_numbers_are_ordered_by_value(images):
    (images / "train.csv").write_text(rows(classes=("10", "9")))
    assert [label.text for label in csv_lists.collect(images, HALF).classes] == ["9", "10"]


def test_splits_and_conversion(images, tmp_path):
    (images / "train.csv").write_text("image,label\n" + rows(range(4)))
    (images / "val.csv").write_text("image,label\n" + rows((4,)))
    (images / "test.csv").write_text("image,label\n" + rows((5,)))
    manifest = convert(images, tmp_path / "out", **CSV)
    counts = {name: split.examples for name, split in manifest.splits.items()}
    assert counts == {"train": 4, "validation": 1, "test": 1}


@pytest.mark.parametrize("names", [("train", "dev", "testing"), ("Train", "Val", "Test")])
def test_lists_have_the_names_of_splits_that_folders_have(images, names):
    for number, name in enumerate(names):
        picked = (2 * number, 2 * number + 1)
        (images / f"{name}.csv").write_text("image,label\n" + rows(picked))
    (images / "sample_submission.csv").write_text("image,label\n")
    collection = csv_lists.collect(images, HALF)
    assert [len(split.names) for split in collection.splits.values()] == [2, 2, 2]
    assert [w.rpartition("/")[2] for w in collection.warnings] == [
        "sample_submission.csv is no list of a split (train, val, test): skipped."
    ]
    (images / "validation.csv").write_text(rows((2, 3)))
    with pytest.raises(InputError, match="both list the validation split; keep one"):
        csv_lists.collect(images, HALF)


def test_a_column_names_the_split_of_each_row_and_others_are_named(images):
    splits = ["train", "Train", "val", "val", "test", "test"]
    lines = [f"{line},9,{split}" for line, split in zip(rows().split(), splits, strict=True)]
    (images / "list.csv").write_text("\n".join(["image,label,width,split", *lines]))
    collection = csv_lists.collect(images / "list.csv", HALF)
    assert {name: len(split.names) for name, split in collection.splits.items()} == {
        "train": 2, "validation": 2, "test": 2,
    }  # fmt: skip
    assert [w.rpartition("/")[2] for w in collection.warnings] == [
        "list.csv: columns skipped: width."
    ]
    (images / "list.csv").write_text("\n".join(["image,label,width,split", *lines, "a,cat,9,new"]))
    with pytest.raises(InputError, match="row 8: 'new' is no split; write train, val, test"):
        csv_lists.collect(images / "list.csv", HALF)


def test_the_predecessors_own_output(tmp_path):
    """image,class with the images in train/ and val/, and the names in categories.csv."""
    for split, numbers in (("train", range(4)), ("val", (4, 5))):
        (tmp_path / split).mkdir()
        for n in numbers:
            (tmp_path / split / f"{n}.jpg").write_bytes(jpeg(n))
        lines = "".join(f"{n}.jpg,{n % 2}\n" for n in numbers)
        (tmp_path / f"{split}.csv").write_text("image,class\n" + lines)
    (tmp_path / "categories.csv").write_text("id,label\n0,cat\n1,dog\n")
    manifest = convert(tmp_path, tmp_path / "out", **CSV)
    assert [label.text for label in manifest.classes] == ["cat", "dog"]
    assert manifest.splits["validation"].examples == 2
    # What we write can be read again, where the images still lie.
    assert (tmp_path / "out" / "categories.csv").read_text() == "id,label\n0,cat\n1,dog\n"


@pytest.mark.parametrize("encoding", ["utf-16-le", "cp1252"])
def test_another_encoding_is_named_with_what_to_do(images, encoding):
    (images / "list.csv").write_text(rows(classes=("caf\u00e9", "dog")), encoding)
    with pytest.raises(InputError, match='no CSV file in UTF-8 .*; save it as "CSV UTF-8"'):
        listed(images / "list.csv")


def test_faults_are_named(images, tmp_path):
    text = (
        rows()
        + "images/0.jpg,cat\nimages/absent.jpg,dog\n./images/2.jpg,dog\n'images/\tx.jpg',dog\n"
    )
    (images / "list.csv").write_text(text)
    (images / "images" / "1.jpg").write_text("this is no picture\n" * 3)
    manifest = convert(images / "list.csv", tmp_path / "out", **CSV)
    reasons = {row["file"]: row["reason"] for row in manifest.raw["rejected"]}
    assert reasons.pop("images/1.jpg").startswith("is text")
    assert reasons == {
        "images/0.jpg": "is listed twice",
        "./images/2.jpg": "is listed as dog, too; it counts as cat, its first label",
        "'images/\\tx.jpg'": "has the control character \\t in its name; rename it",
        "images/absent.jpg": "is listed in list.csv but is no file",
    }
    assert dataset.load_manifest(tmp_path / "out").splits["train"].examples == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no image"),
        ("image,label\n", "lists no image"),
        ("image,Label,label\na.jpg,hat,0\n", "has two columns label; rename the one"),
        ("image,label\na.jpg\n", "row 2: an image or a label is missing"),
        ("\nimage,label\n\n\nimages/0.jpg,cat\na.jpg\n", "row 6: an image or a label is missing"),
        ("image,cat,dog\n\nimages/0.jpg,1,1\n", r"row 3 has 2 classes"),
        ("image,label\n\na.jpg,hat,red\n", "row 3 has more cells than the first row"),
        ('image,label\nb.jpg,hat\n"a.jpg,hat\nc.jpg,hat\n', "row 3: a quote is not closed"),
        ("image,label\na.jpg,\n", "row 2: an image or a label is missing"),
        ("image,label\nimages/0.jpg,cat\n", "has 1 class"),
        (
            "x.jpg,cat\ny.jpg,dog\n",
            "none of its 2 images can be used; x.jpg, for example, is listed in",
        ),
        ("a\x00b.jpg,cat\ny.jpg,dog\n", "."),
        ("image,label\na.jpg,hat,red\n", "row 2 has more cells than the first row"),
        ("image,cat,dog\nimages/0.jpg,1,1\n", r"row 2 has 2 classes \(cat, dog\)"),
        ("image,cat,dog\nimages/0.jpg,0,0\n", "row 2 has 0 classes"),
        ("image,width,height\nimages/0.jpg,9,7\n", "which of its 3 columns is the class"),
        ("images/0.jpg,cat,9\n", "which of its 3 columns is the class"),
    ],
)
def test_bad_files(images, text, message):
    (images / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        csv_lists.collect(images / "list.csv", HALF)


def test_bad_sources(images):
    with pytest.raises(InputError, match="no CSV file, nor a folder that holds train.csv"):
        csv_lists.collect(images, HALF)
    (images / "list.csv").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(InputError, match="no CSV file in UTF-8"):
        csv_lists.collect(images / "list.csv", HALF)
    (images / "train.csv").write_text(rows())
    (images / "val.csv").write_text("images/0.jpg,cow\n")
    with pytest.raises(InputError, match="class 'cow', which the training list lacks"):
        csv_lists.collect(images, HALF)


@pytest.mark.parametrize("how", ["above", "absolute", "link", "link of a split"])
def test_a_list_names_no_file_outside_of_its_folder(images, tmp_path_factory, how):
    away = tmp_path_factory.mktemp("away") / "secret.jpg"
    away.write_bytes(jpeg(9))
    name = {"above": os.path.relpath(away, images), "absolute": str(away), "link": "link.jpg",
            "link of a split": "secret.jpg"}[how]  # fmt: skip
    if how == "link of a split":  # images of a single list may lie in train/
        (images / "train").symlink_to(away.parent)
    if how == "link":
        (images / name).symlink_to(away)
    (images / "list.csv").write_text(rows() + f"{name},cat\n")
    (fault,) = csv_lists.collect(images / "list.csv", HALF).rejected
    assert fault.reason == f"lies outside of {images}; give --follow_links"
    with_links = ConvertOptions("csv", validation_fraction=0.5, follow_links=True)
    assert not csv_lists.collect(images / "list.csv", with_links).rejected
