"""Tests for `squeezenext/files.py`."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from squeezenext import files
from squeezenext.errors import InputError


def test_a_path_that_leads_out_of_a_folder_is_known():
    outside = ["C:/a.jpg", "a/C:b.jpg", "/a", "../a", "a/../b", "a//b", "a\\b", "", "a/"]
    assert all(map(files.leads_out, outside))
    assert not any(map(files.leads_out, ["a.jpg", "a/..b/c.jpg", "2026-12-01T10:00.jpg"]))


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


def test_what_another_program_wrote_is_not_replaced(tmp_path):
    files.check_ours(tmp_path / "absent", "mark")
    for name, text in (("ours", "head mark tail"), ("theirs", "x" * 5000 + "mark")):
        (tmp_path / name).write_text(text)
    files.check_ours(tmp_path / "ours", "mark")
    with pytest.raises(InputError, match="theirs is another program's; move it away"):
        files.check_ours(tmp_path / "theirs", "mark")


@pytest.fixture
def secret(tmp_path):
    """A file of the user's, outside of the folder that a stranger made."""
    path = tmp_path / "home" / "secret"
    path.parent.mkdir()
    path.write_text("mine")
    return path


@pytest.mark.parametrize("lay", [os.symlink, os.link])
def test_a_log_is_never_written_through_a_link(tmp_path, secret, lay):
    lay(secret, tmp_path / "train.log")
    for how in ({"flags": os.O_APPEND}, {"empty": True}):
        with pytest.raises(InputError, match="is a symbolic link|is a file with several names"):
            files.open_own(tmp_path / "train.log", **how)
    assert secret.read_text() == "mine"


def test_what_is_read_is_a_regular_file_of_bounded_size(tmp_path, secret):
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(files.MAX_TEXT + 1)
    for name, reason in {
        "link": "is a symbolic link", "pipe": "is no regular file", "large": "is larger than",
        "absent": "cannot be read",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=f"{name} {reason}"):
            files.read_text(tmp_path / name)
    with pytest.raises(InputError, match="zero is no regular file"):
        files.read_text(Path("/dev/zero"))


def test_a_temporary_name_cannot_be_foreseen(tmp_path, monkeypatch):
    """A link that lies at a process's usual temporary name is left alone."""
    names = []
    for _ in range(2):
        files.write_file(tmp_path / "x.json", lambda file: names.append(file.name))
    assert names[0] != names[1] and f".x.json.tmp-{os.getpid()}.json" not in names


def test_a_document_that_is_nested_too_deeply_is_none(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        files.read_document(tmp_path / "deep.json")


@pytest.fixture
def windows(monkeypatch):
    """What `files` chooses where `os` has no O_NOFOLLOW and opens no folder."""
    monkeypatch.setattr(files, "NO_LINK", 1 << 30)
    monkeypatch.setattr(files, "_UNKNOWN", 1 << 30)
    monkeypatch.setattr(files, "_FOLDERS_CAN_BE_OPENED", False)
    open_ = os.open

    def opened(path, flags, mode=0o777):
        assert not flags & 1 << 30
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_(path, flags, mode)

    monkeypatch.setattr(os, "open", opened)


def test_a_link_is_refused_and_a_folder_not_opened_on_windows(windows, tmp_path, secret):
    (tmp_path / "link").symlink_to(secret)
    with pytest.raises(InputError, match="link is a symbolic link"):
        files.open_own(tmp_path / "link")
    for read in (files.read_text, lambda path: files.open_own(path, empty=True)):
        with pytest.raises(InputError, match=f"{tmp_path.name} is no regular file"):
            read(tmp_path)
    files.write_text(tmp_path / "file", "a\n")
    assert files.read_text(tmp_path / "file") == "a\n" and secret.read_text() == "mine"


def test_threads_read_at_their_own_places_where_a_position_is_shared(tmp_path):
    content = bytes(range(256)) * 64
    (tmp_path / "file").write_bytes(content)
    with files.open_file(tmp_path / "file") as file, ThreadPoolExecutor(4) as pool:
        places = [(number * 37) % 16_000 for number in range(400)]
        found = pool.map(lambda place: files._pread(file.fileno(), 100, place), places)
        assert list(found) == [content[place : place + 100] for place in places]


def test_parts_are_written_together_where_the_system_takes_one(tmp_path):
    descriptor = files.open_own(tmp_path / "file")
    assert files._writev(descriptor, [b"ab", memoryview(b"cd"), b""]) == 4
    os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"abcd"
