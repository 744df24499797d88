"""Records and manifests: equal to TensorFlow's bytes, and no damage goes unnoticed."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from squeezenext.errors import InputError
from squeezenext.records import dataset, reader, tfrecord
from squeezenext.records import example as records_example
from tests import records

PAYLOADS = [b"", b"a", b"0123456789" * 20, os.urandom(1000)]


def write_shard(path, payloads=PAYLOADS):
    path.write_bytes(b"".join(records.frame(payload) for payload in payloads))
    return path


def write_data(directory, shards=((b"a", b"bc"), (), (b"def",))):
    """Writes three shards, the sidecar and the manifest; returns the manifest's document."""
    rows, starts = [], []
    for number, payloads in enumerate(shards):
        path = write_shard(directory / f"train-{number:05d}-of-{len(shards):05d}", payloads)
        starts.append(tfrecord.offsets(path)[:-1])
        rows.append(describe(path) | {"examples": len(payloads)})
    sidecar = directory / "train.index"
    sidecar.write_bytes(np.concatenate(starts).astype("<i8").tobytes())
    document = {
        "format_version": dataset.FORMAT_VERSION,
        "classes": [{"label": 1, "synset": "n1", "text": "cat"}],
        "splits": {
            "train": {
                "examples": sum(map(len, shards)),
                "shards": rows,
                "index": describe(sidecar),
            }
        },
        "rgb_mean": None,
        "repairs": [],
        "rejected": [],
    }
    (directory / dataset.MANIFEST).write_text(json.dumps(document))
    return document


def describe(path):
    data = path.read_bytes()
    return {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def read_all(split):
    payloads = []
    for shard, offset, length in reader.index(split):
        with split.shards[shard].path.open("rb") as file:
            payloads.append(tfrecord.read(file.fileno(), offset, length, "x", 0))
    return payloads


def test_frames_as_tensorflow_does(tmp_path):
    tf = pytest.importorskip("tensorflow")
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    assert write_shard(tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_encodes_examples_as_tensorflow_does():
    tf = pytest.importorskip("tensorflow")
    features = {
        "z": [1, -1, 0, 127, 128, 2**63 - 1, -(2**63)],
        "a": [b"", b"x" * 300],
        "m": [0.5, -1e30, 0.1],
        "b": np.array([], np.float32),
        "é": np.array([], np.int64),
        "c": [],
    }
    example = tf.train.Example()
    example.features.feature["z"].int64_list.value.extend(features["z"])
    example.features.feature["a"].bytes_list.value.extend(features["a"])
    example.features.feature["m"].float_list.value.extend(features["m"])
    example.features.feature["b"].float_list.SetInParent()
    example.features.feature["é"].int64_list.SetInParent()
    example.features.feature["c"].SetInParent()
    encoded = records.encode_example(features)
    assert encoded == example.SerializeToString(deterministic=True)
    decoded = records_example.decode_example(encoded)
    assert decoded["z"] == features["z"] and decoded["a"] == features["a"]
    assert decoded["m"] == pytest.approx(features["m"], rel=1e-6)
    assert decoded["b"] == decoded["c"] == decoded["é"] == []


def test_schema_is_read_by_tensorflow():
    tf = pytest.importorskip("tensorflow")
    boxes = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
    sample = records_example.ImageExample(
        b"jpeg", 3, 4, 7, "n01", "tench, Tinca", "n01_1.JPEG", boxes
    )
    payload = records.encode_example(records.example_features(sample))
    example = tf.train.Example.FromString(payload)
    assert example.SerializeToString(deterministic=True) == payload
    feature = example.features.feature
    assert feature["image/class/label"].int64_list.value[:] == [7]
    assert feature["image/colorspace"].bytes_list.value[:] == [b"RGB"]
    assert feature["image/object/bbox/label"].int64_list.value[:] == [7]
    assert feature["image/object/bbox/ymin"].float_list.value[:] == pytest.approx([0.2])


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 100_000, 2_097_152])
def test_the_parts_are_the_example(size):
    """What the converter writes, a part at a time, is what the encoder makes in one piece."""
    image = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for corners in (np.zeros((0, 4), np.float32), np.array([[0.1, 0.2, 0.3, 0.4]] * 3, np.float32)):
        texts = ("n01", "tench, é", "n01_1.JPEG")
        example = records_example.ImageExample(image, 3, 400, 7, *texts, corners)
        whole = records.encode_example(records.example_features(example))
        parts = records_example.example_parts(example)
        assert b"".join(parts) == whole
        assert any(part is image for part in parts)
        assert b"".join(tfrecord.frame_parts(parts)) == records.frame(whole)


def test_a_number_in_place_of_a_text_is_refused():
    """bytes(number) would be as long as the number is large."""
    item = b"\x08" + b"\xff" * 5 + b"\x0f"  # field 1, a varint
    feature = b"\x12" + bytes([len(item) + 2]) + b"\x0a" + bytes([len(item)]) + item
    entry = b"\x0a\x01a" + feature
    entries = b"\x0a" + bytes([len(entry)]) + entry
    with pytest.raises(records_example.RecordError, match="stands for a text"):
        records_example.decode_example(b"\x0a" + bytes([len(entries)]) + entries)


def test_a_value_of_another_type_is_refused():
    with pytest.raises(TypeError, match="not str"):
        records.encode_example({"a": ["text"]})


@pytest.mark.parametrize("cut", range(1, 60))
def test_cut_examples_are_refused_or_shorter(cut):
    payload = records.encode_example({"a": [b"12345"], "b": [1, 2, 3], "c": [1.0, 2.0]})
    try:
        assert len(records_example.decode_example(payload[:-cut])) < 3
    except records_example.RecordError as error:
        assert "not a tf.train.Example" in str(error)


def test_random_bytes_never_crash_the_decoder():
    random = np.random.default_rng(0)
    for _ in range(2000):
        try:
            records_example.decode_example(random.bytes(random.integers(1, 40)))
        except records_example.RecordError:
            pass


def test_offsets_and_reads(tmp_path):
    path = write_shard(tmp_path / "shard")
    places = tfrecord.offsets(path)
    assert places.dtype == np.int64
    assert np.diff(places).tolist() == [len(payload) + 16 for payload in PAYLOADS]
    with path.open("rb") as file:
        for number, payload in enumerate(PAYLOADS):
            start, end = places[number : number + 2]
            assert tfrecord.read(file.fileno(), start, end - start, "s", number) == payload


def test_offsets_names_every_cut(tmp_path):
    """Every length but those at a record's end; TensorFlow reads cuts inside a header as ends."""
    path = write_shard(tmp_path / "shard", [b"abc", b"defgh"])
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        if size in (0, 19):
            assert tfrecord.offsets(path)[-1] == size
            continue
        with pytest.raises(records_example.RecordError, match=f"shard: record {int(size > 19)} "):
            tfrecord.offsets(path)


def test_offsets_refuses_what_follows(tmp_path):
    path = write_shard(tmp_path / "shard", [b"abc"])
    path.write_bytes(path.read_bytes() + bytes(4096))
    with pytest.raises(records_example.RecordError, match="record 1 has a damaged length"):
        tfrecord.offsets(path)


def test_every_flipped_byte_is_found(tmp_path):
    data = bytearray(records.frame(b"payload"))
    for place in range(len(data)):
        data[place] ^= 0x40
        path = tmp_path / "shard"
        path.write_bytes(data)
        with (
            path.open("rb") as file,
            pytest.raises(records_example.RecordError, match="x: record 5"),
        ):
            tfrecord.read(file.fileno(), 0, len(data), "x", 5)
        data[place] ^= 0x40


@pytest.mark.parametrize("spoil", [None, "absent", "short", "flipped"])
def test_index_with_and_without_the_sidecar(tmp_path, spoil):
    write_data(tmp_path)
    sidecar = tmp_path / "train.index"
    data = sidecar.read_bytes()
    if spoil == "absent":
        sidecar.unlink()
    elif spoil:
        sidecar.write_bytes(data[:-1] if spoil == "short" else data[:-1] + b"\x01")
    split = dataset.load_manifest(tmp_path).splits["train"]
    assert reader.index(split)["shard"].tolist() == [0, 0, 2]
    assert read_all(split) == [b"a", b"bc", b"def"]


def test_index_counts(tmp_path):
    """A shard cut at a record's end is no clean end: the manifest knows the count."""
    write_data(tmp_path)
    (tmp_path / "train.index").unlink()
    path = tmp_path / "train-00000-of-00003"
    path.write_bytes(path.read_bytes()[:17])
    with pytest.raises(records_example.RecordError, match="00000-of-00003 holds 1 records.*says 2"):
        reader.index(dataset.load_manifest(tmp_path).splits["train"])


def test_an_empty_split_has_an_empty_index(tmp_path):
    assert len(reader.index(dataset.Split("test", ()))) == 0


def test_foreign_shards(tmp_path):
    write_shard(tmp_path / "a")
    write_shard(tmp_path / "b", [b"x"])
    split = dataset.split_from_pattern("train", str(tmp_path / "*"))
    assert split.examples == 5
    assert read_all(split) == [*PAYLOADS, b"x"]
    with pytest.raises(InputError, match="No file matches"):
        dataset.split_from_pattern("train", str(tmp_path / "absent*"))


def test_manifest(tmp_path):
    document = write_data(tmp_path)
    manifest = dataset.load_manifest(tmp_path)
    assert manifest.classes[0].text == "cat"
    assert manifest.splits["train"].examples == 3
    assert manifest.raw == document
    dataset.check_shards(manifest)


def test_shards_are_checked_by_name_and_size(tmp_path):
    write_data(tmp_path)
    manifest = dataset.load_manifest(tmp_path)
    path = tmp_path / "train-00002-of-00003"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(InputError, match="00002-of-00003 has 20 bytes.*says 19"):
        dataset.check_shards(manifest)
    path.unlink()
    with pytest.raises(InputError, match="00002-of-00003 cannot be read"):
        dataset.check_shards(manifest)


CHANGES = [
    (lambda d: d.update(format_version=2), "format_version 2"),
    (lambda d: d.pop("classes"), "no 'classes'"),
    (lambda d: d.update(colour=1), "unknown field 'colour'"),
    (lambda d: d["classes"][0].update(label=2), "labels are not 1..N"),
    (lambda d: d["classes"][0].update(text=3), "no text"),
    (lambda d: d.update(classes=3), "no JSON list"),
    (lambda d: d.update(rgb_mean=[1, 2, 300]), "rgb_mean"),
    (lambda d: d["splits"]["train"].update(examples=4), "hold 3, not 4"),
    (lambda d: d["splits"]["train"].update(examples=-1), "no whole number"),
    (lambda d: d["splits"]["train"]["shards"][0].update(examples=True), "no whole number"),
    (lambda d: d["splits"]["train"]["shards"][0].update(bytes=1 << 60), "no whole number"),
    (lambda d: d["splits"]["train"]["shards"][0].update(sha256="x"), "sha256"),
    (lambda d: d["splits"]["train"]["shards"][0].update(file="../x"), "plain file name"),
    (lambda d: d["splits"]["train"]["shards"][0].update(file="/etc/x"), "plain file name"),
    (lambda d: d["splits"]["train"]["shards"][0].update(file=".."), "plain file name"),
    (lambda d: d["splits"]["train"]["index"].update(file="a/b"), "plain file name"),
    (lambda d: d["splits"]["train"]["shards"].append("x"), "no JSON object"),
    (lambda d: d["splits"].update({"../x": {}}), "plain file name"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_damaged_manifests(tmp_path, change, message):
    document = write_data(tmp_path)
    change(document)
    (tmp_path / dataset.MANIFEST).write_text(json.dumps(document))
    with pytest.raises(InputError, match=message) as caught:
        dataset.load_manifest(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_manifest(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        dataset.load_manifest(tmp_path / "absent")
    with pytest.raises(InputError, match="python -m datasets.convert"):
        dataset.load_manifest(tmp_path)
    (tmp_path / "tf-records").mkdir()
    write_data(tmp_path / "tf-records")
    with pytest.raises(InputError, match="did you mean .*tf-records"):
        dataset.load_manifest(tmp_path)
    for text in ("{", "[" * 100_000, "[]", '{"format_version": [1]}'):
        (tmp_path / dataset.MANIFEST).write_text(text)
        with pytest.raises(InputError, match=dataset.MANIFEST):
            dataset.load_manifest(tmp_path)


def test_imports_no_tensorflow():
    code = "import sys, squeezenext.records; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
