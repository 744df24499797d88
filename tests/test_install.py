"""What `pip install .` puts where: everything under the one package."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from tests import imagenet_archives
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy by the installed setuptools, without a network."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("squeezenext", "configs", "datasets"):
        shutil.copytree(REPOSITORY / name, copy / name,
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(REPOSITORY / name, copy)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, copy], cwd=copy, check=True, capture_output=True,
                   timeout=120)  # fmt: skip
    (path,) = copy.glob("*.whl")
    return path


def test_nothing_lands_beside_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"squeezenext"}
    for wanted in ("configs/squeezenet_v1_1.py", "datasets/convert.py", "imagenet_classes.txt",
                   "convert/imagenet_2012_validation_synsets.txt"):  # fmt: skip
        assert f"squeezenext/{wanted}" in names
    ours = {path.name for path in (REPOSITORY / "squeezenext").iterdir() if path.is_file()}
    assert {f"squeezenext/{name}" for name in ours} <= set(names)


def test_the_installed_package_works_without_the_repository(wheel, tmp_path):
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    code = """
import importlib, pathlib, sys
import squeezenext.datasets
from squeezenext import predictor
from squeezenext.config import io as config_io
folder = pathlib.Path(squeezenext.datasets.__file__).parent
for path in sorted(folder.glob("*.py")):
    importlib.import_module(f"squeezenext.datasets.{path.stem}")
assert config_io.load("squeezenet_v1_1").model.classes == 1000
assert not {"datasets", "configs", "tensorflow"} & set(sys.modules)
print(len(config_io.configuration_names()), folder)
"""
    environment = os.environ | {"PYTHONPATH": str(target)}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment,
                            capture_output=True, text=True, timeout=120)  # fmt: skip
    assert result.returncode == 0, result.stderr
    count, folder = result.stdout.split()
    assert int(count) == len(list((REPOSITORY / "configs").glob("[!_]*.py")))
    assert folder == str(target / "squeezenext" / "datasets")


def requirements(name: str) -> set[str]:
    """The lines of a requirements file that name a distribution."""
    lines = (REPOSITORY / name).read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


ALONE = """
import importlib.abc, re, sys
from importlib import metadata

def canonical(name):
    return re.sub("[-_.]+", "-", re.match(r"[\\w.-]+", name)[0]).lower()

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

named = metadata.packages_distributions()
wanted, there = set(), [canonical(name) for name in sys.stdin.read().split()]
installed = {canonical(name) for names in named.values() for name in names}
while there:
    wanted.add(name := there.pop())
    needed = [x for x in metadata.requires(name) or () if "extra ==" not in x]
    there += {canonical(x) for x in needed} & installed - wanted
absent = {top for top, names in named.items() if not wanted & {canonical(x) for x in names}}
absent.remove("squeezenext")
assert {"tensorflow", "keras", "scipy"} <= absent and "numpy" not in absent
sys.meta_path.insert(0, Absent())
from squeezenext import predict
sys.exit(predict.main(sys.argv))
"""


def test_prediction_needs_what_its_requirements_name(wheel, shared, tmp_path):
    """Whatever else is installed here is hidden, as in the environment that docs/ship.md makes."""
    named = requirements("requirements-predict.txt")
    assert named < requirements("requirements.txt")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    for number in range(2):
        imagenet_archives.picture(number, 240, 240).save(tmp_path / f"{number}.png")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"),
                                "SQUEEZENEXT_WEIGHTS": str(shared / "weights"),
                                "XDG_CACHE_HOME": str(tmp_path / "cache")}  # fmt: skip
    arguments = ["0.png", "1.png", "--model_dir=squeezenet_v1_1", "--features=x.npy", "--explain=x"]
    result = subprocess.run([sys.executable, "-c", ALONE, *arguments], cwd=tmp_path,
                            env=environment, input="\n".join(named), capture_output=True,
                            text=True, timeout=120)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("%") == 10 and len(list((tmp_path / "x").iterdir())) == 2


@pytest.mark.parametrize("folder", ["plain", "a space, a 'quote' and \"two\"", "$HOME `x` *"])
def test_setup_makes_no_environment_anew_and_says_how_to_enter_it(tmp_path, folder):
    """With a stamp of these requirements there is nothing to install."""
    tmp_path = tmp_path / folder
    (tmp_path / "scripts" / "scripts").mkdir(parents=True)  # where CDPATH would lead
    tmp_path = tmp_path / "repository"
    tmp_path.mkdir()
    for name in ("scripts", "requirements.lock", "constraints.txt"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment["CDPATH"] = f"{tmp_path.parent}/scripts"

    def setup():
        return subprocess.run(["bash", "scripts/setup.sh"], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, timeout=60)  # fmt: skip

    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >>pip.log\n')  # stands for pip
    python.chmod(0o755)
    for _ in range(2):
        done = setup()
        assert done.returncode == 0, done.stderr
        assert done.stdout == "Enter it with: source .venv/bin/activate\n"
    assert (tmp_path / "pip.log").read_text().count("pip install") == 1


def test_the_locks_hold_every_requirement_with_hashes():
    constraints = dict(line.split("==") for line in _lines("constraints.txt"))
    for lock, wanted in {
        "requirements.lock": ("requirements.txt", "requirements-heic.txt"),
        "requirements-dev.lock": ("requirements.txt", "requirements-dev.txt"),
    }.items():  # fmt: skip
        text = (REPOSITORY / lock).read_text()
        packages = re.findall(r"^([\w.-]+)==(\S+)[^\n]*\\\n    --hash=sha256:", text, re.MULTILINE)
        assert len(packages) == len(re.findall(r"^\w", text, re.MULTILINE)), "one lacks its hashes"
        names = {re.split(r"[<>=]", line)[0] for file in wanted for line in _lines(file)}
        assert names <= {name for name, _ in packages}
        for name, version in packages:
            assert constraints.get(name, version) == version


def _lines(file):
    """The packages of a requirements file."""
    text = (REPOSITORY / file).read_text()
    return [line for line in text.splitlines() if line[:1].isalpha()]


def test_the_extra_for_gpus_has_the_tensorflow_of_the_requirements():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (extra,) = project["optional-dependencies"]["cuda"]
    assert extra.replace("[and-cuda]", "") in requirements("requirements.txt")
    assert extra in (REPOSITORY / "scripts" / "setup.sh").read_text()


def test_the_extra_for_heic_is_what_setup_brings():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]["heic"]) == requirements("requirements-heic.txt")


@pytest.mark.parametrize("name", ["mine", "a:b"])
def test_setup_removes_nothing_that_it_did_not_make(tmp_path, name):
    """An active environment whose Python is gone may hold anything."""
    mine = tmp_path / name / "work"
    mine.mkdir(parents=True)
    environment = os.environ | {"VIRTUAL_ENV": str(mine.parent)}
    done = subprocess.run(["bash", REPOSITORY / "scripts" / "setup.sh"], cwd=tmp_path,
                          env=environment, capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 2 and "has no bin/python; deactivate it." in done.stderr
    assert mine.is_dir()


def test_every_command_exists():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    for name, place in scripts.items():
        module, function = place.split(":")
        assert name.startswith("squeezenext-")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "datasets").glob("*.py")), ids=lambda p: p.stem
)
def test_datasets_name_each_other_relatively(path):
    """Else they work in the clone, where `datasets` is on the path, and fail where installed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] not in ("datasets", "configs"), path
        elif isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & {"datasets", "configs"}
