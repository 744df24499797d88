"""Tests for the command `squeezenext/doctor/` and its page."""

import csv
import os
import shutil

import numpy as np
import pytest

from squeezenext.convert import review
from squeezenext.doctor import command
from squeezenext.doctor.command import examine, main
from squeezenext.errors import InputError
from tests import tiny


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    tiny.model_directory(folder, tiny.SQUEEZENET)
    return folder


@pytest.fixture
def photos(tmp_path):
    for number in range(12):
        path = tmp_path / "photos" / f"<b>{number % 3}" / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.jpeg(number, number % 3 + 1))
    first = tmp_path / "photos" / "<b>0"
    shutil.copy(first / "00.jpg", first / "copy.jpg")
    return tmp_path / "photos"


def test_the_report_of_a_folder(photos, network, tmp_path):
    before = {path: path.read_bytes() for path in photos.rglob("*.jpg")}
    diagnosis = examine(photos, tmp_path / "report", configuration=network)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "doctor.csv", "features.npz", "index.html",
    ]  # fmt: skip
    assert {path: path.read_bytes() for path in photos.rglob("*.jpg")} == before
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Exact copy (1)" in page and "data:image/jpeg;base64," in page
    assert "&lt;b&gt;0/copy.jpg" in page and "<b>0" not in page
    assert (photos / "<b>0" / "copy.jpg").as_uri() in page
    with open(tmp_path / "report" / "doctor.csv") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert rows["<b>0/copy.jpg"]["action"] == "remove"
    assert len(rows) == len(diagnosis.rows)


def test_actions_that_a_person_has_chosen_stay(photos, network, tmp_path):
    report = tmp_path / "report"
    examine(photos, report, configuration=network)
    path = report / "doctor.csv"
    path.write_text(path.read_text().replace(",remove,", ",Keep ,"))
    examine(photos, report, configuration=network)
    assert {row.action for row in review.read(path)} == {"keep"}
    for copy in ("00.jpg", "copy.jpg"):  # other photographs of these names
        (photos / "<b>0" / copy).write_bytes(tiny.jpeg(99, 1) + bytes(9))
    examine(photos, report, configuration=network)
    assert {row.action for row in review.read(path)} != {"keep"}


def test_the_command_says_what_it_found(photos, network, tmp_path, capsys):
    (photos / "<b>1" / "bad.jpg").write_bytes(b"no image")
    arguments = ["doctor", str(photos), "--output", str(tmp_path / "report")]
    assert main([*arguments, "--configuration", str(network)]) == 1
    said = capsys.readouterr()
    assert "unreadable 1" in said.out and "exact copy 1" in said.out
    assert "error: 1 photograph cannot be read: <b>1/bad.jpg is text" in said.err
    rows = {row.file: row for row in review.read(tmp_path / "report" / "doctor.csv")}
    assert rows["<b>1/bad.jpg"].action == "remove"


def test_a_zip_of_photographs(photos, network, tmp_path):
    shutil.make_archive(str(tmp_path / "mine"), "zip", photos.parent, "photos")
    diagnosis = examine(tmp_path / "mine.zip", tmp_path / "report", configuration=network)
    assert any(finding.kind == "exact copy" for finding in diagnosis.found)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "data:image/jpeg;base64," in page and "file://" not in page


def test_a_csv_file_of_photographs(photos, network, tmp_path):
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in photos.rglob("*.jpg")]
    (tmp_path / "list.csv").write_text("\n".join(["image,label", *lines]) + "\n")
    diagnosis = examine(tmp_path / "list.csv", tmp_path / "report", configuration=network)
    assert any(finding.kind == "exact copy" for finding in diagnosis.found)


@pytest.mark.parametrize(
    ("output", "message"),
    [("photos/report", "lies among the data"), ("other", "holds something else")],
)
def test_places_that_are_refused(photos, network, tmp_path, output, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=message):
        examine(photos, tmp_path / output, configuration=network)


def test_other_people_s_files_are_not_replaced(photos, network, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<title>Holidays</title>")
    with pytest.raises(InputError, match="another program's"):
        examine(photos, tmp_path / "report", configuration=network)
    (tmp_path / "report" / "index.html").unlink()
    (tmp_path / "report" / "doctor.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is not the doctor's"):
        examine(photos, tmp_path / "report", configuration=network)


@pytest.mark.parametrize(
    ("name", "message"),
    [("financial.csv", "holds something else"), ("features.npz", "another program's; move it")],
)
def test_files_that_are_named_alike_are_not_replaced(photos, network, tmp_path, name, message):
    (tmp_path / "report").mkdir()
    with open(tmp_path / "report" / name, "wb") as file:
        np.savez(file, values=np.arange(3))
    before = (tmp_path / "report" / name).read_bytes()
    with pytest.raises(InputError, match=message):
        examine(photos, tmp_path / "report", configuration=network)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "report").iterdir()] == [
        (name, before)
    ]


def test_the_copy_that_a_killed_call_left_is_removed(photos, network, tmp_path, monkeypatch):
    shutil.make_archive(str(tmp_path / "mine"), "gztar", photos.parent, "photos")

    def killed(*_, **__):
        os._exit(9)

    monkeypatch.setattr(command, "diagnose", killed)
    arguments = (tmp_path / "mine.tar.gz", tmp_path / "report")
    if not (child := os.fork()):
        examine(*arguments, configuration=network)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    monkeypatch.undo()
    assert any(path.is_dir() for path in (tmp_path / "report").iterdir())
    examine(*arguments, configuration=network)
    assert not any(path.is_dir() for path in (tmp_path / "report").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give one folder of photographs"),
        (["absent"], "absent is neither a folder nor a file"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", *arguments, "--output", "report"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_no_photograph_can_be_read(photos, network, tmp_path):
    for path in photos.rglob("*.jpg"):
        path.write_bytes(b"text")
    with pytest.raises(InputError, match="No photograph can be read; <b>0/00.jpg is text"):
        command.examine(photos, tmp_path / "report", configuration=network)
    assert not (tmp_path / "report").exists()
