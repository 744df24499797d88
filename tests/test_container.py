"""Tests for `Dockerfile` and `.dockerignore`, which no machine here can build."""

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

from tests.conftest import REPOSITORY

LINES = re.sub(r"\\\n|^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.M).splitlines()
STEPS = [(line.split()[0], shlex.split(line)[1:]) for line in LINES if line]
IGNORED = (REPOSITORY / ".dockerignore").read_text().split()


def copied():
    """What the stage of the environment copies from the repository."""
    sources = [words[:-1] for step, words in STEPS if step == "COPY" and "--from" not in words[0]]
    return {path for words in sources for word in words for path in REPOSITORY.glob(word)}


def test_what_is_copied_is_there_and_nothing_else_is_sent():
    sources = [words[:-1] for step, words in STEPS if step == "COPY" and "--from" not in words[0]]
    assert all(any(REPOSITORY.glob(word)) for words in sources for word in words)
    assert IGNORED[0] == "*"
    kept = [line[1:] for line in IGNORED if line[0] == "!"]
    sent = {x for x in REPOSITORY.iterdir() if any(fnmatch.fnmatch(x.name, word) for word in kept)}
    assert sent == copied()


def test_what_is_installed_is_copied_before():
    """Each requirements file of a `pip install`, and what pyproject.toml reads."""
    names = {path.name for path in copied()}
    words = {word for step, words in STEPS if step == "RUN" for word in words}
    assert {word.rstrip("}") for word in words if word.startswith("requirements")} <= names
    tool = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    dynamic = tool["dynamic"]
    read = [dynamic["dependencies"], *dynamic["optional-dependencies"].values()]
    assert {name for one in read for name in one["file"]} <= names
    assert {*tool["package-dir"].values(), "squeezenext", "README.md", "LICENSE"} <= names
    assert re.search(r"^setuptools==", (REPOSITORY / "requirements.lock").read_text(), re.M)


def test_the_copy_alone_makes_the_package(tmp_path):
    for path in copied():
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / path.name)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=tmp_path, check=True,
                   capture_output=True, timeout=120)  # fmt: skip
    assert any(tmp_path.glob("squeezenext-*.whl"))


def test_its_user_is_not_root_and_its_words_are_commands():
    last = dict(STEPS[max(i for i, (step, _) in enumerate(STEPS) if step == "FROM") :])
    assert last["USER"] != ["0"] and last["USER"][0].split(":")[0].isdigit()
    assert last["ENTRYPOINT"] == ["[squeezenext]"]
    assert all(":" in words[0] or words[0].isalpha() or words[0] == "${BASE}"
               for step, words in STEPS if step == "FROM")  # fmt: skip
