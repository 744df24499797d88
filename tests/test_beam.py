"""The Beam runner: the same bytes as the local one, however its elements are retried."""

import sys

import pytest

from squeezenext.convert import folder, plan, review, shards
from squeezenext.convert.options import ConvertOptions
from squeezenext.errors import InputError, RunAgain
from squeezenext.predict import parts
from tests.converting import convert
from tests.imagenet_archives import class_folders
from tests.test_convert import hashes

OPTIONS = {"layout": "folder", "workers": 1, "show_progress": False, "train_shards": 5}


@pytest.fixture
def photos(tmp_path):
    return class_folders(tmp_path / "photos", 15)


def test_the_same_bytes_as_the_local_run(photos, tmp_path):
    pytest.importorskip("apache_beam")
    convert(photos, tmp_path / "local", **OPTIONS)
    options = ("--runner=DirectRunner", "--direct_num_workers=2")
    convert(photos, tmp_path / "beam", **OPTIONS, runner="beam", beam_options=options)
    assert hashes(tmp_path / "beam") == hashes(tmp_path / "local")


def test_a_failing_element_fails_the_run(photos, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")

    def fails(job):
        raise OSError("worker lost\nand more")

    def silent(**_):
        raise RuntimeError

    monkeypatch.setattr(plan.shards, "draft", fails)
    with pytest.raises(RunAgain, match="pipeline failed .*worker lost.*run the same"):
        convert(photos, tmp_path / "out", **OPTIONS, runner="beam")
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["apache_beam"], "Reshuffle", silent)
        with pytest.raises(RunAgain, match="pipeline failed .RuntimeError.; run the same"):
            convert(photos, tmp_path / "out", **OPTIONS, runner="beam")
    monkeypatch.undo()
    convert(photos, tmp_path / "out", **OPTIONS, runner="beam")


@pytest.mark.parametrize(("option", "why"), [
    ("--direct_num_workers=many", "argument --direct_num_workers: invalid int value: 'many'"),
    ("--runner=Absent", "Absent"),
])  # fmt: skip
def test_a_wrong_option_is_a_wrong_input(capfd, option, why):
    pytest.importorskip("apache_beam")
    with pytest.raises(InputError, match=f"--beam_options are wrong .*{why}"):
        parts.run_in_beam(len, ["job"], [option])
    assert capfd.readouterr() == ("", "")


def test_a_shard_that_is_written_twice_is_the_same(photos, tmp_path):
    """As retries and speculative copies do."""
    convert(photos, tmp_path / "whole", **OPTIONS)
    out = tmp_path / "out"
    (out / ".convert").mkdir(parents=True)
    listed = folder.collect(photos, ConvertOptions("folder"), folder.ClassNames())
    collection = review.split(listed, ConvertOptions(**OPTIONS))
    for _, job in shards.shard_jobs(collection, out, ConvertOptions(**OPTIONS)):
        first = shards.write(job)
        (out / ".convert" / f"{job.path.name}.json").unlink()
        assert shards.write(job).sha256 == first.sha256
    wanted = hashes(tmp_path / "whole")
    assert hashes(out) == {name: wanted[name] for name in hashes(out)}


def test_without_beam_it_says_so(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InputError, match="setup.sh requirements-beam.txt"):
        convert(photos, tmp_path / "out", **OPTIONS, runner="beam")


@pytest.mark.parametrize("later", ["none", "finished", "other"])
def test_an_element_that_outlives_its_conversion_replaces_nothing(photos, tmp_path, later):
    """Its submitter was killed, and another seed's conversion came meanwhile, or none."""
    out = tmp_path / "out"
    collection = folder.collect(photos, ConvertOptions("folder"), folder.ClassNames())
    before = plan.ConversionPlan("seed 0", "", ())
    late = shards.shard_jobs(collection, out, ConvertOptions(**OPTIONS), before.key)[0][1]
    if later == "finished":
        convert(photos, out, **OPTIONS, seed=1)
        (out / ".convert").mkdir()  # or there is no place for the draft
    else:
        out.mkdir()
        plan.begin(out, before if later == "none" else plan.ConversionPlan("seed 1", "", ()))
    whole = hashes(out)
    if later == "none":
        assert plan.write_planned(late) == late.path.name and late.path.exists()
        return
    with pytest.raises(RunAgain, match="out is no longer written by this conversion"):
        plan.write_planned(late)
    assert hashes(out) == whole and not list(out.glob(".convert/*.tmp"))


def test_an_interrupted_submitter_cancels_the_job():
    done = []

    class Pipeline:
        """Waits for its result where its `with` ends, as Beam's."""

        result = None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.result = self
            raise KeyboardInterrupt

        def cancel(self):
            done.append("cancelled")
            raise NotImplementedError

    pipeline = Pipeline()
    with pytest.raises(KeyboardInterrupt), parts._cancelled(pipeline), pipeline:
        pass
    assert done == ["cancelled"]
