"""Commands from the outside: help, bad use, plain output. What they do, test_docs.py follows."""

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from squeezenext import adapt, cli, compress, evaluate, export, stats, train
from squeezenext.compress.method import Method
from squeezenext.config import Config, Images, Stage, Training
from squeezenext.convert import command
from squeezenext.convert.options import ConvertOptions
from squeezenext.errors import InputError
from squeezenext.predictor import Predictor
from squeezenext.records import dataset
from squeezenext.train.options import Options
from tests import tiny
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_dir", "/nowhere", "--data_dir", "/nowhere"], "/nowhere is no folder"),
        (["--model_dir", "/tmp", "--data_dir", "/nowhere"], "/nowhere"),
        (["--data_dir", "/tmp"], "--model_dir is missing"),
    ],
)
def test_bad_use_of_evaluate(arguments, message, capsys):
    assert evaluate.main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, None, None), "^No data are given; give --data_dir records"),
        (("a", None, "b"), "^--data_dir and a pattern of records exclude each other"),
    ],
)
def test_the_data_are_given_in_one_way(given, message):
    with pytest.raises(InputError, match=message):
        dataset.find_dataset(*given)


def test_a_table_replaces_an_empty_file_or_a_table_of_ours_alone(tmp_path, capsys):
    path = tmp_path / "config.json"
    for before, code in (("", 0), (None, 0), ("{}", 2), ("layer,size\n", 2)):
        if before is not None:
            path.write_text(before)
        assert stats.main(["stats", f"--csv={path}"]) == code
        assert (path.read_text() == before) == (code == 2)
        assert ("is another program's; move it away" in capsys.readouterr().err) == (code == 2)


def test_a_name_too_long_for_its_temporary_file_is_refused_before_any_work(tmp_path, capsys):
    long = tmp_path / ("ä" * 101)
    for call in (
        lambda: export.export(tmp_path, "litert", f"{long}.tflite"),
        lambda: compress.compress(tmp_path, f"{long}.sqz", Method()),
        lambda: cli.check_file("csv", long),
    ):
        with pytest.raises(InputError, match="the name is longer than 200 bytes; shorten it"):
            call()
    assert stats.main(["stats", f"--csv={tmp_path / ('a' * 200)}"]) == 0


@pytest.mark.parametrize("flag", ["--csv", "--configuration"])
def test_no_given_flag_is_empty(flag, capsys):
    """As one of a variable of the shell that is not set."""
    assert stats.main(["stats", flag, ""]) == 2
    assert f"{flag} is empty; is a variable of the shell not set?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "line", "named", "right"),
    [(train.command, "--data_dir a --model_dir gs://b/run", "--model_dir gs://b/run", "/mnt/b/run"),
     (train.command, "--model_dir run --data_dir hdfs://b", "The place hdfs://b", "/mnt/b"),
     (evaluate.command, "--model_dir file:///home/x", "--model_dir file:///home/x", "/home/x"),
     (adapt.command, "abfs://a@b/c --model_dir run", "adapt(): photos abfs://a@b/c", "/mnt/a@b/c"),
     (stats, "--csv hdfs://", "--csv hdfs://", "/mnt/data")],
)  # fmt: skip
def test_a_path_elsewhere_is_refused_and_no_folder_is_made_of_it(
    command, line, named, right, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert command.main(["command", *line.split()]) == 2
    assert capsys.readouterr().err == (
        f"error: {named} is no path on this machine, and no address that is read or written "
        f"here; mount that, or copy it, and give a path such as {right}.\n"
    )
    assert not list(tmp_path.iterdir())


def test_from_python_a_path_elsewhere_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for remote in ("gs://b/run", Path("gs://b/run")):  # which has one slash left
        with pytest.raises(InputError, match=r"^Options\(\): model_dir gs://b/run is no path on"):
            Options(model_dir=remote)
    (tmp_path / "gs:").mkdir()
    for local in (Path("gs:/run"), Path("c:/run"), "a:b", "runs/http://x"):
        assert Options(model_dir=local)


@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [
        ("<&-", "path,rank,", "error: 1 image could not be read."),
        (">&-", "", "error: Standard output is closed; to print nothing, give >/dev/null."),
        ("2>&-", "path,rank,", ""),
        ("<&- >&- 2>&-", "", ""),
    ],
)
def test_a_closed_stream_loses_its_lines_alone(tmp_path, closed, out, err):
    """Python has None in its place; the lines of one never go to another."""
    tiny.model_directory(tmp_path / "m", tiny.SQUEEZENEXT)
    line = f"{sys.executable} -m squeezenext.predict - --format csv --model_dir {tmp_path / 'm'}"
    call = ["bash", "-c", f"{line} {closed}"]
    done = subprocess.run(call, cwd=REPOSITORY, input="", capture_output=True, text=True)
    assert done.returncode == (1 if out else 2) and done.stderr.strip() == err
    assert done.stdout[: len(out) or None] == out


def test_stats_prints_json_and_writes_csv(tmp_path, capsys):
    path = tmp_path / "stats.csv"
    arguments = ["--configuration", "v_1_0_SqNxt_23", "--json", "--csv", str(path)]
    assert stats.main(["stats", *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["parameters"] == 717_280 and document["macs"] == pytest.approx(278e6, rel=1e-3)
    rows = path.read_text().splitlines()
    assert rows[0] == "layer,kind,output,parameters,macs"
    assert rows[-1] == f"total,,,{document['parameters']},{document['macs']}"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adapt.adapt("a", "b", minutes="5"), "adapt(): minutes is a number, not '5'."),
        (lambda: adapt.adapt("a", "b", seed="x"), "adapt(): seed is a whole number, not 'x'."),
        (lambda: adapt.adapt("a", "b", max_bytes=-1), "adapt(): max_bytes is at least 0, not -1."),
        (lambda: adapt.adapt(None, "b"), "adapt(): photos is a path, not None."),
        (lambda: adapt.adapt("a", ""), "adapt(): model_dir is empty; it must name a file"),
        (lambda: command.convert("a", "", ConvertOptions("folder")), "convert(): output is empty"),
        (lambda: Options(model_dir="a", fine_tune_from=""), "Options(): fine_tune_from is empty"),
        (lambda: command.convert("~x", "b", ConvertOptions("folder")), "--source ~x is no folder"),
        (lambda: Method(max_bytes="9"), "Method(): max_bytes is a whole number or None, not '9'."),
        (lambda: Method(changes="a=1"), "Method(): changes is a list, each item "),
        (lambda: compress.compress("a", "b", {}), "compress(): method is of the type "),
        (lambda: export.export("a", "b", "c"), "There is no format 'b'; there are litert"),
        (lambda: export.export("a", "web", "c", images=0), "export(): images is at least 1"),
        (lambda: evaluate.evaluate(model_dir=3), "evaluate(): model_dir is a path, not 3."),
        (lambda: train.train({}, Options(model_dir="a")), "train(): config is of the type "),
        (lambda: Options(model_dir="a", seed=0.5), "Options(): seed is a whole number, not 0.5."),
        (lambda: Options(model_dir="a", seed=1 << 32), "--seed 4294967296: must be below 4,294,"),
        (lambda: Options(model_dir="a", devices=True), "Options(): devices is a whole "),
        (lambda: train.devices.names(9999), "--devices 9999: "),
        (lambda: ConvertOptions("csv", workers="2"), "ConvertOptions(): workers is a whole "),
        (lambda: Config(model=None), "Config(): model is of the type SqueezeNet or "),
        (lambda: Stage(64, 2, "1"), "Stage(): stride is a whole number, not '1'."),
        (lambda: Images(mean=("a", 0, 0)), "Images(): mean is a list, each item a number, not "),
    ],
)  # fmt: skip
def test_an_argument_of_a_wrong_type_is_one_sentence_at_the_door(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message) and len(str(caught.value)) < 160


def test_numbers_of_numpy_are_numbers_and_missing_arguments_python_s_own_error():
    known = Training(epochs=np.float32(2), batch_size=np.int64(8))
    assert known == Training(epochs=2.0, batch_size=8) and type(known.batch_size) is int
    with pytest.raises(TypeError, match=r"^adapt\(\) missing 1 required positional argument"):
        adapt.adapt("a")


def test_a_place_that_cannot_be_written_is_a_sentence():
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), "/ro/stats.csv")
    wanted = "/ro/stats.csv: Read-only file system; name another place, or change its rights."
    assert cli.sentence(error) == (wanted, 2)


@pytest.mark.parametrize(
    "name",
    ["squeezenext.train", "squeezenext.evaluate", "squeezenext.stats", "squeezenext.weights",
     "datasets.convert", "datasets.verify", "squeezenext.convert.digits", "squeezenext.predict"],
)  # fmt: skip
def test_every_command_has_help(name, capsys):
    assert importlib.import_module(name).main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "python" in out and "--" in out and "Show this text" in out


@pytest.mark.parametrize(
    ("given", "data_dir", "wanted"),
    [
        ([], None, "--configuration quickstart --data_dir data/digits/tf-records --model_dir "
         "runs/quickstart"),
        (["--num_epochs=1"], None, "--model_dir runs/quickstart --num_epochs=1"),
        (["--configuration", "quickstart"], None, "--model_dir runs/quickstart --configuration"),
        (["--configuration", "sqnxt"], None, None),  # DATA_DIR is set and not exported
        (["--configuration=sqnxt", "--data_dir=D"], None, "train --configuration sqnxt --model_dir "
         "runs/sqnxt --configuration=sqnxt --data_dir=D"),
        (["--training_file_pattern", "X/train-*"], None, "train --configuration v_1_0_SqNxt_23 "
         "--model_dir runs/v_1_0_SqNxt_23 --training_file_pattern X/train-*"),
        (["--configuration", "sqnxt"], "here", "train --configuration sqnxt --data_dir "
         "here/tf-records --model_dir runs/sqnxt"),
        (["--training_file_pattern", "X"], "here", "--configuration v_1_0_SqNxt_23 --model_dir"),
        ([], "absent", None),
    ],
)  # fmt: skip
def test_run_train_takes_the_digits_only_where_no_other_data_are_meant(
    tmp_path, given, data_dir, wanted
):
    """A stand-in of Python notes what it is asked; installing is asked of it, too."""
    python, noted = tmp_path / "venv/bin/python", tmp_path / "noted"
    python.parent.mkdir(parents=True)
    (tmp_path / "here").mkdir()
    python.write_text(f'#!/bin/sh\necho "$@" >> {noted}\n')
    python.chmod(0o755)
    inherited = {k: v for k, v in os.environ.items() if k not in ("DATA_DIR", "MODEL_DIR")}
    environment = inherited | {"VIRTUAL_ENV": str(tmp_path / "venv")}
    environment |= {"DATA_DIR": data_dir} if data_dir else {}
    done = subprocess.run(
        ["bash", REPOSITORY / "run_train.sh", *given],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    asked = [line for line in noted.read_text().splitlines() if "squeezenext.train" in line]
    if wanted is None:
        assert done.returncode == 2 and not asked and "DATA_DIR" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert len(asked) == 1 and wanted in asked[0]


@pytest.mark.parametrize("given", [str, Path])
def test_paths_of_functions_may_begin_with_home(tmp_path, monkeypatch, given):
    """As a shell leaves it in quotes, and as people write it in Python."""
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny.model_directory(tmp_path / "mine", tiny.SQUEEZENEXT)
    tiny.shard(tmp_path / "validation-00000-of-00001", 6)
    model = given("~/mine")
    scored = evaluate.evaluate(
        model_dir=model, validation_file_pattern="~/validation-*", batch_size=8
    )
    assert len(scored.labels) == 6
    export.export(model, "litert", given("~/a.tflite"))
    compress.compress(model, given("~/a.sqz"), Method(lossless=True))
    assert Predictor(given("~/a.sqz")).labels == Predictor(model).labels
    for place in ("train/a/0.jpg", "train/b/1.jpg", "validation/a/2.jpg", "validation/b/3.jpg"):
        path = tmp_path / "photos" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.jpeg(int(path.stem), 1))
    command.convert(given("~/photos"), given("~/records"), ConvertOptions("folder", workers=1))
    assert dataset.find_dataset(given("~/records"), None, None).splits["train"].examples == 2
    options = Options(model_dir=given("~/run"), data_dir=given("~/records"))
    assert (options.model_dir, options.data_dir) == (f"{tmp_path}/run", f"{tmp_path}/records")
    assert not (Path.cwd() / "~").exists()


def test_counts_and_commands_in_messages():
    assert [cli.plural(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert [cli.plural(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]
    assert [cli.plural(n, "file was", "files were") for n in (1, 2)] == [
        "1 file was",
        "2 files were",
    ]
    sizes = [cli.size_text(n) for n in (0, 1, 12_345, 999_999, 3_400_000, 999_990_000, 1 << 40)]
    assert sizes == ["0 kB", "1 kB", "12 kB", "1.0 MB", "3.4 MB", "1.0 GB", "1099.5 GB"]
    assert cli.module_command("datasets.convert") == "python -m datasets.convert"


@pytest.mark.parametrize("kind", [errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG])
def test_a_wrong_place_is_wrong_input(kind):
    sentence, code = cli.sentence(OSError(kind, os.strerror(kind), "here"))
    assert code == 2 and sentence.startswith("here: ") and "name another place" in sentence


def started(folder, first, *line):
    """Starts Python with a line of code that runs before all others."""
    (folder / "sitecustomize.py").write_text(f"import sys\n{first}\n")
    environment = os.environ | {"PYTHONPATH": f"{folder}:{REPOSITORY}"}
    return subprocess.Popen(
        [sys.executable, *line], cwd=REPOSITORY, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("absl", "predict.py a.jpg"),
        ("google_crc32c", "-m squeezenext.adapt photos"),
        ("tensorflow", "-m squeezenext.train --model_dir {0}/a --training_file_pattern {0}/t*"),
        ("tensorflow", "-m squeezenext.adapt {0} --model_dir {0}-a --configuration {0}/own"),
        ("defusedxml", "-m datasets.convert --help"),
        ("sklearn", "-m squeezenext.convert.digits --output {0}/a"),
    ],
)
def test_a_package_that_is_not_installed_is_a_sentence(tmp_path, name, line):
    tiny.shard(tmp_path / "train-00000-of-00001", 2)
    tiny.model_directory(tmp_path / "own", tiny.SQUEEZENEXT)
    absent = f"sys.modules[{name!r}] = None"
    process = started(tmp_path, absent, *line.format(tmp_path).split())
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and len(said.splitlines()) == 1, said
    assert said.startswith(f"error: The Python package {name} is not installed")
    assert said.endswith("; type in the repository's folder: bash scripts/setup.sh\n")
    assert not (tmp_path / "a").exists() and not Path(f"{tmp_path}-a").exists()


def test_the_programs_of_others_keep_their_tracebacks(tmp_path):
    for what in ("ModuleNotFoundError(name='numpy')", "KeyboardInterrupt"):
        process = started(tmp_path, "import squeezenext", "-c", f"raise {what}")
        assert "Traceback" in process.communicate(timeout=60)[1]


def test_an_interrupt_while_packages_are_imported_is_a_sentence(tmp_path):
    finder = (
        "class Finder:\n def find_spec(*name):\n  if name[0] == 'numpy': raise KeyboardInterrupt"
    )
    process = started(tmp_path, f"{finder}\nsys.meta_path.insert(0, Finder)", "predict.py")
    assert process.communicate(timeout=60) == ("", "error: Interrupted.\n")
    assert process.returncode == -signal.SIGINT  # 130 in a shell


def test_an_interrupt_that_a_native_module_made_an_error_of_is_a_sentence(tmp_path, capsys):
    native = (
        "class Finder:\n def find_spec(*name):\n  if name[0] == 'numpy':\n"
        "   raise ImportError('initialization failed') from KeyboardInterrupt()"
    )
    process = started(tmp_path, f"{native}\nsys.meta_path.insert(0, Finder)", "predict.py")
    assert process.communicate(timeout=60) == ("", "error: Interrupted.\n")
    assert process.returncode == 130

    def work(values, arguments):
        raise ImportError("initialization failed") from KeyboardInterrupt()

    assert cli.run(work, flags.FlagValues(), "", ["command"]) == 75
    assert "error: Interrupted; run the same command again" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize(("work", "code"), [("cli.log('a')", 0), ("cli.log('a'); 1 / 0", 1)])
def test_a_full_standard_error_leaves_the_exit_code(work, code):
    program = (
        "import sys; from absl import flags; from squeezenext import cli\n"
        f"def work(values, arguments): {work}\n"
        "sys.exit(cli.run(work, flags.FlagValues(), '', ['command']))"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stderr=full, cwd=REPOSITORY)
    assert done.returncode == code


def test_ctrl_c_after_the_work_is_too_late():
    program = (
        "import os, signal, sys; from absl import flags; from squeezenext import cli\n"
        "code = cli.run(lambda *_: None, flags.FlagValues(), '')\n"
        "os.kill(os.getpid(), signal.SIGINT); sys.exit(code)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0


def test_only_a_command_that_goes_on_says_so(capsys):
    def command(values, arguments):
        raise KeyboardInterrupt

    for resumes, how in ((True, "to go on"), (False, "to begin anew")):
        assert cli.run(command, flags.FlagValues(), "", ["it"], resumes=resumes) == 75
        assert capsys.readouterr().err.endswith(f"run the same command again {how}.\n")


ENDLESS = """
import time
from absl import flags
from squeezenext import cli

def command(values, arguments):
    try:
        print("here", flush=True)
        time.sleep(60)
    finally:
        print("there", flush=True)
        time.sleep(60 * int(arguments[0]))

sys.exit(cli.run(command, flags.FlagValues(), "", positional=True))
"""


@pytest.mark.parametrize(("stuck", "code"), [(0, 75), (1, -signal.SIGINT)])
def test_a_second_interrupt_ends_what_the_first_does_not(tmp_path, stuck, code):
    process = started(tmp_path, "", "-c", f"import sys{ENDLESS}", str(stuck))
    for line in ("here", "there")[: stuck + 1]:
        assert process.stdout.readline() == f"{line}\n"
        process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode == code
