"""Tests for `convert/archives.py`: photographs in a zip or tar are those of the folder."""

import bz2
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from squeezenext.convert import archives, shards
from squeezenext.errors import InputError
from tests.converting import convert

ENTRY = b"PK\1\2"  # begins an entry of a zip's list of files
# Where an entry holds what, from its beginning: PKWARE's APPNOTE 4.3.12.
FLAGS, CRC, SIZE, ATTRIBUTES, OFFSET = 8, 16, 24, 38, 42


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


NAMES = [f"{kind}/{number}.jpg" for kind in ("cat", "owlet") for number in range(4)]
PHOTOS = {name: jpeg(seed) for seed, name in enumerate(NAMES)}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in others:
            archive.addfile(info)
    return file.getvalue()


def patched(data: bytes, number: int, place: int, value: int, form: str = "<I") -> bytes:
    """Returns a zip with another value in the entry of that number in its list of files."""
    start = -1
    for _ in range(number + 1):
        start = data.index(ENTRY, start + 1)
    changed = bytearray(data)
    struct.pack_into(form, changed, start + place, value)
    return bytes(changed)


def converted(tmp_path, data: bytes, name: str = "photos.zip"):
    (tmp_path / name).write_bytes(data)
    return convert(tmp_path / name, tmp_path / "records", layout="folder", workers=1)


def refused(tmp_path, data: bytes) -> dict[str, str]:
    """Returns what is said of each file that is not used; the six others are."""
    manifest = converted(tmp_path, data)
    assert sum(split.examples for split in manifest.splits.values()) >= 6
    return {row["file"]: row["reason"] for row in manifest.raw["rejected"]}


def records(directory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*-of-*")}


@pytest.mark.parametrize(
    "data",
    [zipped(PHOTOS), zipped(PHOTOS, zipfile.ZIP_STORED), tarred(PHOTOS),
     gzip.compress(tarred(PHOTOS)), bz2.compress(tarred(PHOTOS)), lzma.compress(tarred(PHOTOS)),
     zipped({f"photos/{name}": data for name, data in PHOTOS.items()}),
     zipped({name.replace("/", "\\"): data for name, data in PHOTOS.items()})],
    ids=["zip", "stored", "tar", "tar.gz", "tar.bz2", "tar.xz", "one folder around", "backslashes"],
)  # fmt: skip
def test_an_archive_gives_the_records_of_its_folder(tmp_path, data):
    for name, photo in PHOTOS.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(photo)
    convert(tmp_path / "folder", tmp_path / "expected", layout="folder", workers=1)
    manifest = converted(tmp_path, data)
    assert not manifest.raw["rejected"]
    assert records(manifest.directory) == records(tmp_path / "expected")
    hidden = [path.name for path in manifest.directory.iterdir() if path.name.startswith(".")]
    assert hidden == [".convert.lock"]


def test_the_same_archive_is_done_and_an_interrupted_one_goes_on(tmp_path, monkeypatch):
    (tmp_path / "photos.tgz").write_bytes(gzip.compress(tarred(PHOTOS)))
    draft, done = shards.draft, []

    def dies(job):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job.path.name)
        return draft(job)

    arguments = tmp_path / "photos.tgz", tmp_path / "records"
    options = {"layout": "folder", "train_shards": 3, "workers": 1}
    monkeypatch.setattr(shards, "draft", dies)
    with pytest.raises(KeyboardInterrupt):
        convert(*arguments, **options)
    before = {path.name: path.stat().st_ino for path in arguments[1].glob("train-*")}
    monkeypatch.setattr(shards, "draft", draft)
    convert(*arguments, **options)
    after = {path.name: path.stat().st_ino for path in arguments[1].glob("train-*")}
    assert before and before.items() <= after.items()
    made = (arguments[1] / "manifest.json").stat().st_mtime_ns
    convert(*arguments, **options)
    assert (arguments[1] / "manifest.json").stat().st_mtime_ns == made


def test_what_a_mac_adds_counts_for_nothing(tmp_path):
    added = {"__MACOSX/photos/cat/._0.jpg": b"x", "photos/.DS_Store": b"x",
             "photos/cat/._1.jpg": b"x"}  # fmt: skip
    photos = {f"photos/{name}": data for name, data in PHOTOS.items()}
    manifest = converted(tmp_path, zipped(photos | added))
    assert not manifest.raw["rejected"] and not manifest.raw["warnings"]


class Named(zipfile.ZipInfo):
    """A member whose name has these bytes, without a flag that says UTF-8."""

    def _encodeFilenameFlags(self):  # noqa: N802
        return self.comment, 0


@pytest.mark.parametrize("written", ["cp437", "utf-8", None])
def test_names_of_every_system_are_read(tmp_path, written):
    """Windows writes its old code page, a Mac UTF-8 without the flag for it, others the flag."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, photo in PHOTOS.items():
            name = name.replace("owlet", "Käuze")
            info = Named(name.encode().hex()) if written else zipfile.ZipInfo(name)
            info.comment = name.encode(written) if written else b""
            archive.writestr(info, photo)
    manifest = converted(tmp_path, file.getvalue())
    assert [label.text for label in manifest.classes] == ["Käuze", "cat"]


@pytest.mark.parametrize(
    ("place", "value", "form", "reason"),
    [
        (FLAGS, 1, "<H", "is encrypted; unpack the archive with its password"),
        (FLAGS + 2, 14, "<H", "is compressed by method 14, not by deflate"),
        (CRC, 1, "<I", "is damaged: the archive states another size or checksum"),
        (CRC, 0, "<I", "is damaged: the archive states another size or checksum"),
        (SIZE, 10, "<I", "is damaged: .* bytes cannot be the packed form of 10"),
        (SIZE, 2_000, "<I", "is damaged: the archive states another size or checksum"),
        (SIZE, 1 << 30, "<I", "is larger than 64 MB"),
        (ATTRIBUTES, (stat.S_IFLNK | 0o777) << 16, "<I", "is a symbolic link"),
        (ATTRIBUTES, stat.S_IFCHR << 16, "<I", "is a device or another special entry"),
    ],
)
def test_one_member_that_lies_stops_nothing(tmp_path, place, value, form, reason):
    data = patched(zipped(PHOTOS), 0, place, value, form)
    ((file, told),) = refused(tmp_path, data).items()
    assert file == "cat/0.jpg" and re.match(reason, told)


def test_a_damaged_stream_is_told(tmp_path):
    data = bytearray(zipped(PHOTOS))
    data[data.index(b"cat/0.jpg") + 9] = 0xFF  # no kind of a block
    ((file, told),) = refused(tmp_path, bytes(data)).items()
    assert file == "cat/0.jpg" and told.startswith("is damaged in the archive (Error -3")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/cat/1.jpg", "has a name that leads out of the archive"),
        ("../cat/1.jpg", "has a name that leads out of the archive"),
        ("cat\\..\\..\\1.jpg", "has a name that leads out of the archive"),
        ("C:\\cat\\1.jpg", "has a name that leads out of the archive"),
        ("cat/0.jpg/1.jpg", "lies in 0.jpg, which is a file"),
        ("a/" * 40 + "1.jpg", "lies more than 32 folders deep"),
        ("./cat//0.jpg", "appears twice"),
    ],
)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_names_that_have_no_place(tmp_path, pack, name, reason):
    told = refused(tmp_path, pack(PHOTOS | {name: jpeg(99)}))
    assert told == {f"photos.zip: {name}": reason}


def test_names_with_control_characters_forge_no_line(tmp_path):
    told = refused(tmp_path, zipped(PHOTOS | {"cat/\n\x1b[31m.jpg": jpeg(99)}))
    assert told == {"cat/\\n\\x1b[31m.jpg": "has the control character \\n in its name; rename it"}


def test_links_and_devices_of_a_tar_are_refused(tmp_path):
    others = []
    for name, kind in (("cat/a.jpg", tarfile.SYMTYPE), ("cat/b.jpg", tarfile.CHRTYPE)):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        others.append(info)
    assert refused(tmp_path, tarred(PHOTOS, *others)) == {
        "cat/a.jpg": "is a symbolic link",
        "cat/b.jpg": "is a device or another special entry",
    }


ZIP = zipped(PHOTOS)
BOMB = gzip.compress(tarred({f"cat/{n}.jpg": bytes(1 << 20) for n in range(2)}), mtime=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ZIP[: len(ZIP) // 2], "is damaged or cut short .*; download or copy it again"),
        (ZIP[:-30], "is damaged or cut short"),
        (b"PK\3\4" + bytes(100), "is damaged or cut short"),
        (patched(ZIP, 1, OFFSET, 0), "its list of files does not fit its content"),
        (patched(ZIP, 0, OFFSET, 1 << 30), "its list of files does not fit its content"),
        (ZIP.replace(b"PK\3\4", b"PK\3\5", 2)[:-4].replace(b"PK\3\5", b"PK\3\4", 1) + ZIP[-4:],
         "its list of files does not fit its content"),
        (tarred(PHOTOS)[:3000], "is cut inside its member"),
        (gzip.compress(tarred(PHOTOS), mtime=0)[:3000], "is damaged or cut"),
        (gzip.compress(b"text" * 999, mtime=0), "is no tar archive"),
        (lzma.compress(tarred(PHOTOS))[:3000], "is damaged or cut"),
        (lzma.compress(tarred(PHOTOS))[:3000] + bytes(3000), "is damaged or cut .Corrupt input"),
        (bz2.compress(tarred(PHOTOS))[:3000] + bytes(9000), "is damaged or cut .Invalid data"),
        (BOMB, "inflates to more than 100 times its 2 kB, as no photographs do"),
        (zipped({f"cat/{n}.jpg": bytes(1 << 20) for n in range(2)}), "inflates to more than 100"),
        (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive; give a folder with a folder per class"),
        (b"Rar!\x1a", "is a RAR archive; give"),
        (b"text", "is no zip or tar; give"),
        (b"", "is no zip or tar; give"),
        (zipped({}), "has no image in a class folder"),
    ],
)  # fmt: skip
def test_hostile_archives_get_one_sentence(tmp_path, monkeypatch, data, message):
    monkeypatch.setattr(archives, "_SMALL", 1 << 20)
    with pytest.raises(InputError, match=message) as caught:
        converted(tmp_path, data)
    assert "\n" not in str(caught.value) and not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("_MAX_ENTRIES", 5, "has more than 5 files and folders; unpack it"),
        ("_MAX_DIRECTORY", 100, "its list of files is too large"),
    ],
)
def test_the_number_of_entries_is_bounded(tmp_path, monkeypatch, limit, value, message):
    monkeypatch.setattr(archives, limit, value)
    with pytest.raises(InputError, match=message):
        converted(tmp_path, ZIP)


def test_an_encrypted_zip_gets_one_sentence(tmp_path):
    data = ZIP
    for number in range(len(PHOTOS)):
        data = patched(data, number, FLAGS, 1, "<H")
    with pytest.raises(InputError, match=r"No image in .*/cat can be used: cat/0.jpg is encrypted"):
        converted(tmp_path, data)
