"""Tests for `squeezenext/predict/parts.py`: the answers for a long list of images, in files."""

import json
import os

import pytest

from squeezenext.errors import InputError, RunAgain
from squeezenext.predict import command, parts, predict_to_folder
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.model_directory(folder, tiny.SQUEEZENET)
    return folder


@pytest.fixture
def photos(tmp_path):
    """A list of seven photographs and of one that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        (folder / f"{number}.jpg").write_bytes(tiny.jpeg(number, number % 3 + 1))
    (folder / "bad.jpg").write_text("no image")
    listed = tmp_path / "photos.txt"
    listed.write_bytes(b"\r\n".join(os.fsencode(path) for path in sorted(folder.iterdir())))
    return listed


def run(*arguments):
    return command.main(["predict", *map(str, arguments)])


def printed(photos, model, capsys):
    """What the command prints for them in one go."""
    assert run(photos, "--model_dir", model, "--format", "json") == 1
    return capsys.readouterr().out


def read(folder):
    return {path.name: path.read_text() for path in sorted(folder.glob("part-*"))}


def test_the_files_hold_what_one_run_prints(photos, model, tmp_path, capsys):
    out = tmp_path / "deep" / "answers"
    arguments = (photos, "--model_dir", model, "--output", out, "--part_size", 3)
    assert run(*arguments) == 1
    told = capsys.readouterr().err
    assert f"{out}: 8 images in 3 files." in told and "1 image could not be read" in told
    written = read(out)
    assert list(written) == [f"part-0000{number}-of-00003.jsonl" for number in range(3)]
    assert [text.count("\n") for text in written.values()] == [3, 3, 2]
    assert "".join(written.values()) == printed(photos, model, capsys)
    assert {path.name for path in out.iterdir()} == {*written, parts.PLAN, parts.LOCK}


def test_a_second_run_writes_what_the_first_has_not(photos, model, tmp_path, capsys, monkeypatch):
    out, done, write = tmp_path / "answers", [], parts.write

    def interrupted(part, threads):
        if len(done) == 1:
            (out / f".{part.path.name}.tmp-0.jsonl").touch()  # as SIGKILL leaves it
            raise KeyboardInterrupt
        write(part, threads)
        done.append(part.path.name)

    arguments = (photos, "--model_dir", model, "--output", out, "--part_size", 3)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "write", interrupted)
        assert run(*arguments) == 75
    assert "run the same command again to go on" in capsys.readouterr().err
    (first,) = read(out)
    stamp = (out / first).stat().st_mtime_ns
    assert run(*arguments) == run(*arguments) == 1  # the errors of earlier runs count
    assert (out / first).stat().st_mtime_ns == stamp
    assert "".join(read(out).values()) == printed(photos, model, capsys)
    assert [path.name for path in out.glob(".*")] == [parts.LOCK]


def test_answers_of_two_lists_models_or_choices_never_mix(photos, model, tmp_path):
    out, other = tmp_path / "answers", tmp_path / "other"
    predict_to_folder([str(photos)], model, out)
    before = read(out)
    tiny.model_directory(other, tiny.SQUEEZENEXT)
    with pytest.raises(InputError, match="answers holds the answers for other images, of another"):
        predict_to_folder([str(photos)], model, out, top_k=1)
    with pytest.raises(InputError, match="choose another folder"):
        predict_to_folder([str(photos)], other, out)
    photos.write_text(photos.read_text() + "\nmore.jpg\n")
    with pytest.raises(InputError, match="choose another folder"):
        predict_to_folder([str(photos)], model, out)
    with pytest.raises(InputError, match="holds something else .checkpoints.; choose another"):
        predict_to_folder([str(photos)], model, other)
    photos.write_text(photos.read_text().removesuffix("\nmore.jpg\n"))
    (out / parts.PLAN).unlink()
    with pytest.raises(InputError, match="choose another folder"):
        predict_to_folder([str(photos)], model, out, top_k=1)
    assert read(out) == before and not (out / parts.PLAN).exists()


def test_a_folder_has_one_command_at_a_time(photos, model, tmp_path, monkeypatch, capsys):
    out, write = tmp_path / "answers", parts.write
    arguments = (photos, "--model_dir", model, "--output", out)

    def second(part, threads):
        write(part, threads)
        unfinished = out / f".{part.path.name}.tmp-0.jsonl"  # by the first command
        unfinished.touch()
        with monkeypatch.context() as patch:
            patch.setattr(parts, "write", write)
            assert run(*arguments) == 75
        assert f"Another process writes into {out}" in capsys.readouterr().err
        assert unfinished.exists()

    monkeypatch.setattr(parts, "write", second)
    assert run(*arguments) == 1


def test_a_worker_that_outlives_its_command_writes_nothing(photos, model, tmp_path, monkeypatch):
    out, late = tmp_path / "answers", []
    with monkeypatch.context() as patch:
        patch.setattr(parts, "write", lambda part, threads: late.append(part))
        with pytest.raises(FileNotFoundError):  # as no file has been written
            predict_to_folder([str(photos)], model, out)
    (out / parts.PLAN).unlink()
    predict_to_folder([str(photos)], model, out, part_size=4)
    before = read(out)
    with pytest.raises(RunAgain, match="answers is no longer written by this command"):
        parts.write(late[0])
    assert read(out) == before and not list(out.glob(".part-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "parquet"], "--format parquet needs --output, such as --output answers."),
        (["--part_size", "3"], "--part_size means nothing without --output"),
        (["--runner", "beam"], "--runner means nothing without --output"),
        (
            ["--output", "answers", "--format", "csv"],
            "--format 'csv' is not one of jsonl, parquet.",
        ),
        (["--output", "answers", "--explain", "maps"], "--explain does not go with --output"),
        (["--output", "answers", "-"], "--output does not take standard input"),
    ],
)
def test_flags_that_contradict_each_other(photos, model, arguments, message, capsys):
    assert run(photos, "--model_dir", model, *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("package", ["pyarrow", "apache_beam"])
def test_a_package_that_is_missing_is_named(photos, model, tmp_path, monkeypatch, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    options = {"format": "parquet"} if package == "pyarrow" else {"runner": "beam"}
    with pytest.raises(InputError, match=f"package {package} is not installed.*beam"):
        predict_to_folder([str(photos)], model, tmp_path / "answers", **options)


def test_parquet_has_the_same_answers(photos, model, tmp_path, capsys):
    dataset = pytest.importorskip("pyarrow.dataset")
    photos.write_bytes(photos.read_bytes() + b"\n\xff.jpg")  # no UTF-8
    for kind in parts.FORMATS:
        out = tmp_path / kind
        assert predict_to_folder([str(photos)], model, out, format=kind, part_size=3) == 2
    rows = dataset.dataset(tmp_path / "parquet").to_table().to_pylist()
    lines = "".join(read(tmp_path / "jsonl").values()).splitlines()
    assert [row | {"known": None} for row in map(json.loads, lines[:-1])] == rows[:-1]
    assert rows[-1]["path"] == r"\udcff.jpg"


def test_beam_writes_the_same_files(photos, model, tmp_path):
    pytest.importorskip("apache_beam")
    local, beam = tmp_path / "local", tmp_path / "beam"
    options = ("--runner=DirectRunner", "--direct_num_workers=2")
    assert predict_to_folder([str(photos)], model, local, part_size=3) == 1
    for _ in range(2):  # the second has nothing to do
        failed = predict_to_folder(
            [str(photos)], model, beam, part_size=3, runner="beam", beam_options=options
        )
        assert failed == 1
    assert read(beam) == read(local)
