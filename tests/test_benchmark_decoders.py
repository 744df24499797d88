"""Tests for `../scripts/benchmarks/decoders.py`: all decoders read the same crops."""

from scripts.benchmarks import decoders
from tests import tiny


def test_decoders_read_the_same_crops(tmp_path, capsys, monkeypatch):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(tiny.jpeg(number, 1, side=40 + number))

    def missing():
        raise ModuleNotFoundError("No module named 'simplejpeg'")

    libraries = (decoders.tensorflow, decoders.pillow, missing)
    monkeypatch.setattr(decoders, "LIBRARIES", libraries)
    monkeypatch.setattr(decoders, "SIZE", 5)  # crops of 10 pixels are decoded at half their size
    assert decoders.main(["decoders", str(tmp_path), "--rounds=1"]) == 0
    out, err = capsys.readouterr()
    rows = {line.split(" | ")[0]: line.split(" | ")[-1] for line in out.splitlines()}
    assert rows["| TensorFlow"] == rows["| TensorFlow, crop"] == "0.00 |"
    assert rows["| Pillow, scaled"] == " |"
    assert "missing is left out: No module named 'simplejpeg'" in err


def test_crops_lie_within_their_images():
    jpegs = [tiny.jpeg(number, 1, side=500) for number in range(20)]
    found = decoders.crops(jpegs, 0.08)
    for (top, left, height, width), scale in found:
        assert 0 <= top <= 500 - height and 0 <= left <= 500 - width
        assert scale == (2 if min(height, width) >= 2 * decoders.SIZE else 1)
    assert len({box for box, _ in found}) == 20


def test_a_folder_without_jpegs_is_refused(tmp_path, capsys):
    assert decoders.main(["decoders", str(tmp_path)]) == 2
    assert "A folder of JPEGs is missing" in capsys.readouterr().err
