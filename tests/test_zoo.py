"""Tests for `config/zoo.py`, and for how `model/published.py` recognises and keeps its files."""

import dataclasses
import hashlib
import io
import pickle
import tarfile
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
    """Answers `urlopen` by address, and counts."""

    def __init__(self, answers: dict[str, bytes]):
        self.answers, self.asked = answers, []

    def __call__(self, url, timeout):
        self.asked.append(url)
        if url not in self.answers:
            raise OSError("no route")
        return io.BytesIO(self.answers[url])


@pytest.fixture
def internet(monkeypatch):
    monkeypatch.delenv("HELD", raising=False)
    made = Internet({})
    monkeypatch.setattr("urllib.request.urlopen", made)
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
    assert published.download([file], "HELD", tmp_path) == [path]
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
    assert published.download([file], "HELD", tmp_path)[0].read_bytes() == CONTENT
    whole = File("https://b/f", hashlib.sha256(other).hexdigest(), None)
    internet.answers["https://b/f"] = other
    published.download([whole], "HELD", tmp_path)
    assert len(list(tmp_path.glob("*.sha256"))) == 1  # a whole SHA-256 needs no note


def test_mirrors_are_tried_in_turn_and_all_are_named(internet, tmp_path):
    file = File("https://a/f", SHA256, 11, mirrors=("https://b/f", "https://c/f"))
    internet.answers |= {"https://b/f": b"a web page.", "https://c/f": CONTENT}
    assert published.download([file], "HELD", tmp_path)[0].read_bytes() == CONTENT
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
        (path,) = published.download([file], "HELD", tmp_path / f"cache-{held}")
        assert path.read_bytes() == CONTENT
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
