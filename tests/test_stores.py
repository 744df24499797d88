"""Data in a store: fsspec's own in memory, and a real S3 server where moto is installed."""

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from squeezenext.adapt import command as adapt
from squeezenext.convert import command as conversion
from squeezenext.convert import sources, verify
from squeezenext.convert.options import ConvertOptions
from squeezenext.errors import InputError, RunAgain
from squeezenext.records import batches, dataset, samples, stores
from squeezenext.records.example import RecordError
from squeezenext.records.reader import Reader
from squeezenext.train import command as training
from squeezenext.train.options import Options
from tests import tiny

PLACE = "memory://bucket/records"
BLOCK = 2048  # bytes: some blocks hold two records, and some records lie in two blocks


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """Records of 36 photographs, of which 24 are for training, in three shards."""
    folder = tmp_path_factory.mktemp("local")
    for number in range(36):
        photo = folder / "photographs" / f"n{number % 3 + 1}" / f"{number}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(tiny.jpeg(number, number % 3 + 1))
    options = ConvertOptions("folder", validation_fraction=1 / 3, train_shards=3, workers=1)
    conversion.convert(folder / "photographs", folder / "records", options)
    return folder / "records"


class Traffic:
    """What is asked of the store; `fails` lists how the next requests fail."""

    def __init__(self):
        self.ranges: list[tuple[str, int]] = []
        self.fails: list[Exception | bytes] = []

    def gone(self, address: stores.Address):
        raise RunAgain(f"{address} is gone")


@pytest.fixture
def traffic(local, tmp_path, monkeypatch) -> Traffic:
    """The records in a store that counts its requests."""
    found, plain = Traffic(), MemoryFileSystem.cat_file

    def counted(system, path, start=None, end=None, **options):
        found.ranges.append((path.rpartition("/")[2], start))
        fault = found.fails.pop() if found.fails else None
        if isinstance(fault, Exception):
            raise fault
        return plain(system, path, start, end) if fault is None else fault

    monkeypatch.setattr(stores, "SCHEMES", (*stores.SCHEMES, "memory://"))
    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    monkeypatch.setattr(stores, "BLOCK", BLOCK)
    monkeypatch.setattr(stores, "_WAITS", (0, 0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pipe({f"{PLACE}/{path.name}": path.read_bytes() for path in local.iterdir()})
    return found


def flip(name: str, at: int) -> None:
    """Changes a byte of a file in the store."""
    system = fsspec.filesystem("memory")
    data = bytearray(system.cat(f"{PLACE}/{name}"))
    data[at] ^= 1
    system.pipe(f"{PLACE}/{name}", bytes(data))


def reader(place: str | Path = PLACE, split: str = "train") -> Reader:
    return Reader(dataset.find_dataset(place, None, None).splits[split])


def test_each_block_is_asked_for_once(local, traffic):
    numbers, ours = np.arange(24), reader(local)
    for start in (0, 12, 0):
        reader().bring(numbers[start : start + 12])
    theirs = reader()
    theirs.places(numbers)
    assert [theirs.read_one(n) for n in numbers] == [ours.read_one(n) for n in numbers]
    sizes = [(local / f"train-{n:05d}-of-00003").stat().st_size for n in range(3)]
    asked = [ask for ask in traffic.ranges if "-of-" in ask[0]]
    assert len(asked) == len({*asked}) == sum(-(-size // BLOCK) for size in sizes)


def test_records_that_are_read_in_order_come_together(traffic):
    theirs = reader()
    theirs.reads = 5
    theirs.read_one(0)
    before = len(traffic.ranges)
    for number in range(1, 5):
        theirs._read_here(number)
    assert len(traffic.ranges) == before


def test_samples_and_verify_read_what_is_local(local, traffic):
    wanted = (("validation",), 4, tiny.IMAGES, dataset.load_manifest(local).classes)
    theirs, ours = (list(samples.read(place, *wanted)) for place in (PLACE, local))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(theirs, ours, strict=True))
    assert verify.verify(PLACE, workers=1, decode=True) == []


def test_damage_in_the_store_is_named(traffic, capsys):
    shard = "train-00001-of-00003"
    flip(shard, 100)
    with pytest.raises(RecordError, match=f"^{PLACE}/{shard}: record 0 fails its checksum"):
        reader().read(np.arange(24))
    assert verify.main(["verify", PLACE, "--workers=1"]) == 1
    assert f"{shard}: record 0 fails its checksum" in capsys.readouterr().err


def test_a_damaged_copy_is_fetched_again(local, traffic):
    theirs = reader()
    theirs.places(np.arange(24))
    for copy in (theirs._files[0], theirs._files[1]):
        copy.write_bytes(bytes(copy.stat().st_size))  # as after a power cut
    assert [*reader().read(np.arange(24))] == [*reader(local).read(np.arange(24))]


def test_a_store_that_fails_is_asked_again(traffic):
    traffic.fails = [OSError("reset"), b"cut"]
    assert dataset.load_manifest(PLACE).splits
    assert len(traffic.ranges) == 3
    traffic.fails = [TimeoutError("gone")] * 3
    with pytest.raises(
        RunAgain, match=rf"^{PLACE}/manifest.json cannot be reached just now \(Time"
    ):
        dataset.load_manifest(PLACE)
    traffic.fails = [PermissionError("AccessDenied")]
    with pytest.raises(InputError, match="manifest.json: access is denied"):
        dataset.load_manifest(PLACE)


def test_what_is_absent_is_named(traffic):
    system = fsspec.filesystem("memory")
    with pytest.raises(InputError, match="^memory://bucket/none has no manifest.json"):
        dataset.find_dataset("memory://bucket/none", None, None)
    system.pipe(f"{PLACE}/train.index", b"short")
    with pytest.raises(InputError, match=f"^{PLACE} has no complete train.index; copy it"):
        reader()
    system.pipe(f"{PLACE}/train-00000-of-00003", b"short")
    with pytest.raises(InputError, match="train-00000-of-00003 has 5 bytes, manifest.json says"):
        reader()
    system.rm(f"{PLACE}/train-00000-of-00003")
    with pytest.raises(InputError, match="train-00000-of-00003 cannot be read .no such file."):
        reader()


def test_photographs_are_copied_and_follow_the_store(local, traffic, tmp_path, capsys):
    photographs, system = local.parent / "photographs", fsspec.filesystem("memory")
    files = {path: path.read_bytes() for path in photographs.rglob("*.jpg")}
    place = "memory://bucket/pets/photographs"
    system.pipe({f"{place}/{path.relative_to(photographs)}": files[path] for path in files})
    line = ["convert", "--layout=folder", f"--source={place}", "--train_shards=3", "--workers=1"]
    line.append(f"--validation_fraction={1 / 3}")
    assert conversion.main([*line, f"--output={tmp_path / 'records'}"]) == 0
    for path in local.glob("*-of-*"):
        assert (tmp_path / "records" / path.name).read_bytes() == path.read_bytes()
    before = len(traffic.ranges)
    gone, *left = sorted(files)
    system.rm(f"{place}/{gone.relative_to(photographs)}")
    system.pipe(f"{place}/{left[0].relative_to(photographs)}", b"another")
    copy = sources.downloaded(place, stores.copies_folder() / "sources")
    assert {*copy.rglob("*.jpg")} == {copy / path.relative_to(photographs) for path in left}
    assert len(traffic.ranges) == before + 1
    assert adapt.main(["adapt", f"{place}/none", f"--model_dir={tmp_path / 'mine'}"]) == 2
    assert f"{place}/none holds no file; give the" in capsys.readouterr().err


def test_an_archive_and_a_list_come_with_what_they_need(traffic, tmp_path):
    system = fsspec.filesystem("memory")
    system.pipe({"memory://bucket/a/p.zip": b"zip", "memory://bucket/a/b/1.jpg": b"jpeg"})
    assert stores.copied("memory://bucket/a/p.zip", tmp_path / "1").read_bytes() == b"zip"
    system.pipe("memory://bucket/a/list.CSV", b"b/1.jpg,x")
    path = stores.copied("memory://bucket/a/list.CSV", tmp_path / "2")
    assert (path.parent / "b" / "1.jpg").read_bytes() == b"jpeg"
    system.store["/bucket/c/../out.jpg"] = system.store["/bucket/a/p.zip"]
    with pytest.raises(InputError, match="holds 'c/../out.jpg', which is no name of a file"):
        stores.copied("memory://bucket/c", tmp_path / "3")
    assert not (tmp_path / "out.jpg").exists()


def test_a_changed_file_of_the_same_size_is_copied_again(traffic, tmp_path):
    system = fsspec.filesystem("memory")
    for label in (b"cat", b"dog"):
        system.pipe({"memory://bucket/l/labels.csv": b"1.jpg," + label})
        path = stores.copied("memory://bucket/l/labels.csv", tmp_path / "1")
        assert path.read_bytes() == b"1.jpg," + label
    before = len(traffic.ranges)
    stores.copied("memory://bucket/l/labels.csv", tmp_path / "1")
    assert len(traffic.ranges) == before


def test_markers_of_folders_are_skipped_and_a_clash_is_named(traffic, monkeypatch, tmp_path):
    found = {f"/bucket/p/{name}": {"size": 0} for name in ("", "a/", "a/b.jpg")}
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *_, **__: found)
    copy = stores.copied("memory://bucket/p", tmp_path / "1")
    assert [path.name for path in copy.rglob("*") if path.is_file()] == ["b.jpg"]
    found["/bucket/p/a"] = {"size": 3}
    with pytest.raises(InputError, match="holds 'p/a' as a file and as a folder; rename one"):
        stores.copied("memory://bucket/p", tmp_path / "1")


class HttpError(Exception):
    """Has the status where gcsfs has it."""

    def __init__(self, code: int):
        self.code = code


class EndpointConnectionError(type("ConnectionError", (Exception,), {})):  # as botocore's
    """Is no OSError."""


@pytest.mark.parametrize(
    "fault, kind, message",
    [
        (b"x" * (1 << 20), InputError, "the server does not answer ranges"),
        (ValueError("Invalid bucket name"), InputError, "ValueError: Invalid bucket name"),
        (OSError(errno.EINVAL, "bad"), InputError, "cannot be used"),
        (HttpError(400), InputError, "cannot be used"),
        (HttpError(403), InputError, "access is denied"),
        (OSError("Forbidden: https://host"), InputError, "access is denied"),
        (HttpError(503), RunAgain, "just now"),
        (HttpError(429), RunAgain, "just now"),
        (EndpointConnectionError("no route"), RunAgain, "just now"),
    ],
)
def test_only_what_may_pass_is_asked_again(traffic, fault, kind, message):
    traffic.fails = [fault] * 3
    with pytest.raises(kind, match=message):
        dataset.load_manifest(PLACE)
    assert len(traffic.fails) == (0 if kind is RunAgain else 2)


def test_a_server_without_sizes_is_named(traffic, monkeypatch):
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, **__: {"size": None})
    with pytest.raises(InputError, match="the server states no Content-Length"):
        dataset.load_manifest(PLACE)


@pytest.mark.parametrize("address", ["https://me:secret@h/records", "https://h/r?token=secret"])
def test_no_password_comes_into_a_log(address, capsys):
    assert verify.main(["verify", address]) == 2
    error = capsys.readouterr().err
    assert "An address at https://h contains a password or a query" in error
    assert "secret" not in error


def test_an_absent_package_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert verify.main(["verify", "s3://bucket/records"]) == 2
    assert "requirements-s3.txt" in capsys.readouterr().err


def test_a_disk_without_room_is_named(traffic, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    for read in (reader, lambda: stores.copied(PLACE, tmp_path / "1")):
        with pytest.raises(RunAgain, match="needs .* for copies in .*, whose disk has 0 kB free"):
            read()


def test_a_list_at_the_root_of_a_bucket_does_not_copy_the_bucket(traffic, tmp_path):
    with pytest.raises(InputError, match="^memory://bucket/l.csv lies at the root of a bucket"):
        stores.copied("memory://bucket/l.csv", tmp_path / "1")


def crops(reader: Reader, start: int) -> list[np.ndarray]:
    """The first two micro-batches of training from an example on."""
    like = {"seed": 1, "start": start, "micro_batch": 8, "share": batches.Share()}
    elements = iter(batches.training(reader, tiny.AUGMENTED, tiny.CLASSES, **like))
    return [next(elements)[0].numpy() for _ in range(2)]


def test_training_sees_the_same_pixels(local, traffic):
    for start in (0, 16):
        assert np.array_equal(crops(reader(), start), crops(reader(local), start))
    blocks = [ask for ask in traffic.ranges if "-of-" in ask[0]]
    assert len(blocks) == len({*blocks})


def test_a_run_ends_with_the_store_and_goes_on(traffic, tmp_path, monkeypatch):
    options = Options(model_dir=tmp_path / "mine", data_dir=PLACE)
    with monkeypatch.context() as patch:
        patch.setattr(stores, "ranges", lambda spans: traffic.gone(spans[0][0]))
        with pytest.raises(RunAgain, match="^memory://bucket/records/train-0000.* is gone"):
            training.train(tiny.SQUEEZENEXT, options)
    assert training.train(tiny.SQUEEZENEXT, options)["examples_seen"] == 48
    kept = [path.read_text() for path in (tmp_path / "mine").rglob("*.json")]
    assert kept and not any("memory://" in text for text in kept)


@pytest.fixture
def s3(monkeypatch):
    """The address of a real S3 server's bucket."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p0"], stderr=subprocess.PIPE, text=True
    ) as server:
        line = next(line for line in server.stderr if "Running on" in line)
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.split()[-1])
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
        server.send_signal(signal.SIGTERM)


def test_a_real_server(local, s3, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fsspec.filesystem("s3").put(str(local), f"{s3}/records", recursive=True)
    assert verify.verify(f"{s3}/records", workers=2) == []
    theirs, ours = reader(f"{s3}/records"), reader(local)
    assert [*theirs.read(np.arange(24))] == [*ours.read(np.arange(24))]
    with pytest.raises(InputError, match="^s3://bucket/none has no manifest.json"):
        dataset.load_manifest(f"{s3}/none")
