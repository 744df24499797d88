"""Tests for `squeezenext/doctor/findings.py`, and for the groups of `features.py`."""

from pathlib import Path

import numpy as np
import pytest

from squeezenext import labels
from squeezenext.convert.listing import Collection, Fault, Listing, Watch
from squeezenext.doctor import features, findings
from squeezenext.doctor.features import PIXELS, Features

CLASSES = tuple(labels.Label(name, name) for name in ("cat", "dog", "cow"))


class Photographs:
    """Made features of `count` photographs a class; `changed` makes one a copy of another."""

    def __init__(self, count: int = 20, test: int = 0):
        rng = np.random.default_rng(0)
        self.labels = np.repeat(np.arange(3), count)
        self.splits = np.where(np.arange(3 * count) % count < test, "test", "train")
        scales = rng.uniform(0, 2, (3, 128)) ** 2  # of channels that mostly stay silent
        values = rng.exponential(1, (3 * count, 128)) * scales[self.labels]
        self.values = values.astype(np.float32)
        self.pixels = np.zeros(3 * count, PIXELS)
        self.pixels["width"], self.pixels["height"] = 400, 300
        self.pixels["brightness"], self.pixels["sharpness"] = 120, 300
        self.pixels["sha256"] = [f"{number:064d}" for number in range(3 * count)]
        self.faults: tuple[Fault, ...] = ()
        self.names: dict[int, str] = {}  # those that are not CLASS/NUMBER.jpg

    def alike(self, number: int, other: int, exact: bool = False) -> None:
        self.values[other] = self.values[number] * (1 if exact else 1.01)
        if exact:
            self.pixels["sha256"][other] = self.pixels["sha256"][number]

    def diagnose(self) -> findings.Diagnosis:
        splits = {}
        for split in sorted(set(self.splits), reverse=True):  # train, test
            rows = np.flatnonzero(self.splits == split)
            table = [(place, 0, 1, self.labels[row] + 1) for place, row in enumerate(rows)]
            names = [
                self.names.get(row, f"{CLASSES[self.labels[row]].synset}/{row}.jpg") for row in rows
            ]
            splits[split] = Listing.of_rows([Path(name) for name in names], table, names)
        order = np.concatenate([np.flatnonzero(self.splits == split) for split in splits])
        collection = Collection(CLASSES, splits, (), (), Watch())
        found = Features(np.arange(len(order)), self.values[order], self.pixels[order], self.faults)
        return findings.diagnose(collection, found)


def of_kind(diagnosis, kind):
    names = diagnosis.listing.names
    return [[names[m] for m in one.members] for one in diagnosis.found if one.kind == kind]


def actions(diagnosis):
    return {row.file: row.action for row in diagnosis.rows if row.action != "keep"}


def test_photographs_without_faults_have_none():
    diagnosis = Photographs().diagnose()
    assert diagnosis.found == [] and diagnosis.rows == []
    assert findings.sentences(diagnosis)[0] == "The doctor found nothing wrong."
    assert diagnosis.counts == {"train": [20, 20, 20]} and diagnosis.overstated == 0


def test_the_part_of_photographs_of_no_class_is_said(monkeypatch):
    none = (*CLASSES[:2], labels.Label("none", "none"))
    monkeypatch.setattr("tests.test_doctor_findings.CLASSES", none)
    said = " ".join(findings.sentences(Photographs().diagnose()))
    assert "none of the classes, 20 here, are compared with the others, but do not count" in said


def test_of_exact_copies_one_stays():
    photographs = Photographs()
    photographs.alike(0, 5, exact=True)
    diagnosis = photographs.diagnose()
    assert of_kind(diagnosis, "exact copy") == [["cat/0.jpg", "cat/5.jpg"]]
    assert not of_kind(diagnosis, "near duplicate")
    assert actions(diagnosis) == {"cat/5.jpg": "remove"}


def test_a_copy_with_two_labels_is_left_to_the_user():
    photographs = Photographs()
    photographs.alike(0, 25, exact=True)
    diagnosis = photographs.diagnose()
    assert of_kind(diagnosis, "two labels") == [["cat/0.jpg", "dog/25.jpg"]]
    assert {row.group for row in diagnosis.rows} == {"1"}


def test_near_duplicates_are_one_group_and_are_kept():
    photographs = Photographs()
    for other in (1, 2, 3):
        photographs.alike(0, other)
    diagnosis = photographs.diagnose()
    assert of_kind(diagnosis, "near duplicate") == [[f"cat/{n}.jpg" for n in range(4)]]
    assert {row.group for row in diagnosis.rows} == {"1"} and not actions(diagnosis)


def test_training_copies_of_test_photographs_are_to_go():
    photographs = Photographs(test=4)
    photographs.alike(0, 10)  # 0 to 3 of each class are the test's
    diagnosis = photographs.diagnose()
    assert of_kind(diagnosis, "in two splits") == [["train/cat/10.jpg", "test/cat/0.jpg"]]
    assert actions(diagnosis) == {"train/cat/10.jpg": "remove"}


@pytest.mark.parametrize("test", [0, 30])
def test_wrong_labels_are_moved_in_training_alone(test):
    photographs = Photographs(count=800, test=test)
    photographs.labels[:20] = 2  # cats called cows; in the test split if there is one
    rows = [row for row in photographs.diagnose().rows if "wrong label" in row.finding]
    cats = [row for row in rows if int(Path(row.file).stem) < 20]
    assert len(cats) >= 10 and len(rows) - len(cats) <= 3
    assert all((row.label, row.suggested) == ("cow", "cat") for row in cats)
    assert all(row.finding.startswith("wrong label: rather cat (") for row in cats)
    moved = [row.action for row in cats if row.action != "keep"]
    assert set(moved) <= {"move to cat", "remove"} and bool(moved) == (test == 0)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [("brightness", 10, "dark"), ("sharpness", 5, "blurred"), ("height", 60, "tiny")],
)
def test_poor_photographs_are_named_and_kept(field, value, kind):
    photographs = Photographs()
    photographs.pixels[field][7] = value
    diagnosis = photographs.diagnose()
    assert of_kind(diagnosis, kind) == [["cat/7.jpg"]] and not actions(diagnosis)


def test_an_outlier_is_named():
    photographs = Photographs()
    photographs.values[7] = 0
    photographs.values[7, :3] = 9
    assert of_kind(photographs.diagnose(), "outlier") == [["cat/7.jpg"]]


@pytest.mark.parametrize("name", ["cat/0.jpg", "cat/at 9\u202fAM.jpg"])
def test_a_file_that_cannot_be_read_is_to_go(name):
    """A Mac writes U+202F, which is not printable, into the names of screenshots."""
    photographs = Photographs()
    photographs.names[0] = name
    photographs.faults = (Fault(name, "is empty"),)
    diagnosis = photographs.diagnose()
    assert actions(diagnosis) == {name: "remove"}
    assert diagnosis.rows[0].finding == "unreadable: is empty"


def test_one_class_alone_has_no_wrong_labels():
    photographs = Photographs()
    photographs.labels[:] = 0
    diagnosis = photographs.diagnose()
    assert diagnosis.accuracy is None and not of_kind(diagnosis, "wrong label")


def test_classes_of_one_group_each_have_no_accuracy():
    photographs = Photographs(count=4)
    for number in range(12):
        photographs.alike(number // 4 * 4, number)
    diagnosis = photographs.diagnose()
    assert diagnosis.accuracy is None and diagnosis.overstated == 0


def test_a_split_without_groups_overstates():
    photographs = Photographs()
    photographs.values = np.abs(np.random.default_rng(1).normal(0, 1, (60, 64))).astype(np.float32)
    photographs.labels = np.random.default_rng(2).integers(0, 3, 15).repeat(4)  # by chance
    for number in range(60):
        photographs.alike(number // 4 * 4, number)
    diagnosis = photographs.diagnose()
    assert len(of_kind(diagnosis, "near duplicate")) == 15
    assert diagnosis.overstated > 0.1
    assert any("would have overstated" in line for line in findings.sentences(diagnosis))


@pytest.mark.parametrize("count", [1, 2, 500])
def test_neighbours_are_the_nearest_by_cosine_of_roots(count):
    values = np.abs(np.random.default_rng(0).normal(0, 1, (count, 32))).astype(np.float32)
    keys, similar = features.neighbours(values)
    roots = np.sqrt(values)
    roots /= np.linalg.norm(roots, axis=1, keepdims=True)
    exact = np.sort(roots @ roots.T, 1)[:, ::-1][:, : keys.shape[1]]
    assert (np.abs(np.sort(similar, 1)[:, ::-1] - exact) < 1e-3).mean() > 0.99
    assert (keys == np.arange(count)[:, np.newaxis]).any(1).all()


def test_groups_are_chains_of_alike_photographs():
    similar = np.array([[1, 0.96], [1, 0.96], [1, 0.97], [1, 0.5]], np.float32)
    keys = np.array([[0, 1], [1, 2], [2, 1], [3, 0]])
    groups = features.grouped(keys, similar, np.array([b"a", b"b", b"c", b"d"]))
    assert groups[0] == groups[1] == groups[2] != groups[3]
