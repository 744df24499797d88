"""The short form of `../scripts/faults/fuzz_decoders.py`: a thousand damaged files."""

import pytest

from scripts.faults import fuzz_decoders
from squeezenext.errors import SomeInputsFailed


def test_no_damaged_file_makes_a_reader_fail(tmp_path):
    rows = fuzz_decoders.fuzz(120, 1, tmp_path / "failure", short=True)
    assert sum(refused + read for _, refused, read in rows) > 1000
    for name, refused, read in rows:
        assert refused > (refused + read) / 2, name  # most damage is seen


def test_no_damaged_image_makes_a_decoder_fail(tmp_path):
    rows = fuzz_decoders.fuzz(60, 1, tmp_path / "failure", fuzz_decoders.images())
    assert len(rows) >= 10
    for name, refused, read in rows:
        assert refused and read, name


def test_the_fuzzer_sees_a_reader_that_fails(tmp_path, monkeypatch):
    """Its case is told and its file kept."""

    def broken(kind, contents, config, source):
        raise IndexError("out of range")

    monkeypatch.setattr(fuzz_decoders.importing, "read", broken)
    with pytest.raises(SomeInputsFailed, match="IndexError"):
        fuzz_decoders.fuzz(1, 0, tmp_path / "failure")
    assert (tmp_path / "failure").is_file()
