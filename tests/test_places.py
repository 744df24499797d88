"""Tests for `convert/places.py`: photographs as people have them, through `adapt --dry_run`."""

import pytest

from squeezenext.adapt import command
from squeezenext.convert import estimate, places
from squeezenext.convert.options import ConvertOptions
from squeezenext.errors import InputError
from tests.converting import convert
from tests.test_archives import jpeg, tarred, zipped

GRID = [f"{kind}/{n}.jpg" for kind in ("cat", "dog") for n in range(5)]


def photos(*names: str) -> dict[str, bytes]:
    return {name: jpeg(seed) for seed, name in enumerate(names)}


def below(folder: str, names=GRID) -> list[str]:
    return [f"{folder}/{name}" for name in names]


def placed(tmp_path, members: dict[str, bytes]):
    for name, data in members.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def shown(path, capsys) -> tuple[list[list[str]], list[str]]:
    """Returns the rows of the table that `adapt --dry_run` prints, and the lines after it."""
    before = sorted(path.parent.rglob("*"))
    assert command.main(["adapt", str(path), "--dry_run"]) == 0
    assert sorted(path.parent.rglob("*")) == before
    lines = capsys.readouterr().out.splitlines()
    end = next(number for number, line in enumerate(lines) if line.startswith("all ")) + 1
    return [line.split() for line in lines[:end]], lines[end:]


TWO_CLASSES = [
    ["cat", "5", "1", "0", "0"],
    ["dog", "5", "1", "0", "0"],
    ["all", "10", "2", "0", "0"],
]
EXPORTS = {
    "a Mac's zip": [*below("pets"), "__MACOSX/pets/cat/._0.jpg", "pets/.DS_Store"],
    "a download of Kaggle": [*below("pets/pets"), "__MACOSX/pets/._pets"],
    "a project of Teachable Machine": [*GRID, "manifest.json"],
    "Windows": ["pets\\", *(name.replace("/", "\\") for name in below("pets"))],
    "a split in a folder of its own name": below("train/train"),
    "names": [name.replace("/", "_") for name in GRID],
    "names in a folder": below("pets", ["cat (1).jpg", "cat (2).jpg", "cat (3).jpg", "cat (4).jpg",
                                        "cat (5).jpg", *(f"dog.{n}.jpg" for n in range(5))]),
}  # fmt: skip


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("export", EXPORTS)
def test_an_export_goes_by_its_path_alone(tmp_path, capsys, export, pack):
    (tmp_path / "pets").write_bytes(pack(photos(*EXPORTS[export])))
    rows, said = shown(tmp_path / "pets", capsys)
    assert rows[0] == ["class", "photographs", "for", "validation", "unreadable", "copies"]
    assert rows[1:] == TWO_CLASSES
    if export.startswith("names"):
        example = "cat_0.jpg" if export == "names" else "cat (1).jpg"
        assert f"each image is of the class before its number, as in {example}" in said[0]
    else:
        assert not said


def test_an_export_of_roboflow_has_its_own_splits(tmp_path, capsys):
    names = [*below("train"), *below("valid", ["cat/v.jpg", "dog/v.jpg"]), "test/cat/t.jpg"]
    members = photos(*names) | {"README.roboflow.txt": b"x", "README.dataset.txt": b"x"}
    (tmp_path / "pets.zip").write_bytes(zipped(members))
    rows, said = shown(tmp_path / "pets.zip", capsys)
    assert rows[0][2:6] == ["for", "validation", "for", "test"]
    assert rows[1:] == [
        ["cat", "7", "1", "1", "0", "0"],
        ["dog", "6", "1", "0", "0", "0"],
        ["all", "13", "2", "1", "0", "0"],
    ]
    assert not said


@pytest.mark.parametrize("split", ["", "train/"])
def test_an_imagefolder_of_hugging_face_has_a_list(tmp_path, capsys, split):
    rows = "".join(f"{n}.jpg,{'dog' if n % 2 else 'cat'}\n" for n in range(10))
    folder = placed(tmp_path / "pets", photos(*(f"{split}{n}.jpg" for n in range(10))))
    (folder / split / "metadata.csv").write_text(f"file_name,label\n{rows}")
    assert shown(folder, capsys)[0][1:] == TWO_CLASSES
    manifest = convert(folder, tmp_path / "records", layout="folder", workers=1)
    assert sum(part.examples for part in manifest.splits.values()) == 10


@pytest.mark.parametrize("around", ["", "pets/", "pets/train/"])
def test_an_imagefolder_in_an_archive_gives_the_records_of_its_folder(tmp_path, around):
    rows = "".join(f"inner/{n}.jpg,{10 - n % 2}\n" for n in range(12))  # the last two are missing
    members = photos(*(f"{around}inner/{n}.jpg" for n in range(10)))
    members[f"{around}metadata.csv"] = f"file_name,label\n{rows}".encode()
    folder = placed(tmp_path / "all", members)
    for name, pack in (("all.zip", zipped), ("all.tar", tarred)):
        (tmp_path / name).write_bytes(pack(members))
    made = [
        convert(place, tmp_path / f"records-{place.name}", layout="folder", workers=1)
        for place in (folder, tmp_path / "all.zip", tmp_path / "all.tar")
    ]
    assert [label.synset for label in made[0].classes] == ["9", "10"]
    for manifest in made:
        assert manifest.raw["splits"] == made[0].raw["splits"]
        assert [row["file"] for row in manifest.raw["rejected"]] == [
            "inner/10.jpg", "inner/11.jpg",
        ]  # fmt: skip


def test_a_damaged_list_in_an_archive_gets_one_sentence(tmp_path):
    data = bytearray(zipped(photos("0.jpg") | {"metadata.csv": b"file_name,label\n0.jpg,a\n" * 9}))
    place = data.index(b"metadata.csv") + len("metadata.csv")
    data[place : place + 4] = b"\xff" * 4
    (tmp_path / "all.zip").write_bytes(data)
    with pytest.raises(InputError, match="metadata.csv is damaged in the archive"):
        convert(tmp_path / "all.zip", tmp_path / "records", layout="folder", workers=1)


def test_a_metadata_file_without_labels_changes_nothing(tmp_path, capsys):
    folder = placed(tmp_path / "pets", photos(*GRID))
    (folder / "metadata.csv").write_text("file_name,text\ncat/0.jpg,a cat\n")
    assert shown(folder, capsys)[0][1:] == TWO_CLASSES


def test_a_list_goes_by_its_path_alone(tmp_path, capsys):
    folder = placed(tmp_path, photos(*GRID))
    (folder / "pets.csv").write_text("".join(f"{name},{name[:3]}\n" for name in GRID))
    assert shown(folder / "pets.csv", capsys)[0][1:] == TWO_CLASSES


def test_names_give_the_records_their_own_names(tmp_path):
    folder = placed(tmp_path / "pets", photos(*EXPORTS["names"]))
    convert(folder, tmp_path / "records", layout="folder", workers=1)
    listed = (tmp_path / "records" / "train.csv").read_text().splitlines()[1:]
    assert {row.split(",")[0] for row in listed} <= {*EXPORTS["names"]}


@pytest.mark.parametrize(
    "names",
    [["IMG_1.jpg", "IMG_2.jpg", "DSC_1.jpg", "DSC_2.jpg"], ["cat_1.jpg", "dog_1.jpg"],
     ["cat_1.jpg", "cat_2.jpg"], ["cat_1.jpg", "cat_2.jpg", "dog_1.jpg", "dog_2.jpg", "x.jpg"],
     ["20240101_1.jpg", "20240101_2.jpg", "20240102_1.jpg", "20240102_2.jpg"]],
)  # fmt: skip
def test_names_that_say_no_class_are_not_guessed(tmp_path, capsys, names):
    folder = placed(tmp_path / "pets", photos(*names))
    assert command.main(["adapt", str(folder), "--model_dir=mine", "--dry_run"]) == 2
    assert "only outside class folders; make one folder per class" in capsys.readouterr().err


def test_unreadable_photographs_and_copies_are_counted(tmp_path, capsys):
    members = photos(*GRID) | {
        "cat/text.jpg": b"<html>",
        "cat/empty.jpg": b"",
        "dog/3.jpg": jpeg(0),
    }
    members |= {"dog/same_size.jpg": jpeg(0)[::-1]}
    folder = placed(tmp_path / "pets", members)
    (folder / "dog" / "link.jpg").symlink_to(folder / "cat" / "0.jpg")
    rows, said = shown(folder, capsys)
    assert rows[1:] == [
        ["cat", "7", "1", "2", "0"],
        ["dog", "7", "1", "2", "1"],
        ["all", "14", "2", "4", "1"],
    ]
    assert said == ["refused: dog/link.jpg is a symbolic link; give --follow_links"]
    (tmp_path / "pets.zip").write_bytes(zipped(members))
    assert shown(tmp_path / "pets.zip", capsys)[0][1:] == [
        ["cat", "7", "1", "2", "0"],
        ["dog", "6", "1", "1", "1"],
        ["all", "13", "2", "3", "1"],
    ]


def test_a_table_of_many_classes_is_cut(tmp_path):
    names = [f"c{number:02d}/{n}.jpg" for number in range(50) for n in range(2)]
    folder = placed(tmp_path / "pets", {name: b"" for name in names})
    lines = estimate.look(folder, ConvertOptions("folder"))
    assert len(lines) == 42 and lines[-1].split() == ["all", "100", "50", "100", "99"]
    assert lines[-2].split() == ["11", "more", "classes", "22", "11", "22", "22"]


@pytest.mark.parametrize(
    ("names", "split", "folder"),
    [
        (GRID, "validation", "."),
        (below("pets/pets"), "validation", "pets/pets"),
        ([*below("train"), *below("val/val")], "validation", "val/val"),
        ([*below("train"), *below("test")], "validation", "train"),
        ([name.replace("/", "_") for name in GRID], "validation", "."),
    ],
)
def test_names_of_records_are_files_from_this_folder(tmp_path, names, split, folder):
    place = placed(tmp_path / "photos", photos(*names))
    assert places.named_from(place, split) == place / folder
    manifest = convert(place, tmp_path / "out", layout="folder")
    rows = (manifest.directory / "val.csv").read_text().splitlines()[1:]
    assert rows and all((place / folder / row.split(",")[0]).is_file() for row in rows)


def test_an_archive_has_no_files_to_lead_to(tmp_path):
    (tmp_path / "pets.zip").write_bytes(zipped(photos(*GRID)))
    assert places.named_from(tmp_path / "pets.zip", "validation") is None
    assert places.named_from(tmp_path / "taken_away", "validation") is None
    assert places.named_from(tmp_path / "list.csv", "validation") == tmp_path


def test_a_refused_file_counts_for_its_class_whatever_its_name(tmp_path, capsys):
    """A Mac writes U+202F, which is not printable, into names."""
    files = {f"my\u202f{name}": data for name, data in photos(*GRID).items()}
    folder = placed(tmp_path / "pets", files)
    (folder / "my\u202fcat" / "link.jpg").symlink_to(folder / "my\u202fcat" / "1.jpg")
    rows, _ = shown(folder, capsys)
    assert not any("class" in row[1:] for row in rows[1:]), rows
