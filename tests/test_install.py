"""What `pip install .` puts where: everything under the one package."""

import ast
import email
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement

from tests import imagenet_archives
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built of the sdist of a copy by the installed setuptools, without a network."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("squeezenext", "configs", "datasets"):
        shutil.copytree(REPOSITORY / name, copy / name,
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for path in (REPOSITORY / "pyproject.toml", REPOSITORY / "README.md", REPOSITORY / "LICENSE",
                 *REPOSITORY.glob("requirements*.txt")):  # fmt: skip
        shutil.copy(path, copy)
    code = "import sys; from setuptools import build_meta as m; m.build_{}(sys.argv[1])"

    def build(kind, source):
        subprocess.run([sys.executable, "-c", code.format(kind), copy], cwd=source, check=True,
                       capture_output=True, timeout=120)  # fmt: skip

    build("sdist", copy)
    (sdist,) = copy.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(copy / "sdist", filter="data")
    build("wheel", copy / "sdist" / sdist.name.removesuffix(".tar.gz"))
    (path,) = copy.glob("*.whl")
    return path


def test_nothing_lands_beside_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"squeezenext"}
    ours = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "squeezenext").rglob("*")
            if path.is_file() and path.suffix != ".pyc"}  # fmt: skip
    for folder in ("configs", "datasets"):
        ours |= {f"squeezenext/{folder}/{path.name}" for path in (REPOSITORY / folder).glob("*.py")}
    assert set(map(str, ours)) <= set(names)


def test_the_package_is_light_and_its_extras_are_the_requirements_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
        scripts = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "squeezenext = squeezenext.__main__:main\n" in scripts
    extras = metadata.get_all("Provides-Extra")
    files = {path.stem.removeprefix("requirements-"): path.name
             for path in REPOSITORY.glob("requirements-*.txt")}  # fmt: skip
    assert set(extras) == files.keys() - {"predict", "dev"}
    needed = metadata.get_all("Requires-Dist")
    assert parsed(x for x in needed if "extra ==" not in x) == parsed(
        requirements("requirements-predict.txt")
    )
    for extra in extras:
        wanted = requirements(files[extra])
        if extra == "cuda":
            wanted |= requirements("requirements-train.txt")
        assert parsed(x for x in needed if f'extra == "{extra}"' in x) == parsed(wanted), extra


def parsed(lines):
    """Requirements without their markers, which the metadata joins with that of the extra."""
    return {Requirement(line.partition(";")[0]) for line in lines}


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
    """The lines of a requirements file, and of those that it names, that name a distribution."""
    lines = (REPOSITORY / name).read_text().splitlines()
    more = [requirements(line.split()[1]) for line in lines if line.startswith("-r ")]
    return {line for line in lines if line[:1].isalpha()}.union(*more)


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
from squeezenext.__main__ import main
sys.exit(main())
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
    (tmp_path / "squeezenext").write_text(ALONE)  # stands for the entry point

    def run(*arguments):
        return subprocess.run([sys.executable, "squeezenext", *arguments], cwd=tmp_path,
                              env=environment, input="\n".join(named), capture_output=True,
                              text=True, timeout=120)  # fmt: skip

    arguments = "0.png 1.png --model_dir=squeezenet_v1_1 --features=x.npy --explain=x".split()
    result = run("predict", *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("%") == 10 and len(list((tmp_path / "x").iterdir())) == 2
    result = run("adapt", "photos")
    assert (result.returncode, result.stdout) == (2, "")
    assert "is not installed" in result.stderr and len(result.stderr.splitlines()) == 1
    assert result.stderr.endswith(f'type: {sys.executable} -m pip install "squeezenext[train]"\n')


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
    constraints = dict(line.split("==") for line in requirements("constraints.txt"))
    for lock, wanted in {
        "requirements.lock": ("requirements.txt", "requirements-heic.txt"),
        "requirements-dev.lock": ("requirements.txt", "requirements-dev.txt"),
    }.items():  # fmt: skip
        text = (REPOSITORY / lock).read_text()
        packages = re.findall(r"^([\w.-]+)==(\S+)[^\n]*\\\n    --hash=sha256:", text, re.MULTILINE)
        assert len(packages) == len(re.findall(r"^\w", text, re.MULTILINE)), "one lacks its hashes"
        names = {re.split(r"[<>=\[]", line)[0] for file in wanted for line in requirements(file)}
        assert names <= {name for name, _ in packages}
        for name, version in packages:
            assert constraints.get(name, version) == version


def test_no_range_of_versions_stands_twice():
    lines = [line for path in REPOSITORY.glob("requirements*.txt")
             for line in path.read_text().splitlines() if line[:1].isalpha()]  # fmt: skip
    ranged = [re.split(r"[<>=]", line)[0] for line in lines if re.search("[<>=]", line)]
    assert len(ranged) == len(set(ranged))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert {"dependencies", "optional-dependencies"} <= set(project["dynamic"])


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
    for place in scripts.values():
        module, function = place.split(":")
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
