"""Tests for `model/hub.py`, against a stand-in of the Hub, and for `export/push.py`."""

import importlib
import json
import os
import subprocess
import sys
import zipfile

import pytest

from squeezenext import adapt, predict
from squeezenext.adapt import command as adapting
from squeezenext.doctor import command as doctor
from squeezenext.errors import InputError, RunAgain
from squeezenext.export import page, push
from squeezenext.model import directory, hub, loading, published
from squeezenext.train import exchange
from squeezenext.train.options import Options
from tests import hub_server, tiny

pytest.importorskip("huggingface_hub")


@pytest.fixture
def server(monkeypatch, tmp_path):
    made, constants = hub_server.Hub(), importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    template = f"{made.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", hub_server.WRITES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "ants"
    tiny.model_directory(folder, tiny.SQUEEZENEXT)
    final = {"step": 0, "epoch": 1.0, "examples_seen": 8, "top1": 0.75, "top5": 1.0, "loss": 0.5}
    (folder / directory.FINAL).write_text(json.dumps(final))
    for name in ("report/mistake.jpg", "photographs/a.jpg", "records/train-0", "exported/model.sqz",
                 "exported/.model.sqz.made_of", "train.log", "adapt.json"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(tiny.jpeg(1, 1))
    return folder


@pytest.fixture
def pushed(server, model):
    push.push(model, "hf://ann/ants")
    server.asked.clear()
    return server


def fetched(server):
    names = [line for line in server.asked if line.startswith("GET") and "/resolve/" in line]
    return sorted(name.split("/", 5)[5] for name in names)


def test_what_is_pushed_is_what_reading_needs_and_no_photograph(server, model, capsys):
    assert push.push(model, "hf://ann/ants").startswith(f"{server.url}/ann/ants/commit/")
    files = server.commits[server.repos["models/ann/ants"]["main"]]
    assert sorted(files) == [
        ".gitattributes", "README.md", "checkpoints/step-00000000/META.json",
        "checkpoints/step-00000000/state.npz", "config.json", "exported/model.sqz", "final.json",
        "labels.json", "model.tflite", "model_stats.csv",
    ]  # fmt: skip
    said = capsys.readouterr().err
    assert "9 files, " in said and "no photograph is among them" in said
    assert f"{(model / 'config.json').stat().st_size:,}  config.json" in said
    yaml = pytest.importorskip("yaml")
    matter = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert matter["license"] == "other" and matter["library_name"] == "squeezenext"
    assert matter["pipeline_tag"] == "image-classification" and "litert" in matter["tags"]
    [result] = matter["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "accuracy", "name": "top-1", "value": 0.75}
    assert "--model_dir hf://ann/ants" in files["README.md"].decode()


def test_checkpoints_of_an_earlier_model_are_removed(server, model):
    """Readers would take the last one, which is not the newer model's."""
    old = {"checkpoints/step-00009999/META.json": b"{}", "exported/old.tflite": b"", "notes": b""}
    server.add("models/ann/ants", old)
    push.push(model, "hf://ann/ants")
    files = server.commits[server.repos["models/ann/ants"]["main"]]
    assert not files.keys() & {*old} - {"notes"} and "notes" in files
    assert "checkpoints/step-00000000/META.json" in files


def test_a_model_of_the_hub_answers_as_here_also_without_a_network(pushed, model, tmp_path):
    photograph = tmp_path / "photo.jpg"
    photograph.write_bytes(tiny.jpeg(1, 2))
    answers = []
    for name in (model, "hf://ann/ants", "hf://ann/ants"):
        answers += predict.predict([str(photograph)], name)
        if name != model:
            pushed.answers = 503  # from now on everything is here
    assert answers[0] == answers[1] == answers[2]
    assert fetched(pushed) == ["config.json", "final.json", "labels.json", "model.tflite"]
    pushed.answers = 0
    here = published.resolve("hf://ann/ants")  # now also what fine-tuning needs
    commit = pushed.repos["models/ann/ants"]["main"]
    assert here.name == f"ann--ants@{commit[:12]}" == exchange.origin("hf://ann/ants")["model"]
    theirs, ours = loading.variables(here), loading.variables(model)
    assert all((theirs[name] == ours[name]).all() for name in ours)
    assert adapting._networks("hf://ann/ants") == (os.path.realpath(here),)


def test_the_program_itself_pushes_and_predicts(server, model, tmp_path):
    """By the variables of the environment that huggingface_hub reads, in processes of their own."""
    (tmp_path / "photo.jpg").write_bytes(tiny.jpeg(1, 2))
    more = {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
    for words in (
        ["push", str(model), "hf://ann/ants"],
        ["predict", "photo.jpg", "--model_dir", "hf://ann/ants"],
    ):
        program = [sys.executable, "-m", "squeezenext"]
        subprocess.run(program + words, cwd=tmp_path, env=tiny.environment(**more), check=True)


def test_a_first_answer_stays_until_a_branch_is_named(pushed):
    first = hub.fetched("hf://ann/ants", published.cache(), run=True)
    pushed.add("models/ann/ants", {"final.json": b"{}"})
    assert hub.fetched("hf://ann/ants", published.cache(), run=True) == first
    newer = hub.fetched("hf://ann/ants@main", published.cache(), run=True)
    assert newer != first and hub.fetched("hf://ann/ants", published.cache(), run=True) == newer
    pushed.answers = 503
    assert hub.fetched("hf://ann/ants@main", published.cache(), run=True) == newer


def test_a_branch_and_a_single_file(server, model):
    push.push(model, "hf://ann/ants@next", private=True)
    with pytest.raises(InputError, match="holds no model directory"):
        published.local("hf://ann/ants")
    path = published.local("hf://ann/ants@next/exported/model.sqz")
    assert path.read_bytes() == (model / "exported" / "model.sqz").read_bytes()
    server.add("models/ann/small", {"a.sqz": b"1", "unsafe.pkl": b"2"})
    assert published.local("hf://ann/small").name == "a.sqz"
    server.add("models/ann/small", {"b.tflite": b"1"})
    with pytest.raises(InputError, match=r"holds a\.sqz, b\.tflite; name one, such as hf://ann"):
        published.local("hf://ann/small@main")
    with pytest.raises(InputError, match="holds no model directory"):
        published.local("hf://ann/small/unsafe.pkl")


@pytest.mark.parametrize("name", ["final.json", "model.tflite"])
def test_a_damaged_file_is_fetched_again(pushed, name):
    """On its way, of either kind of checksum; and in the cache."""
    pushed.damages = {name}
    with pytest.raises(RunAgain, match=f"{name} of hf://ann/ants was damaged"):
        published.local("hf://ann/ants", run=True)
    pushed.damages = set()
    here = published.local("hf://ann/ants", run=True)
    whole = (here / name).read_bytes()
    (here / name).write_bytes(whole[:-1] + b"?")
    pushed.asked.clear()
    published.local("hf://ann/ants", run=True)
    assert (here / name).read_bytes() == whole and fetched(pushed) == [name]


@pytest.mark.parametrize(
    ("name", "token", "answers", "sentence", "code"),
    [
        ("hf://ann/bees", "", 0, "does not exist, or you have no access (HTTP 401)", 2),
        ("hf://ann/ants@old", "", 0, "does not exist, or you have no access (HTTP 404)", 2),
        ("hf://ann/secret", "", 0, "no access (HTTP 401)", 2),
        ("hf://ann/ants", "", 500, "answers 500; run the same command later", 75),
        ("hf://ants", "", 0, "hf://ants is no address of a model of the Hub", 2),
        ("hf://datasets/ann/ants", "", 0, "give one as hf://user/name", 2),
        ("hf://spaces/ann/ants", "", 0, "give one as hf://user/name", 2),
        ("hf://ann/a--b", "", 0, "is no name of the Hub", 2),
    ],
)
def test_each_fault_of_reading_has_one_sentence(
    pushed, monkeypatch, capsys, name, token, answers, sentence, code
):
    monkeypatch.setenv("HF_TOKEN", token)
    pushed.add("models/ann/secret", {})
    pushed.private, pushed.answers = {"models/ann/secret"}, answers
    assert predict.main(["predict", "-", "--model_dir", name]) == code
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and sentence in line and line.endswith(".")


@pytest.mark.parametrize(
    ("token", "address", "sentence"),
    [
        ("", "hf://ann/ants", "There is no token"),
        (hub_server.READS, "hf://ann/ants", "HTTP 403"),
        (hub_server.WRITES, "ann/ants", "is no address"),
        (hub_server.WRITES, "hf://ann/ants/part", "give the repository alone: hf://ann/ants."),
    ],
)
def test_each_fault_of_pushing_has_one_sentence(
    server, model, monkeypatch, capsys, token, address, sentence
):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_HOME", "/nowhere")
    assert push.main(["push", str(model), address]) == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1] and not server.repos


def test_nothing_is_uploaded_in_a_dry_run_nor_of_what_is_no_model(server, model, tmp_path):
    assert push.push(model, "hf://ann/ants", dry_run=True) == "" and not server.asked
    with pytest.raises(InputError, match="is not a model directory"):
        push.push(tmp_path, "hf://ann/ants")
    with pytest.raises(InputError, match="is not made by `export --format web`"):
        push.push(model, "hf://ann/ants", space=True)


def test_a_page_becomes_a_static_space(server, tmp_path):
    document = dict.fromkeys(page._KEYS) | {"model": "a: b"}
    (tmp_path / "index.html").write_text("<p>")
    (tmp_path / page.MANIFEST).write_text(json.dumps(document))
    push.push(tmp_path, "hf://ann/page", space=True)
    files = server.commits[server.repos["spaces/ann/page"]["main"]]
    assert files["index.html"] == b"<p>" and page.MANIFEST in files
    (tmp_path / ".env").write_text("secret")
    with pytest.raises(InputError, match=r"\.env does not belong to the page"):
        push.push(tmp_path, "hf://ann/page", space=True)
    assert files["README.md"].startswith(b'---\ntitle: "a: b"\nsdk: static\napp_file: index.html\n')


def test_photographs_of_the_hub_are_a_folder_or_an_archive(server, tmp_path):
    photographs = {f"train/{kind}/{i}.JPG": tiny.jpeg(i, 1) for kind in "ab" for i in range(2)}
    outside = [str(tmp_path / "kept.jpg"), "../kept.jpg", "C:\\kept.jpg", "a//kept.jpg"]
    (tmp_path / "kept.jpg").write_bytes(b"kept")
    server.add("datasets/ann/set", photographs | dict.fromkeys(outside, b"-"))
    server.add("datasets/ann/set", {"README.md": b"-", "run.py": b"-", "x.zip": b"-"})
    here = published.local("hf://datasets/ann/set", "dataset")
    assert (tmp_path / "kept.jpg").read_bytes() == b"kept"
    assert sorted(p.relative_to(here).as_posix() for p in here.rglob("*.*") if p.is_file()
                  and ".cache" not in p.parts) == sorted(photographs)  # fmt: skip
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in photographs.items():
            archive.writestr(name, data)
    server.add("datasets/ann/zip", {"data/a.zip": (tmp_path / "a.zip").read_bytes()})
    assert zipfile.is_zipfile(published.local("hf://datasets/ann/zip", "dataset"))
    server.add("datasets/ann/table", {"data/train.parquet": b"-"})
    with pytest.raises(InputError, match="holds no photographs, nor a zip or tar of them"):
        published.local("hf://datasets/ann/table", "dataset")


def test_photographs_are_named_on_the_command_line(server, tmp_path, capsys):
    photographs = {f"{kind}/{i}.jpg": tiny.jpeg(i, 1) for kind in "ab" for i in range(4)}
    server.add("datasets/ann/set", photographs)
    assert adapt.main(["adapt", "hf://datasets/ann/set", "--dry_run"]) == 0
    assert "all              8" in capsys.readouterr().out
    out = tmp_path / "checkup"
    assert doctor.main(["doctor", "hf://datasets/ann/none", "--output", str(out)]) == 2


def test_nothing_is_written_to_an_address(capsys):
    with pytest.raises(InputError, match="is no path on this machine"):
        Options(model_dir="hf://ann/ants")
    assert adapt.main(["adapt", "photographs", "--model_dir", "hf://ann/ants"]) == 2
    assert "is no path on this machine" in capsys.readouterr().err
    with pytest.raises(InputError, match="is no path on this machine"):
        push.push("hf://ann/ants", "hf://ann/bees")


def test_the_extra_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="requirements-hub.txt"):
        published.local("hf://ann/ants")
