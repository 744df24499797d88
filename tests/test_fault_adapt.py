"""Tests for `../scripts/faults/adapt.py`: adapt, killed, ends as if nothing had happened."""

import functools
from pathlib import Path

import pytest

from scripts.faults import adapt as fault_adapt
from squeezenext.errors import SomeInputsFailed
from squeezenext.model import directory as model_directory
from tests import tiny


def _published(folder: Path) -> None:
    """In a process of its own: a model directory counts as a published model."""
    from squeezenext.adapt import command
    from squeezenext.config import io as config_io
    from squeezenext.config import zoo

    command.PUBLISHED[str(folder)] = zoo.Published("", (), "", str(folder))
    config_io.load = lambda name: config_io.read(Path(name) / "config.json")


def test_killed_in_training_and_in_export_it_ends_as_undisturbed(tmp_path):
    """With its own plan the first time, which has to be made before TensorFlow is bound."""
    tiny.model_directory(base := tmp_path / "base", tiny.SQUEEZENET)
    for label in (1, 2):
        for split, count in (("train", 32), ("validation", 4)):
            folder = tmp_path / "photos" / split / f"n{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                image = tiny.jpeg(100 * label + 10_000 * (split == "train") + number, label)
                (folder / f"{number}.jpg").write_bytes(image)
    arguments = [str(tmp_path / "photos"), "--configuration", str(base), "--minutes", "0.001"]
    bench = fault_adapt.Bench(tmp_path, arguments, functools.partial(_published, base))
    whole = bench.finish("undisturbed")
    assert {"adapt.json", "scores.json", "MODEL_CARD.md", "model.tflite", "final.json",
            "exported/model-int8.tflite", "exported/model.sqz"} <= set(whole)  # fmt: skip
    made = {path.name for path in bench.place("undisturbed").iterdir() if path.is_dir()}
    others = {model_directory.WORKERS, model_directory.DOWNLOADED, model_directory.ASIDE}
    assert made == set(model_directory.FOLDERS) - others  # it knows them all
    fault_adapt.both(bench, whole)
    with pytest.raises(SomeInputsFailed, match=r"not as undisturbed: model\.tflite"):
        fault_adapt.check("killed", whole, whole | {"model.tflite": "another"})
