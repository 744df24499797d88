"""Tests for formats/kinds.py, through what a user meets: a model that is something else."""

import io
import zipfile

import numpy as np
import pytest

from squeezenext import predict
from squeezenext.errors import InputError
from squeezenext.formats import kinds
from squeezenext.model import loading
from squeezenext.predict import predictor
from tests import torch_files


def zip_of(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return file.getvalue()


FILES = {
    "photo.jpg": (b"\xff\xd8\xff\xe0", "an image; predict takes it as an argument"),
    "photo.webp": (b"RIFF\1\0\0\0WEBPVP8 ", "an image; "),
    "photo.heic": (b"\0\0\0\x18ftypheic", "an image; "),
    "IMG_1.MOV": (b"\0\0\0\x14ftypqt  ", "a film; save single images of it as JPEG"),
    "m.onnx": (b"\x08\x08\x12\x0bsqueezenext", "an ONNX file; it is for other programs"),
    "plain.pth": (torch_files.pth_of({"a": np.zeros(3)}), "a PyTorch file; python -m squeezenext"),
    "old.pth": (torch_files.pth_of({"a": np.zeros(3)}, old=True), "a pickle, as old PyTorch files"),
    "a.safetensors": (torch_files.safetensors_of({"a": np.zeros(3, "f4")}), "a safetensors file; "),
    "m.keras": (zip_of("config.json", "model.weights.h5"), "a Keras file; it is for other"),
    "weights.h5": (b"\x89HDF\r\n", "an HDF5 file"),
    "state.npz": (zip_of("a.npy"), "a NumPy archive"),
    "all.zip": (zip_of("a/config.json"), "a zip archive; unpack it first"),
    "cut.zip": (zip_of("a")[:20], "a damaged zip archive"),
    "m.param": (b"7767517\n", "an ncnn .param file; python -m squeezenext.weights import"),
    "a.caffemodel": (b"\x0a\0\1", "a Caffe file; python -m squeezenext.weights import"),
    "m.bin": (b"\x1c\0\0\0TFL3", r"a LiteRT file; rename it to m\.tflite\."),
    "noending": (b"\x89SQZ\r\n", r"a \.sqz file; rename it to noending\.sqz\."),
    "page.pth": (b"<!DOCTYPE html>", "a web page; a page was saved instead of the file"),
    "lfs.pth": (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer; "),
    "config.json": (b'{"model": 1}', "a JSON file"),
    "notes.txt": (b"hello", "a text file"),
    "nothing": (b"", "an empty file"),
    "noise": (bytes(100), "a file of an unknown kind"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model_is_named_with_what_takes_it(tmp_path, name):
    content, words = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is no model directory, but {words}"):
        loading.load(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is no model directory, but {words}"):
        loading.load_runnable(tmp_path / name)


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("photo.jpg", "a folder of images; predict takes it as an argument"),
        ("manifest.json", "a folder of records; train and evaluate take it as --data_dir"),
        ("saved_model.pb", "a SavedModel; it is for other programs"),
        ("META.json", "a checkpoint; name the model directory"),
        ("step-00000010/META.json", "a folder of checkpoints; name "),
        ("mine/config.json", "a folder with the model mine in it; name .*mine"),
        ("a.doc", "a folder of other things"),
        ("", "an empty folder"),
    ],
)
def test_a_folder_that_is_no_model_directory_is_named(tmp_path, inside, words):
    folder = tmp_path / "given"
    folder.mkdir()
    if inside:
        (folder / inside).parent.mkdir(exist_ok=True)
        (folder / inside).touch()
    with pytest.raises(InputError, match=f"is not a model directory: .* It is {words}"):
        loading.load_runnable(folder)


def test_the_command_s_own_words(tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(FILES["m.onnx"][0])
    assert predict.main(["predict", "a.jpg", "--model_dir", str(tmp_path / "m.onnx")]) == 2
    assert "m.onnx is no model directory, but an ONNX file" in capsys.readouterr().err
    (tmp_path / "m.onnx").rename(tmp_path / "m.tflite")
    assert predict.main(["predict", "a.jpg", "--model_dir", str(tmp_path / "m.tflite")]) == 2
    assert "was not exported by this program" in (told := capsys.readouterr().err)
    assert "It is an ONNX file" in told
    (tmp_path / "m.tflite").write_bytes(FILES["noending"][0])
    assert predict.main(["predict", "a.jpg", "--model_dir", str(tmp_path / "m.tflite")]) == 2
    assert "is no LiteRT file, but a .sqz file; rename it to m.sqz." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m.onnx", "It is an ONNX file; it is for other programs"),
        ("plain.pth", "It is a PyTorch file; python -m squeezenext.weights import"),
        ("m.bin", "It is a LiteRT file; predict and evaluate take it as --model_dir"),
        ("lfs.pth", "It is a Git LFS pointer"),
        ("notes.txt", r"no JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF or HEIC image\.$"),
        ("photo.jpg", r"\(.*\)\.$|damaged"),
    ],
)
def test_a_model_in_the_place_of_an_image_is_named(tmp_path, name, words):
    (tmp_path / name).write_bytes(FILES[name][0])
    with pytest.raises(InputError, match=words):
        predictor.read(tmp_path / name)


def test_a_zip_of_a_million_names_is_not_listed(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(30):
            archive.writestr(f"{number}.npy", b"")
    assert kinds.described(tmp_path / "a.zip").startswith("a NumPy archive")
    monkeypatch.setattr(kinds, "MAX_ENTRIES", 29)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # whose every entry is an object
    assert kinds.described(tmp_path / "a.zip").startswith("a zip archive")
    assert kinds.of_bytes((tmp_path / "a.zip").read_bytes()).startswith("a zip archive")


def test_what_is_no_file_is_not_opened():
    assert kinds.described(__import__("pathlib").Path("/dev/zero")).startswith("no regular file")
