"""Tests for `scripts/api.py`: the public Python API, its signatures and its pages."""

import importlib
import inspect
import subprocess
import sys
import tomllib

import pytest

from scripts import api
from tests.conftest import REPOSITORY

NAMES = [(module, name) for module, names in api.PUBLIC.items() for name in names]


def test_names_and_signatures_are_those_of_the_list():
    """After a change that CHANGELOG.md tells: python scripts/api.py > tests/public_api.txt."""
    wanted = (REPOSITORY / "tests" / "public_api.txt").read_text().splitlines()
    assert api.signatures() == wanted


def test_the_pages_are_built_without_a_warning_and_without_tensorflow(tmp_path):
    code = (
        "import sys; from scripts import api; api.main(sys.argv); "
        "assert not {'keras', 'tensorflow'} & sys.modules.keys()"
    )
    command = [sys.executable, "-W", "always", "-c", code, tmp_path / "api"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "api" / "search.js").stat().st_size > 10_000
    for module, names in api.PUBLIC.items():
        page = (tmp_path / "api" / f"{module.replace('.', '/')}.html").read_text()
        assert not [name for name in names if f'<section id="{name}">' not in page]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_each_name_has_a_sentence_and_types(module, name):
    value = getattr(importlib.import_module(module), name)
    if not callable(value):
        return  # a constant, whose type says what it is
    first = (inspect.getdoc(value) or "").partition("\n")[0]
    assert len(first.split()) > 2 and first.endswith("."), first
    source = inspect.getsourcefile(inspect.unwrap(value))
    files = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    assert any(source.startswith(str(REPOSITORY / file)) for file in files), source


def test_the_reference_names_each_module():
    text = (REPOSITORY / "docs" / "reference.md").read_text()
    assert not [module for module in api.PUBLIC if f"`{module}`" not in text]
