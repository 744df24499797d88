"""Says what a file or folder is, by its content, and which command takes it."""

import io
import zipfile
from pathlib import Path
from typing import BinaryIO

MAX_ENTRIES = 100_000  # entries in a zip file
_HEAD = 4096  # bytes that are looked at
_SEARCHED = 1 << 30  # bytes of a zip whose entries are looked at
Kind = tuple[str, str]  # a noun with its article, and what to do
_IMAGE = "an image", "predict takes it as an argument: python -m squeezenext.predict IMAGE"
_IMPORT = "python -m squeezenext.weights import makes a model directory of it"
_EXPORTED = "it is for other programs: name the model directory that it was exported from"
_OTHER = "this program does not read such files"
_UNPACK = "unpack it first"
_PAGE = "a web page", "a page was saved instead of the file: download the file itself"
_POINTER = "a Git LFS pointer", "it stands for the file: run git lfs pull, or download the file"
_LITERT = "a LiteRT file", "predict and evaluate take it as --model_dir FILE.tflite"
_SQZ = "a .sqz file", "predict and export take it as --model_dir FILE.sqz"
_ENDINGS = {_LITERT: ".tflite", _SQZ: ".sqz"}  # by which the commands know these files
_EMPTY = "an empty file", "copy or download it again"
# What files begin with; the number says where.
_MARKS: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"version https://git-lfs", _POINTER),
    (0, b"\xff\xd8\xff", _IMAGE),
    (0, b"\x89PNG", _IMAGE),
    (0, b"GIF8", _IMAGE),
    (0, b"II*\0", _IMAGE),
    (0, b"MM\0*", _IMAGE),
    (8, b"WEBP", _IMAGE),
    (4, b"ftyphei", _IMAGE),
    (4, b"ftypmif1", _IMAGE),
    (4, b"ftypavif", _IMAGE),
    (4, b"ftyp", ("a film", "save single images of it as JPEG")),
    (4, b"TFL3", _LITERT),
    (0, b"\x89SQZ", _SQZ),
    (0, b"\x89HDF", ("an HDF5 file", _OTHER)),
    (0, b"\x93NUMPY", ("a NumPy array", _OTHER)),
    (0, b"\x1f\x8b", ("a file packed by gzip", _UNPACK)),
    (0, b"7z\xbc\xaf", ("a file packed by 7-Zip", _UNPACK)),
    (0, b"Rar!", ("a file packed by RAR", _UNPACK)),
    (257, b"ustar", ("a tar archive", _UNPACK)),
    (0, b"7767517", ("an ncnn .param file", _IMPORT)),
    (0, b"%PDF", ("a PDF document", _OTHER)),
    (0, b"\x80\x02", ("a pickle, as old PyTorch files are", _IMPORT)),
    (0, b"\x80", ("a pickle of Python", _OTHER)),
)  # fmt: skip
_SUFFIXES = {
    ".caffemodel": ("a Caffe file", _IMPORT), ".prototxt": ("a Caffe file", _IMPORT),
    ".net": ("a Deep Compression file", _IMPORT), ".bin": ("an ncnn .bin file", _IMPORT),
}  # fmt: skip
# A file by which a folder is known, and the folder.
_FOLDERS: tuple[tuple[str, Kind], ...] = (
    ("manifest.json", ("a folder of records", "train and evaluate take it as --data_dir")),
    ("saved_model.pb", ("a SavedModel", _EXPORTED)),
    ("META.json", ("a checkpoint", "name the model directory that has checkpoints/ in it")),
    ("runtime", ("an exported page", _EXPORTED)),
)
_IMAGES = (".jpg", ".jpeg", ".png")


def of_bytes(data: bytes) -> str:
    """Returns what a file's content is and what to do: "a web page; a page was saved ..."."""
    return "; ".join(_of_bytes(data))


def hint(data: bytes) -> str:
    """Returns a sentence about a file that is given as an image and is a model, else ""."""
    found = _of_bytes(data)
    is_model = found[1] in (_IMPORT, _EXPORTED) or "--model_dir" in found[1] or found in (_POINTER,)
    return f" It is {'; '.join(found)}." if is_model else ""


def misplaced(data: bytes, is_pytorch: bool) -> str | None:
    """Returns the same of what lies in the place of weights by mistake, None for anything else."""
    found = _of_bytes(data)
    other = data[:2] == b"PK" and not is_pytorch
    return "; ".join(found) if other or found in (_PAGE, _POINTER, _IMAGE, _EMPTY) else None


def _of_bytes(data: bytes, name: str = "") -> Kind:
    head = data[:_HEAD]
    for place, mark, kind in _MARKS:
        if head[place : place + len(mark)] == mark:
            return kind
    if head[:2] == b"PK":
        return _zipped(io.BytesIO(data))
    unknown = ("a file of an unknown kind", _OTHER) if data else _EMPTY
    return _by_form(head) or _SUFFIXES.get(Path(name).suffix, unknown)


def _by_form(head: bytes) -> Kind | None:
    if head[:1] == b"\x08" and head[1:2] > b"\x02" and head[2:3] == b"\x12":  # version, producer
        return "an ONNX file", _EXPORTED
    if head[7:9] == b"\0{":  # the length of a JSON document, and the document
        return "a safetensors file", _IMPORT
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return _PAGE
    if text.startswith((b"{", b"[")):
        return "a JSON file", _OTHER
    if head and not set(head) & set(range(9)):
        return "a text file", _OTHER
    return None


def _zipped(file: BinaryIO) -> Kind:
    try:
        if file.seek(0, io.SEEK_END) > _SEARCHED or _entries(file) > MAX_ENTRIES:
            return "a zip archive", _UNPACK
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return "a damaged zip archive", "copy it again"
    if any(name.endswith("/data.pkl") for name in names):
        return "a PyTorch file", _IMPORT
    if "model.weights.h5" in names:
        return "a Keras file", _EXPORTED
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive", _OTHER
    return "a zip archive", _UNPACK


def _entries(file: BinaryIO) -> int:
    """Returns about how many entries a zip has, without making an object for each."""
    file.seek(0)
    return sum(part.count(b"PK\1\2") for part in iter(lambda: file.read(1 << 20), b""))


def described(path: Path) -> str:
    """Returns what a file or folder is and what to do, as `of_bytes`."""
    try:
        return "; ".join(_folder(path) if path.is_dir() else _file(path))
    except OSError as error:
        return f"a file that cannot be read; {error.strerror}"


def _file(path: Path) -> Kind:
    if not path.is_file():
        return "no regular file", "name a folder or a file"
    with path.open("rb") as file:
        head = file.read(_HEAD)
        kind = _zipped(file) if head[:2] == b"PK" else _of_bytes(head, path.name)
    ending = _ENDINGS.get(kind, path.suffix)
    return kind if ending == path.suffix else (kind[0], f"rename it to {path.stem}{ending}")


def _folder(path: Path) -> Kind:
    inside = sorted(path.iterdir())
    names = {entry.name for entry in inside}
    for name, kind in _FOLDERS:
        if name in names:
            return kind
    if models := [entry.name for entry in inside if (entry / "config.json").is_file()]:
        return f"a folder with the model {models[0]} in it", f"name {path / models[0]}"
    if any(name.startswith("step-") for name in names):
        return "a folder of checkpoints", f"name {path.absolute().parent}"
    if made := [entry for entry in inside if entry.suffix in (".tflite", ".sqz")]:
        return "a folder with files of models", f"name one of them, such as {made[0]}"
    if any(entry.suffix.lower() in _IMAGES for entry in inside):
        return "a folder of images", "predict takes it as an argument"
    return ("a folder of other things", _OTHER) if inside else ("an empty folder", "train into it")
