"""The short form of `../scripts/faults/fuzz_model_dirs.py`: two hundred damaged directories."""

import pytest

from scripts.faults import fuzz_model_dirs
from squeezenext.errors import SomeInputsFailed


def test_no_damaged_directory_makes_a_command_fail():
    outcomes = fuzz_model_dirs.fuzz(200, 1)
    assert sum(outcomes.values()) == 4 * 200
    for way in fuzz_model_dirs.WAYS:
        assert outcomes[f"{way} refused"] > 30 and outcomes[f"{way} used"] > 30, way


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (lambda folder: 1 / 0, "ZeroDivisionError"),
        (lambda folder: (folder.parent / "home/.bashrc").write_text("x"), "file of the user's"),
    ],
)
def test_the_fuzzer_sees_a_way_that_fails(monkeypatch, way, message):
    monkeypatch.setattr(fuzz_model_dirs, "WAYS", {"broken": way})
    with pytest.raises(SomeInputsFailed, match=message):
        fuzz_model_dirs.fuzz(1, 0)
