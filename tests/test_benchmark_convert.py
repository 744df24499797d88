"""The benchmark itself: its archives are official in form, and its figures are of real runs."""

import pytest

from scripts.benchmarks import convert as benchmark_convert


@pytest.mark.skipif(not benchmark_convert.IMAGES.is_file(), reason="../shared is absent")
def test_measures_ours_and_a_copy(tmp_path):
    source = tmp_path / "source"
    images = benchmark_convert.make_archives(source, 21_000_000)
    assert images == 200
    size = (source / benchmark_convert.TRAIN).stat().st_size
    assert 20_000_000 < size < 22_000_000
    for work in (benchmark_convert.ours, benchmark_convert.copied):
        row = benchmark_convert._timed(work, source, tmp_path / "output", images)
        megabytes, per_second = row["megabytes_per_second"], row["images_per_second"]
        rounded = 0.05 / megabytes + 0.05 / per_second  # much, if the machine is busy
        assert megabytes / per_second == pytest.approx(size / 1e6 / images, rel=0.01 + rounded)
        assert row["images_per_second"] == pytest.approx(images / row["seconds"], rel=0.4)
        assert not (tmp_path / "output").exists()
    assert (
        benchmark_convert.ours(source, tmp_path / "output")[0] > 30e6
    )  # Python's memory, in bytes


def test_a_failing_command_is_told(tmp_path):
    with pytest.raises(benchmark_convert.InputError, match="is no folder"):
        benchmark_convert.ours(tmp_path / "absent", tmp_path / "output")


def test_the_table():
    row = {"images_per_second": 90.0, "megabytes_per_second": 40.0, "seconds": 1, "peak": 1}
    other = row | {"images_per_second": 30.0, "megabytes_per_second": 80.0}
    text = benchmark_convert.table({"ours": row | {"rounds": []}, "cp": other, "theirs": other})
    assert "| ours | 90 | 40 | 1 | 1 |" in text
    assert text.endswith("50% of cp's MB/s; 3.0 times the predecessor's images/s")
