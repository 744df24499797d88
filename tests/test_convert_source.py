"""Sources that are strange, reached by other ways, or change: nothing of the user's is lost."""

import pytest

from datasets import convert as command
from datasets.convert import convert
from tests.imagenet_archives import jpeg
from tests.test_convert import FOLDER


@pytest.fixture
def photos(tmp_path):
    for base, name in ((0, "cat"), (100, "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(6):
            (tmp_path / "photos" / name / f"{n}.jpg").write_bytes(jpeg(base + n))
    return tmp_path / "photos"


def test_a_name_cannot_forge_a_line_of_the_report(photos, tmp_path, capsys):
    (photos / "cat" / "x.\n\x1b[2Jrejected: all is well").write_text("x")
    command.report(convert(photos, tmp_path / "out", **FOLDER))
    said = capsys.readouterr().err
    assert "\x1b" not in said and said.count("\n") == 2
    assert r"\n\x1b[2jrejected: all is well" in said
