"""Tests for `config/zoo.py`, and for how `model/published.py` recognises and keeps its files."""

import dataclasses
import email
import hashlib
import io
import os
import pickle
import tarfile
import urllib.response
import zipfile

import numpy as np
import pytest

from squeezenext.config.reported import REPORTED
from squeezenext.config.zoo import PUBLISHED, File
from squeezenext.errors import InputError
from squeezenext.formats import pickles
from squeezenext.model import importing, loading, published

CONTENT = b"the weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA1 = hashlib.sha1(CONTENT).hexdigest()
BLOB = hashlib.sha1(b"blob 11\0" + CONTENT).hexdigest()


def test_each_model_has_files_that_are_known_a_network_and_figures():
    for name, model in PUBLISHED.items():
        assert model.format in importing.FORMATS and model.licence and name in REPORTED
        assert model.config().model.classes == 1000
        for file in model.files:
            assert all(url.startswith("https://") for url in (file.url, *file.mirrors))
            assert file.sha256 or file.sums
            sums = [f"sha256:{file.sha256}", *file.sums]
            for kind, known in (entry.split(":") for entry in sums):
                assert kind == "git" or kind in hashlib.algorithms_guaranteed
                assert known == known.lower() and not set(known) - set("0123456789abcdef")
    keys = [file.key for model in PUBLISHED.values() for file in model.files]
    assert len(set(keys)) == len(keys)


class Internet:
    """Answers by address, and counts."""

    def __init__(self, answers: dict[str, bytes]):
        self.answers, self.asked = answers, []

    def __call__(self, url):
        self.asked.append(url)
        if url not in self.answers:
            raise OSError("no route")
        return io.BytesIO(self.answers[url])


@pytest.fixture
def internet(monkeypatch):
    monkeypatch.delenv("HELD", raising=False)
    made = Internet({})
    monkeypatch.setattr(published, "_opened", made)
    return made


@pytest.mark.parametrize(
    "file",
    [
        File("https://a/f", SHA256, 11),
        File("https://a/f", SHA256[:8], None),
        File("https://a/f", "", None, (f"sha1:{SHA1}",)),
        File("https://a/f", "", 11, (f"git:{BLOB}", f"sha1:{SHA1}")),
    ],
)
def test_a_file_is_known_by_every_checksum_there_is(file, internet, tmp_path):
    internet.answers["https://a/f"] = CONTENT
    (path,) = published.download([file], "HELD", tmp_path)
    assert path.read_bytes() == CONTENT
    assert published.download([file], "HELD", tmp_path) == {path: CONTENT}
    assert internet.asked == ["https://a/f"]
    for wrong in (CONTENT + b"?", CONTENT[:-1] + b"?"):
        path.write_bytes(wrong)
        internet.answers["https://a/f"] = wrong
        with pytest.raises(InputError, match="https://a/f (is not the file it was|cannot be)"):
            published.download([file], "HELD", tmp_path)
    spoilt = dataclasses.replace(file, sums=(*file.sums, "md5:" + "0" * 32))
    internet.answers["https://a/f"] = CONTENT
    with pytest.raises(InputError, match="checksum is another"):
        published.download([spoilt], "HELD", tmp_path)


def test_the_first_fetch_writes_the_sha256_down(internet, tmp_path):
    """Two files whose SHA-256 begin alike: only the first is the file from then on."""
    first = hashlib.sha256(CONTENT).hexdigest()[0]
    tries = (f"other {number}".encode() for number in range(1000))
    other = next(data for data in tries if hashlib.sha256(data).hexdigest()[0] == first)
    file = File("https://a/f", first, None)
    internet.answers["https://a/f"] = CONTENT
    (path,) = published.download([file], "HELD", tmp_path)
    assert (tmp_path / f"{first}.sha256").read_text() == f"{SHA256}\n"
    path.unlink()
    internet.answers["https://a/f"] = other
    with pytest.raises(InputError, match="https://a/f is not the file it was"):
        published.download([file], "HELD", tmp_path)
    internet.answers["https://a/f"] = CONTENT
    assert published.download([file], "HELD", tmp_path) == {tmp_path / file.key: CONTENT}
    whole = File("https://b/f", hashlib.sha256(other).hexdigest(), None)
    internet.answers["https://b/f"] = other
    published.download([whole], "HELD", tmp_path)
    assert len(list(tmp_path.glob("*.sha256"))) == 1  # a whole SHA-256 needs no note


@pytest.mark.parametrize("note", [b"", SHA256[:63].encode(), b"\xff" * 64, b"g" * 64])
def test_a_note_that_holds_no_sha256_counts_as_absent(note, internet, tmp_path):
    """The next use of the file in the cache writes the note anew."""
    file = File("https://a/f", SHA256[:8], None)
    internet.answers["https://a/f"] = CONTENT
    for _ in range(2):
        (tmp_path / f"{file.key}.sha256").write_bytes(note)
        published.download([file], "HELD", tmp_path)
        assert (tmp_path / f"{file.key}.sha256").read_text() == f"{SHA256}\n"


def test_only_what_was_downloaded_is_written_down(internet, tmp_path, monkeypatch):
    """A file of another's that lies in the folder makes no genuine one be refused later."""
    monkeypatch.setenv("HELD", str(tmp_path))
    (tmp_path / "any").write_bytes(CONTENT)
    inside = b"more " + CONTENT
    (tmp_path / "any.zip").write_bytes(zipped(inside))
    cache = tmp_path / "cache"
    packed = File(
        "https://a/f",
        "",
        None,
        (f"sha1:{hashlib.sha1(b'more ' + CONTENT).hexdigest()}",),
        member="f",
    )
    file = File("https://a/f", SHA256[:8], None)
    assert published.download([file, packed], "HELD", cache) == {
        tmp_path / "any": CONTENT,
        tmp_path / "any.zip" / "f": inside,
    }
    assert not cache.exists() and not internet.asked


def test_a_file_unlike_the_first_is_named_with_its_note_and_both_sums(
    internet, tmp_path, monkeypatch
):
    monkeypatch.setenv("HELD", str(tmp_path))
    (tmp_path / "any").write_bytes(CONTENT)
    file, cache = File("https://a/f", SHA256[:8], None), tmp_path / "cache"
    note = cache / f"{file.key}.sha256"
    cache.mkdir()
    note.write_text("0" * 64)
    message = (
        f"any is not the file it was: its SHA-256 is {SHA256}, .* was 0{{64}}; .*remove {note}"
    )
    with pytest.raises(InputError, match=message):
        published.download([file], "HELD", cache)
    internet.answers["https://a/f"] = CONTENT
    with pytest.raises(InputError, match=f"https://a/f is not the file it was: .*{SHA256}"):
        published.download([file], "HELD", cache)


def test_what_else_lies_in_the_folder_is_passed_by(internet, tmp_path, monkeypatch):
    monkeypatch.setenv("HELD", str(tmp_path))
    (tmp_path / "0.zip").symlink_to(tmp_path / "absent")
    (tmp_path / "1.zip").mkdir()
    os.mkfifo(tmp_path / "2.zip")
    with zipfile.ZipFile(tmp_path / "3.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("f", b"another")
    whole = (tmp_path / "3.zip").read_bytes()
    for at in range(len(whole)):
        (tmp_path / f"4-{at}.zip").write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    (tmp_path / "3.zip").unlink()
    (tmp_path / "5.zip").write_bytes(zipped(CONTENT))
    file = File("https://a/f", "", None, (f"sha1:{SHA1}",), member="f")
    paths = list(tmp_path.iterdir())
    (content,) = published.download([file], "HELD", tmp_path / "cache").values()
    assert content == CONTENT and sorted(paths) == sorted(tmp_path.iterdir())


def test_of_a_tar_gz_no_more_is_unpacked_than_a_file_may_have(monkeypatch):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, size in (("before", 2 << 20), ("f", 11)):
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(bytes(size)))
    file = File("https://a/f", "", None, ("sha1:",), member="f")
    assert published._member(out.getvalue(), file) == bytes(11)
    monkeypatch.setattr(published, "_MOST", 1 << 20)
    assert published._member(out.getvalue(), file) == b""


def test_no_redirect_leads_to_http(tmp_path, monkeypatch):
    """Nor to what a proxy for http would fetch."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    asked = []

    def answer(self, url):
        asked.append(url.full_url)
        head = email.message_from_string("Location: http://b/f\n\n")
        answer = urllib.response.addinfourl(io.BytesIO(), head, url.full_url, 302)
        answer.msg = "Found"
        return answer

    monkeypatch.setattr("urllib.request.HTTPSHandler.https_open", answer)
    with pytest.raises(InputError, match="https://a/f cannot be fetched .*unknown url type: http"):
        published.download([File("https://a/f", SHA256, 11)], "HELD", tmp_path)
    assert asked == ["https://a/f"]


def test_a_server_that_drips_is_left(monkeypatch):
    monkeypatch.setattr(published, "_SECONDS", -1.0)
    with pytest.raises(TimeoutError, match="it took over"):
        published._received(io.BytesIO(CONTENT), 100)


def test_mirrors_are_tried_in_turn_and_all_are_named(internet, tmp_path):
    file = File("https://a/f", SHA256, 11, mirrors=("https://b/f", "https://c/f"))
    internet.answers |= {"https://b/f": b"a web page.", "https://c/f": CONTENT}
    assert published.download([file], "HELD", tmp_path) == {tmp_path / file.key: CONTENT}
    assert internet.asked == ["https://a/f", "https://b/f", "https://c/f"]
    del internet.answers["https://c/f"]
    both = r"https://a/f cannot be .*; https://b/f is not .*; https://c/f cannot be fetched"
    with pytest.raises(InputError, match=both):
        published.download([file], "HELD", tmp_path / "empty")


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("f", content)
    return out.getvalue()


def tarred(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        member = tarfile.TarInfo("f")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_file_is_taken_out_of_its_archive(pack, internet, tmp_path, monkeypatch):
    """On the internet and in the folder that the variable names, packed or not."""
    file = File("https://a/f", "", None, (f"sha1:{SHA1}",), member="f")
    internet.answers["https://a/f"] = pack(CONTENT)
    (path,) = published.download([file], "HELD", tmp_path / "1")
    assert path.read_bytes() == CONTENT
    for held, content in (("f.zip" if pack is zipped else "f.tar.gz", pack(CONTENT)),
                          ("any", CONTENT)):  # fmt: skip
        folder = tmp_path / held
        folder.mkdir()
        (folder / "0.zip").write_bytes(b"PK\3\4 damaged")
        (folder / "0.tar.gz").write_bytes(b"\x1f\x8b damaged")
        (folder / held).write_bytes(content)
        monkeypatch.setenv("HELD", str(folder))
        (content,) = published.download([file], "HELD", tmp_path / f"cache-{held}").values()
        assert content == CONTENT
    monkeypatch.delenv("HELD")
    assert internet.asked == ["https://a/f"]
    for bad in (pack(CONTENT)[:-30], pack(b"another"), pack(bytes(100 << 20)), b"PK", b"\x1f\x8b",
                b""):  # fmt: skip
        internet.answers["https://a/f"] = bad
        with pytest.raises(InputError, match="https://a/f is not the file it was"):
            published.download([file], "HELD", tmp_path / "2")
    sealed = dataclasses.replace(file, archive_sha256="0" * 64)
    internet.answers["https://a/f"] = pack(CONTENT)
    with pytest.raises(InputError, match="https://a/f is not the file it was"):
        published.download([sealed], "HELD", tmp_path / "2")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_of_numpy_are_read_from_a_pickle_without_unpickling(protocol):
    rng = np.random.default_rng(0)
    arrays = [rng.random((2, 3, 4)).astype(kind) for kind in ("<f4", "<f2", "<f8")]
    arrays.append(np.asfortranarray(arrays[0]))
    found = pickles.load(io.BytesIO(pickle.dumps({"layer": arrays}, protocol)))
    if protocol == 2:  # as text, by a function of codecs
        with pytest.raises(ValueError, match="another thing than an array"):
            pickles.numpy_array(found["layer"][0])
        return
    for array, value in zip(arrays, found["layer"], strict=True):
        np.testing.assert_array_equal(pickles.numpy_array(value), array)
    for wrong in (np.arange(3), np.array([None]), arrays[0].astype(">f4"), 3, "text"):
        value = pickles.load(io.BytesIO(pickle.dumps(wrong, protocol)))
        with pytest.raises(ValueError, match="another thing than an array"):
            pickles.numpy_array(value)


def test_the_package_index_holds_caffe_s_squeezenet_1_1(caffe_1_1):
    arrays = loading.variables(caffe_1_1)
    assert sum(array.size for name, array in arrays.items() if "dropout" not in name) == 1_235_496
    assert arrays["model/conv1/kernel"].dtype == np.float32


def test_it_equals_ncnn_s_file_to_float16(caffe_1_1, shared):
    folder = shared / "weights"
    paths = [folder / f"squeezenet_v1.1.caffe.ncnn.{end}" for end in ("param", "bin")]
    contents = [path.read_bytes() for path in paths]
    half, _ = importing.read("ncnn", contents, PUBLISHED["squeezenet_v1_1"].config(), "file")
    whole = loading.variables(caffe_1_1)
    for name, array in half.items():
        np.testing.assert_allclose(array, whole[name], rtol=2**-10, atol=2**-24)
