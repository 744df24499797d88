"""The commands without what Windows lacks (tests/windows.py): the same bytes as on Linux."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

from squeezenext.convert.command import convert
from squeezenext.convert.digits import write_digits
from squeezenext.convert.options import ConvertOptions
from tests import tiny, windows
from tests.conftest import REPOSITORY

# Calls that Windows lacks, each in a function that asks for it first.
ASKED_FOR = {
    "cli.cores": {"sched_getaffinity"},
    "convert.imagenet_archives.opened": {"POSIX_FADV_RANDOM", "posix_fadvise"},
    "convert.pool._blocked_interrupt": {"SIG_BLOCK", "SIG_SETMASK", "pthread_sigmask"},
    "formats.pytorch_files._limit": {"resource"},
    "tf_import": {"register_at_fork"},
    "tf_import._memory": {"memfd_create"},
}


def test_calls_that_windows_lacks_are_asked_for():
    found: dict[str, set[str]] = {}
    paths = [*(REPOSITORY / "squeezenext").rglob("*.py"), *(REPOSITORY / "datasets").rglob("*.py")]
    for path in [*paths, REPOSITORY / "predict.py"]:
        module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts[1:])
        for node in ast.parse(path.read_text("utf-8")).body:
            names = {name for x in ast.walk(node) for name in _lacking(x)}
            if names:
                place = f"{module}.{node.name}" if hasattr(node, "name") else module
                found.setdefault(place, set()).update(names)
    assert found == ASKED_FOR


def _lacking(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {name.name for name in node.names} & windows.ABSENT
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        module = node.value.id
        return {node.attr} & windows.lacks(module) if module in windows.LACKING else set()
    return set()


def test_text_names_its_encoding_and_its_ends_of_lines():
    """Windows would choose others."""
    for path in (REPOSITORY / "squeezenext").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            call = ast.unparse(node) if isinstance(node, ast.Call) else ""
            called = call.partition("(")[0]
            text = called == "open" and not re.search("'[rwax+]+b[+]?'", call)
            if text or called.endswith((".write_text", ".read_text")) and called[:6] != "files.":
                assert re.search("utf-8|ascii|encoding", call), f"{path}: {call}"
                reads = "read_text" in called or not re.search("'[wa]'|write_text", call)
                assert reads or re.search("newline=|'..n'", call), f"{path}: {call}"


def test_the_stand_in_takes_away_what_windows_lacks():
    assert {"fork", "pread", "writev", "O_NOFOLLOW", "fdatasync"} <= windows.lacks("os")
    assert {"SIGKILL", "SIGHUP", "pthread_sigmask"} <= windows.lacks("signal")
    assert not {"open", "replace", "fsync", "O_CREAT"} & windows.lacks("os")


REFUSED = r"""
import os, sys
from pathlib import Path
from tests import windows
folder = Path(sys.argv[1])
(folder / "a folder").mkdir()
windows.take_away(folder)
from squeezenext import files
assert files.os.name == "nt" and files.pread is files._pread and files.writev is files._writev
files.write_text(folder / "file", "a")  # flushes no folder
(folder / "text").write_text("\u00e4\n")  # as a module that chooses nothing
assert (folder / "text").read_bytes() == b"\xe4\r\n"
held = open(folder / "file")
for refused in (
    lambda: os.open(folder / "a folder", os.O_RDONLY),
    lambda: os.replace(folder / "text", folder / "file"),
    lambda: (folder / "file").unlink(),
    lambda: folder.joinpath("FILE").write_bytes(b""),
    lambda: folder.joinpath("10:30").write_bytes(b""),
    lambda: folder.joinpath("nul.txt").mkdir(),
):
    try:
        refused()
    except OSError:
        continue
    sys.exit(f"line {refused.__code__.co_firstlineno} was allowed")
"""


def test_the_stand_in_refuses_what_windows_refuses(tmp_path):
    line = [sys.executable, "-c", REFUSED, str(tmp_path)]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_commands_leave_the_same_bytes_as_on_linux(tmp_path):
    """Conversion, training with resume, adapt and prediction."""
    digits, left = tmp_path / "digits", []
    write_digits(tmp_path / "all")
    for path in (tmp_path / "all").glob("*/000?.jpg"):
        (digits / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, digits / path.parent.name)
    for name in ("linux", "windows"):
        folder = tmp_path / name
        _photographs(folder / "photos")
        shutil.copytree(digits, folder / "digits")
        tiny.model_directory(folder / "base", tiny.SQUEEZENET)
        left.append(_run(folder, *(["--windows"] if left else [])))
        if name == "linux":  # with a plan of its own the other would measure another speed
            (tmp_path / "windows" / "mine").mkdir(parents=True)
            shutil.copy(folder / "mine" / "adapt.json", tmp_path / "windows" / "mine")
    assert left[0] == left[1]
    assert {"records/manifest.json", "run/final.json", "mine/exported/model-int8.tflite"} <= set(
        left[0]
    )


def _photographs(folder):
    for label in (1, 2):
        for split, count in (("train", 32), ("validation", 4)):
            inside = folder / split / f"n{label}"
            inside.mkdir(parents=True)
            for number in range(count):
                seed = 100 * label + 10_000 * (split == "train") + number
                (inside / f"{number}.jpg").write_bytes(tiny.jpeg(seed, label))


def _run(folder, *arguments: str) -> dict[str, str]:
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "CUDA_VISIBLE_DEVICES": "-1"}
    line = [sys.executable, "-m", "tests.windows", str(folder), *arguments]
    done = subprocess.run(line, cwd=REPOSITORY, env=environment, capture_output=True, text=True,
                          timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_classes_whose_names_differ_in_case_alone_stay_apart(tmp_path):
    """An archive can hold them where no folder can; no output file is named after a class."""
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for label, name in enumerate(("Cat", "cat"), 1):
            for number in range(10):
                archive.writestr(f"{name}/{number}.jpg", tiny.jpeg(100 * label + number, label))
    options = ConvertOptions(layout="folder", workers=1)
    manifest = convert(tmp_path / "photos.zip", tmp_path / "records", options, print).raw
    assert [row["synset"] for row in manifest["classes"]] == ["Cat", "cat"]
    assert sum(split["examples"] for split in manifest["splits"].values()) == 20
    assert any("'Cat' and 'cat' differ in case" in warning for warning in manifest["warnings"])
    names = [path.name.casefold() for path in (tmp_path / "records").iterdir()]
    assert len(names) == len(set(names)) and "cat" not in names
