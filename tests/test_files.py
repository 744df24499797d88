"""Tests for `squeezenext/files.py`."""

import os

import pytest

from squeezenext import files


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "file.txt"
    files.write_file(path, lambda file: file.write_text("old"))

    def fail(file):
        file.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        files.write_file(path, fail)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_a_file_is_flushed_before_its_name_and_the_name_after(tmp_path, monkeypatch):
    """The order that a power cut must not reverse."""
    done = []
    fsync, replace = os.fsync, os.replace
    place = lambda descriptor: os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda d: (done.append(place(d)), fsync(d)))
    monkeypatch.setattr(os, "replace", lambda *a: (done.append("rename"), replace(*a)))
    files.write_file(tmp_path / "file.txt", lambda file: file.write_text("new"))
    assert done[0].startswith(".file.txt.tmp-") and done[1:] == ["rename", tmp_path.name]
