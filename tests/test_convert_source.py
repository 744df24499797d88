"""Sources that are strange, reached by other ways, or change: nothing of the user's is lost."""

import os

import pytest

from datasets import convert as command
from datasets.convert import convert
from squeezenext import records
from squeezenext.errors import InputError
from tests.imagenet_archives import jpeg
from tests.test_convert import FOLDER, hashes


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


TFRECORD = FOLDER | {"layout": "tfrecord"}


@pytest.fixture
def slim(photos, tmp_path):
    """Shards as another program would leave them, two of training and one of validation."""
    convert(photos, tmp_path / "made", **FOLDER, train_shards=2)
    (tmp_path / "slim").mkdir()
    for shard in (tmp_path / "made").glob("*-of-*"):
        shard.rename(tmp_path / "slim" / shard.name)
    return tmp_path / "slim"


def test_symbolic_links_to_shards_are_followed(slim, tmp_path):
    """A relative one, and absolute ones: what is made holds the shards themselves."""
    view = tmp_path / "view"
    view.mkdir()
    for number, shard in enumerate(sorted(slim.iterdir())):
        target = shard if number else os.path.relpath(shard, view)
        (view / shard.name).symlink_to(target)
    convert(view, tmp_path / "out", **TFRECORD)
    for shard in slim.iterdir():
        assert not (tmp_path / "out" / shard.name).is_symlink()
        assert (tmp_path / "out" / shard.name).samefile(shard)
    records.check_shards(records.load_manifest(tmp_path / "out"))


@pytest.mark.parametrize("size", [None, 100])
def test_what_is_said_of_a_bad_shard_of_a_finished_set_helps(photos, tmp_path, size):
    out = tmp_path / "out"
    convert(photos, out, **FOLDER)
    whole = hashes(out)
    shard = out / "train-00000-of-00001"
    os.truncate(shard, size) if size else shard.unlink()
    for _ in range(2):
        with pytest.raises(InputError, match="copy it again, or convert .* with --overwrite"):
            convert(photos, out, **FOLDER)
    convert(photos, out, **FOLDER, overwrite=True)
    assert hashes(out) == whole


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_that_links_of_the_source_lead_to_is_refused(slim, tmp_path, overwrite):
    before = hashes(slim)
    (tmp_path / "view").mkdir()
    for shard in slim.iterdir():
        (tmp_path / "view" / shard.name).symlink_to(f"../slim/{shard.name}")
    with pytest.raises(InputError, match="leads to .*, in --output .*; give --source .*slim, too"):
        convert(tmp_path / "view", slim, **TFRECORD, overwrite=overwrite)
    assert hashes(slim) == before
