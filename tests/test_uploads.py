"""Conversion into a store: fsspec's own in memory, whose requests fail as they are told to."""

import shutil
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from squeezenext.convert import command as conversion
from squeezenext.convert import verify
from squeezenext.convert.uploads import Destination
from squeezenext.errors import InputError
from squeezenext.records import stores
from tests import tiny

PLACE = "memory://bucket/records"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """12 photographs of two classes."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(12):
        photo = folder / f"n{number % 2}" / f"{number}.jpg"
        photo.parent.mkdir(exist_ok=True)
        photo.write_bytes(tiny.jpeg(number, number % 2 + 1))
    return folder


class Sent(list):
    """The names of the files that were sent, in order; `fails` says how the next ones fail."""

    fails: list[Exception | bytes | None]


@pytest.fixture
def sent(tmp_path, monkeypatch) -> Sent:
    """The requests to an empty store, which write."""
    found, plain = Sent(), MemoryFileSystem.put_file
    found.fails = []

    def put_file(system, lpath, rpath, **options):
        fault = found.fails.pop(0) if found.fails else None
        if isinstance(fault, Exception):
            raise fault
        plain(system, lpath, rpath, **options)
        if fault is None:
            found.append(rpath.rpartition("/")[2])
        else:
            system.pipe(rpath, fault)

    monkeypatch.setattr(stores, "SCHEMES", (*stores.SCHEMES, "memory://"))
    monkeypatch.setattr(stores, "_WAITS", (0,))
    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    return found


def convert(source: str | Path, output: str | Path = PLACE, *flags: str) -> int:
    line = ["convert", "--layout=folder", f"--source={source}", f"--output={output}"]
    return conversion.main([*line, "--workers=1", "--train_shards=3", *flags])


def held() -> dict[str, bytes]:
    """What the store holds, by name."""
    system = fsspec.filesystem("memory")
    return {name.rpartition("/")[2]: system.cat(name) for name in system.find(PLACE)}


def local(source: Path, output: Path, *flags: str) -> dict[str, bytes]:
    """What a conversion into a folder writes, by name."""
    assert convert(source, output, *flags) == 0
    return {p.name: p.read_bytes() for p in output.iterdir() if not p.name.startswith(".")}


def test_the_store_holds_what_a_folder_would(photographs, sent, tmp_path, capsys):
    assert convert(photographs) == 0
    assert held() == local(photographs, tmp_path / "records")
    assert len(sent) == len({*sent}) == len(held()) and sent[-1] == "manifest.json"
    assert verify.verify(PLACE, workers=1) == []
    assert not Destination(stores.place(PLACE)).folder.exists()
    assert convert(photographs) == 0 and len(sent) == len(held())
    assert f"{PLACE} was finished already" in capsys.readouterr().err


def test_a_damaged_upload_is_sent_again(photographs, sent, monkeypatch):
    monkeypatch.setattr(stores, "_WAITS", (0, 0))
    sent.fails = [b"cut", OSError("BadDigest")]
    assert convert(photographs) == 0 and not sent.fails
    assert verify.verify(PLACE, workers=1) == []


def test_after_an_outage_the_same_command_goes_on(photographs, sent, tmp_path, capsys):
    sent.fails = [None, None, *[TimeoutError("gone")] * 20]
    assert convert(photographs) == 75
    assert "cannot be reached just now (TimeoutError: gone); run" in capsys.readouterr().err
    assert len(sent) == 2 and "manifest.json" not in held()
    sent.fails = [*[None] * 9, *[TimeoutError("gone")] * 2]  # 11 files in all
    assert convert(photographs) == 75 and "manifest.json" not in held()
    sent.fails = []
    assert convert(photographs) == 0
    assert len(sent) == len({*sent})  # each once
    assert held() == local(photographs, tmp_path / "records")


def test_a_changed_source_replaces_what_was_sent_before(photographs, sent, tmp_path):
    source = shutil.copytree(photographs, tmp_path / "photographs")
    sent.fails = [*[None] * 10, *[TimeoutError("gone")] * 2]
    assert convert(source) == 75 and len(held()) == 10
    (source / "n0" / "0.jpg").write_bytes(tiny.jpeg(99, 1))
    assert convert(source, PLACE, "--train_shards=2") == 0
    assert held() == local(source, tmp_path / "records", "--train_shards=2")


def test_other_data_are_kept_or_replaced(photographs, sent, tmp_path, capsys):
    assert convert(photographs) == 0
    before = held()
    assert convert(photographs, PLACE, "--seed=1") == 2
    assert f"{PLACE} holds another data set" in capsys.readouterr().err and held() == before
    flags = ("--seed=1", "--train_shards=2")
    assert convert(photographs, PLACE, *flags, "--overwrite") == 0
    assert held() == local(photographs, tmp_path / "records", *flags)


@pytest.mark.parametrize("output", ["memory://bucket", "memory://bucket/photographs/records/"])
def test_an_output_that_cannot_be_is_refused(output, sent, capsys):
    assert convert("memory://bucket/photographs", output) == 2
    assert "overlap; choose another output." in capsys.readouterr().err
    with pytest.raises(InputError, match="^https://host/r can only be read; give --output s3://"):
        Destination(stores.Address("https://host/r"))


def test_files_from_elsewhere_are_kept(photographs, sent, capsys):
    system = fsspec.filesystem("memory")
    system.pipe({f"{PLACE}/train-00007-of-00008": b"theirs", f"{PLACE}/notes.txt": b"notes"})
    before = held()
    assert convert(photographs) == 2 and held() == before
    assert "train-00007-of-00008 is there; give another --output" in capsys.readouterr().err
    assert convert(photographs, PLACE, "--overwrite") == 0
    assert "train-00007-of-00008" not in held() and held()["notes.txt"] == b"notes"
