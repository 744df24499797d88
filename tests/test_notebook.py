"""`docs/notebook.ipynb`, followed cell by cell with a tiny zip, and without Jupyter."""

import json
import sys
import types
import zipfile
from pathlib import Path

from squeezenext.adapt import plan as planning
from tests import tiny
from tests.conftest import REPOSITORY

NOTEBOOK = json.loads((REPOSITORY / "docs" / "notebook.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
SMALLER = {  # a network that learns in a second, and no .sqz file
    "MINUTES = 4 ": "MINUTES = 0.001 ",
    "minutes=MINUTES)": 'minutes=MINUTES, configuration="first", max_bytes=0)',
}


def test_a_zip_of_photographs_becomes_a_model_and_its_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()  # beside the package, as in a clone
    (tmp_path / "squeezenext").symlink_to(REPOSITORY / "squeezenext")
    monkeypatch.chdir(tmp_path / "docs")
    monkeypatch.setattr(sys, "path", list(sys.path))
    tiny.model_directory(Path("first"), tiny.SQUEEZENET)
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for number in range(24):
            archive.writestr(f"n{number % 2 + 1}/{number}.jpg", tiny.jpeg(number, number % 2 + 1))
    monkeypatch.setattr(planning, "LEAST_STEPS", 2)
    shown = []
    jupyter = types.SimpleNamespace(HTML=str, display=shown.append)  # stands for IPython.display
    monkeypatch.setitem(sys.modules, "IPython.display", jupyter)
    text = "\n".join(CODE)
    for words, fewer in SMALLER.items():
        assert text.count(words) == 1
        text = text.replace(words, fewer)
    exec(compile(text, "notebook.ipynb", "exec"), {"__name__": "__main__"})
    (page,) = shown
    assert page.startswith("<div><iframe srcdoc=") and "Reliability" in page
    told = capsys.readouterr().out
    assert "photographs that were not trained on" in told and told.count("%") >= 4
    with zipfile.ZipFile("exported.zip") as made:
        assert {"model-float32.tflite", "model-int8.tflite"} <= set(made.namelist())


def test_it_holds_no_outputs_and_no_program_but_python():
    assert NOTEBOOK["nbformat"] == 4 and CODE
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count") and cell["id"]
    assert not [line for text in CODE for line in text.splitlines() if line[:1] in ("%", "!")]
