"""What `pip install .` puts where: everything under the one package."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

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
                   "datasets/imagenet_2012_validation_synsets.txt"):  # fmt: skip
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
from squeezenext import config_io, predictor
folder = pathlib.Path(squeezenext.datasets.__file__).parent
for path in sorted(folder.glob("*.py")):
    importlib.import_module(f"squeezenext.datasets.{path.stem}")
assert config_io.load("squeezenet_v1_1").model.classes == 1000
assert not {"datasets", "configs", "tensorflow"} & set(sys.modules)
print(len(config_io.names()), folder)
"""
    environment = os.environ | {"PYTHONPATH": str(target)}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment,
                            capture_output=True, text=True, timeout=120)  # fmt: skip
    assert result.returncode == 0, result.stderr
    count, folder = result.stdout.split()
    assert int(count) == len(list((REPOSITORY / "configs").glob("[!_]*.py")))
    assert folder == str(target / "squeezenext" / "datasets")


def test_every_command_exists():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    for name, place in scripts.items():
        module, function = place.split(":")
        assert name.startswith("squeezenext-")
        tree = ast.parse((REPOSITORY / f"{module.replace('.', '/')}.py").read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


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
