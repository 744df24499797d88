"""Damage of every kind: `verify` names it, and so does training; none passes."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from squeezenext.convert import verify
from squeezenext.convert import verify as command
from squeezenext.errors import InputError
from squeezenext.records import dataset, example, reader, tfrecord
from tests import records
from tests.converting import convert
from tests.imagenet_archives import class_folders, jpeg

FIRST, SECOND = "train-00000-of-00003", "train-00001-of-00003"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("verify")
    photos = class_folders(root / "photos", 15)
    options = {"layout": "folder", "workers": 1, "show_progress": False, "train_shards": 3}
    convert(photos, root / "out", **options)
    return root / "out"


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def faults(directory, **options):
    return [str(fault) for fault in command.verify(directory, workers=1, **options)]


def test_all_is_well(data, capsys):
    assert faults(data) == faults(data, decode=True) == []
    assert command.main(["verify", str(data), "--json", "--workers=2"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["ok"] and document["shards"] == 4 and document["examples"] == 30
    assert document["faults"] == [] and "all as the manifest says" in said.err


def flip(place):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[place(path)] ^= 0x10
        path.write_bytes(content)

    return damage


def cut(place):
    return lambda path: os.truncate(path, place(path))


def start_of(record):
    return lambda path: int(tfrecord.offsets(path)[record])


def swap(path):
    other = path.with_name(SECOND)
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def zero_tail(path):
    with path.open("ab") as file:
        file.write(bytes(4096))


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


# What is done to the first training shard, and what verify has to say of it.
DAMAGE = {
    "a flipped byte in an image": (flip(lambda p: start_of(3)(p) + 300), "record 3 fails its chec"),
    "a flipped byte in a length": (flip(start_of(3)), "record 3 has a damaged length"),
    "a flipped byte in a length's checksum": (
        flip(lambda p: start_of(3)(p) + 9),
        "record 3 has a damaged length",
    ),
    "a flipped byte in a checksum": (flip(lambda p: start_of(4)(p) - 1), "record 3 fails its ch"),
    "a flipped last byte": (flip(lambda p: p.stat().st_size - 1), "record 7 fails its checksum"),
    "cut at a record's end": (cut(start_of(3)), "holds 3 records, the manifest says 8"),
    "cut inside a header": (cut(lambda p: start_of(3)(p) + 5), "record 3 is cut inside its header"),
    "cut behind a header": (cut(lambda p: start_of(3)(p) + 12), "record 3 is cut"),
    "cut inside a record": (cut(lambda p: start_of(3)(p) + 99), "record 3 is cut"),
    "cut by one byte": (cut(lambda p: p.stat().st_size - 1), "record 7 is cut"),
    "empty": (cut(lambda p: 0), "has 0 bytes, the manifest says"),
    "swapped with another": (swap, "has another SHA-256 than the manifest says"),
    "a zero tail": (zero_tail, "record 8 has a damaged length"),
    "all zeros": (zeroed, "record 0 has a damaged length"),
    "absent": (lambda p: p.unlink(), "cannot be read: No such file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(data, damage, capsys):
    spoil, words = DAMAGE[damage]
    spoil(data / FIRST)
    found = faults(data)
    assert any(fault.startswith(FIRST) and words in fault for fault in found), found
    assert any(SECOND in fault for fault in found) == (spoil is swap)
    assert command.main(["verify", str(data), "--json", "--workers=1"]) == 1
    said = capsys.readouterr()
    rows = json.loads(said.out)["faults"]
    assert FIRST in {row["shard"] for row in rows} and "error: " in said.err
    assert said.err.splitlines()[-1].startswith(f"error: {data}: ")


@pytest.mark.parametrize("damage", DAMAGE)
def test_training_names_it_too(data, damage):
    """Its check at the start, its index, or the first read of the record."""
    DAMAGE[damage][0](data / FIRST)
    with pytest.raises(InputError, match="train-0000[01]-of-00003"):
        read_everything(data)


@pytest.mark.parametrize("damage", ["swapped with another", "all zeros", "absent"])
def test_training_without_the_index_names_it(data, damage):
    (data / "train.index").unlink()
    DAMAGE[damage][0](data / FIRST)
    with pytest.raises(InputError, match="train-0000[01]-of-00003"):
        read_everything(data)


def read_everything(directory):
    manifest = dataset.load_manifest(directory)
    dataset.check_shards(manifest)
    for split in manifest.splits.values():
        for shard, offset, length in reader.index(split):
            path = split.shards[shard].path
            with path.open("rb") as file:
                tfrecord.read(file.fileno(), int(offset), int(length), str(path), 0)


def test_swapped_shards_of_one_size(data):
    """Training reads them without harm: each record is whole. Only the hash tells them apart."""
    first, second = data / FIRST, data / SECOND
    document = json.loads((data / "manifest.json").read_text())
    shards = document["splits"]["train"]["shards"]
    shards[0]["sha256"], shards[1]["sha256"] = shards[1]["sha256"], shards[0]["sha256"]
    (data / "manifest.json").write_text(json.dumps(document))
    found = faults(data)
    assert [fault.split(":")[0] for fault in found] == [first.name, second.name]


@pytest.mark.parametrize("damage", ["absent", "flipped", "short"])
def test_the_index_is_checked(data, damage):
    path = data / "train.index"
    content = bytearray(path.read_bytes())
    if damage == "absent":
        path.unlink()
    else:
        content[9] ^= 1
        path.write_bytes(content if damage == "flipped" else content[:-8])
    assert any(fault.startswith("train.index: ") for fault in faults(data))


def test_an_index_that_is_wrong_but_whole(data):
    """Its hash is right: a program wrote it so. Training would read from the wrong places."""
    path = data / "train.index"
    offsets = np.frombuffer(path.read_bytes(), "<i8").copy()
    offsets[3] += 1
    path.write_bytes(offsets.tobytes())
    document = json.loads((data / "manifest.json").read_text())
    digest = hashlib.sha256(offsets.tobytes()).hexdigest()
    document["splits"]["train"]["index"]["sha256"] = digest
    (data / "manifest.json").write_text(json.dumps(document))
    assert faults(data) == [f"{FIRST}: has its records elsewhere than the index says"]


def rewritten(data, change):
    """Writes the first shard anew with changed examples, its manifest and index to match."""
    path = data / FIRST
    payloads = []
    places = tfrecord.offsets(path)
    for start, end in zip(places, places[1:], strict=False):
        payload = path.read_bytes()[start + 12 : end - 4]
        payloads.append(example.decode_example(payload))
    change(payloads)
    encode = {"image/object/bbox/label": np.zeros(0, np.int64)}
    boxes = {f"image/object/bbox/{key}": np.zeros(0, np.float32) for key in ("xmin", "ymin")}
    content = b"".join(
        records.frame(records.encode_example(row | encode | boxes)) for row in payloads
    )
    path.write_bytes(content)
    document = json.loads((data / "manifest.json").read_text())
    shard = document["splits"]["train"]["shards"][0]
    shard.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    old = np.frombuffer((data / "train.index").read_bytes(), "<i8")
    index = np.concatenate([tfrecord.offsets(path)[:-1], old[len(payloads) :]]).tobytes()
    (data / "train.index").write_bytes(index)
    document["splits"]["train"]["index"]["sha256"] = hashlib.sha256(index).hexdigest()
    (data / "manifest.json").write_text(json.dumps(document))


# What a wrong program could have written: the bytes are whole, the meaning is not.
MEANING = {
    "label 0": ({"image/class/label": [0]}, "has the label 0, not one of 1..2"),
    "a label too large": ({"image/class/label": [3]}, "has the label 3"),
    "no label": ({"image/class/label": []}, "has the label None"),
    "another synset": ({"image/class/synset": [b"cow"]}, "not that class's synset"),
    "no image": ({"image/encoded": []}, "has no image/encoded"),
    "text": ({"image/encoded": [b"some text\n" * 9]}, "holds an image that is text"),
    "a PNG": ({"image/encoded": [b"\x89PNG\r\n\x1a\n" + bytes(99)]}, "is no JPEG"),
    "a cut header": ({"image/encoded": [jpeg(1)[:60]]}, "cut short or damaged in its header"),
    "another height": ({"image/height": [17]}, "says 17 x 24 pixels, its image 16 x 24"),
}


@pytest.mark.parametrize("fault", MEANING)
def test_meaning_is_checked(data, fault):
    change, words = MEANING[fault]
    rewritten(data, lambda rows: rows[2].update(change))
    found = faults(data)
    assert len(found) == 1 and words in found[0]
    assert found[0].startswith(f"{FIRST}: record 2 (") and ".jpg) " in found[0]


def test_decode_finds_what_headers_hide(data):
    damaged = jpeg(1)[:-60] + b"\xff\xc4\0\3\0" + b"\xff\xd9"
    rewritten(data, lambda rows: rows[2].update({"image/encoded": [damaged]}))
    assert faults(data) == []
    assert "record 2" in faults(data, decode=True)[0]


def test_many_faults_are_counted(data, monkeypatch):
    monkeypatch.setattr(verify, "MAX_FAULTS", 3)
    rewritten(data, lambda rows: [row.update({"image/class/label": [9]}) for row in rows])
    found = faults(data)
    assert len(found) == 4 and found[-1] == f"{FIRST}: has 5 more faults"


def test_usage(data, tmp_path, capsys):
    for arguments in ([], [str(data), str(data)], [str(tmp_path)], [str(tmp_path / "absent")]):
        assert command.main(["verify", *arguments]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert command.main(["verify", str(data), "--workers=0"]) == 2
    (data / "manifest.json").write_text("{")
    assert command.main(["verify", str(data)]) == 2
    assert command.main(["verify", "--help"]) == 0
