"""The file that is being written: whole whatever the system writes at a time, and no lost error."""

import errno
import hashlib
import os

import pytest

from squeezenext import files
from squeezenext.convert import commit
from squeezenext.errors import InputError, RunAgain


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_partial_writes(tmp_path, monkeypatch, at_once):
    """The system may write less than it was given."""
    monkeypatch.setattr(commit, "_GATHER_BYTES", 100)

    def some(descriptor, parts):
        return os.write(descriptor, b"".join(parts)[:at_once])

    monkeypatch.setattr(files, "writev", some)
    parts = [os.urandom(n % 13) for n in range(300)]
    with commit.Output(tmp_path / "file") as file:
        for first, second in zip(parts[::2], parts[1::2], strict=True):
            place = file.position
            file.write(first, second)
            assert file.position == place + len(first) + len(second)
        file.finish()
    data = (tmp_path / "file").read_bytes()
    assert data == b"".join(parts)
    assert file.sha256 == hashlib.sha256(data).hexdigest() and file.position == len(data)


def test_more_parts_than_the_system_takes(tmp_path):
    with commit.Output(tmp_path / "file") as file:
        file.write(*[b"ab"] * 5000)
        file.finish()
    assert (tmp_path / "file").read_bytes() == b"ab" * 5000


def test_an_error_behind_the_writers_back_is_not_lost(tmp_path, monkeypatch):
    """The system tells it once: a later fsync would say that all is well."""

    def fails(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "fdatasync", fails)
    monkeypatch.setattr(commit, "_SYNC_BYTES", 1)
    monkeypatch.setattr(commit, "_GATHER_BYTES", 1)
    with pytest.raises(InputError, match="file cannot be written .Input/output error"):
        with commit.written(tmp_path / "file", tmp_path) as file:
            file.write(b"x" * 100)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_whole_or_absent(tmp_path):
    (tmp_path / "file").write_text("before")
    with pytest.raises(KeyError):
        with commit.written(tmp_path / "file", tmp_path) as file:
            file.write(b"half")
            raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"


def test_a_full_disk_asks_for_another_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "writev", full)
    with pytest.raises(RunAgain, match="No space left on device.*same command again"):
        commit.write_document(tmp_path / "file", {}, tmp_path)
    assert list(tmp_path.iterdir()) == []
