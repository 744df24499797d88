"""README.md and docs/ are followed literally: every command and Python example, on tiny real data.

The blocks of a document are run line by line, in its order, in a folder where the names that they
use (PHOTOS, photo.jpg, film.avi, imagenet) are real files. What makes a command smaller than a
reader's is in `SMALLER` and `_hurry`; what is not run at all is in `NOT_RUN`, with the reason, and
is still checked for its flags. Commands run in this process; shell scripts as they are.
"""

import base64
import contextlib
import dataclasses
import functools
import http.server
import importlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import string
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from PIL import Image

from squeezenext.__main__ import COMMANDS
from squeezenext.compress import allocation, making
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.export import page as export_web
from squeezenext.model import published
from tests.conftest import REPOSITORY
from tests.imagenet_archives import real_imagenet

SMALLER = {  # what is looked for in a command: what is put in its place
    r"--minutes 15\b": "--minutes 0.001",
    r"minutes=15\b": "minutes=0.001",
    r"--num_epochs 8\b": "--num_epochs 2",
    r"--cases 100000\b": "--cases 70",
    r"--num_epochs 10\b": "--num_epochs 2",  # of the classifier, of all weights
    r"--num_epochs (15|27|150)\b": "--num_epochs 1",
    r"--data_dir records --model_dir steps$": r"\g<0> --num_epochs 2",
    r"--data_dir records --split test --json$": "--data_dir records --json",  # PHOTOS has no test
    r"scripts.show_augmentation .*": r"\g<0> --images 2 --epochs 2",
    r"--profile_input$": r"\g<0> --batch_size 16",
    r"^bash run_train.sh$": r"\g<0> --num_epochs 0.2",
    # SHALLOW, below, takes the variant's place.
    r"^bash run_train.sh --configuration \w+$": r"\g<0>.py --num_epochs 1 --batch_size 32",
}
SHALLOW = """# v_1_0_SqNxt_23.py: a unit a stage, of which TensorFlow builds a step in less time
import dataclasses
from configs.v_1_0_SqNxt_23 import CONFIG as WHOLE
stages = tuple(dataclasses.replace(stage, units=1) for stage in WHOLE.model.stages)
CONFIG = dataclasses.replace(WHOLE, model=dataclasses.replace(WHOLE.model, stages=stages))
"""
PLACEHOLDERS = {  # of single documents: a word, or the end of one
    "data.md": {"DIR": "converted"},
}
NOT_RUN = {  # how a command begins: why no test runs it
    "bash scripts/test.sh": "runs these very tests",
    "bash scripts/tensorboard.sh": "serves until it is stopped",
    "python -m squeezenext.demo": "serves until Ctrl-C; tests/test_web.py drives its server",
    "python -m squeezenext.serve": "serves until Ctrl-C; tests/test_serve.py asks it",
    "curl": "asks the server of the line above it",
    "source": "changes the shell that it is typed in",
    "pip install": "needs the network",
    "python3 -m venv": "is for `pip`, in the line below",
    "predicting/bin/pip": "needs the network; tests/test_install.py has what it installs",
    "python predict.py --camera": "needs a camera; tests/test_live.py has a stream",
    "python predict.py --video rtsp": "needs a camera of the network; the same",
    "python predict.py --watch": "goes on until Ctrl-C, which tests/test_live.py sends",
    "python predict.py photo.jpg --model_dir hf://": "needs the network; tests/test_hub.py has a "
    "stand-in of the Hub",
    "python -m squeezenext.adapt hf://": "the same",
    "python -m squeezenext.adapt PHOTOS --model_dir mine --configuration hf://": "the same",
    "python -m squeezenext.export.push mine hf://ann/ants --license": "the same",
    "python -m squeezenext.export.push site": "the same",
    "docker build": "needs docker and the network",
    "docker run": "needs docker and the network",
    "base64": "asks the server of `docker run`; here a test has one of its own",
    "python predict.py https://": "needs the network; tests/test_fetch.py has a server of its own",
    "bash datasets/process_downloaded_imagenet.sh $DATA_DIR": "wants all of ImageNet; "
    "docs/reproduce.md runs it on a part",
    "bash datasets/process_downloaded_imagenet.sh DATA_DIR": "the same",
    "python -m datasets.convert --layout imagenet --source $RAW": "is for clusters; "
    "tests/test_beam.py runs Beam",
    "RAW=": "names a cluster's places",
    "FLINK=": "names a cluster's places",
    "PROJECT=": "names a cluster's places",
    "python -m squeezenext.train ...": "is a flag of the command above it",
    "python -m squeezenext.train --configuration v_1_0_SqNxt_23 --data_dir DIR": "is for several "
    "GPUs; tests/test_loop.py has logical devices",
    "TF_CONFIG=": "is for several machines; tests/test_loop.py starts two workers",
    "srun": "is Slurm's; tests/test_cluster.py reads its variables",
    "CODE=": "is Slurm's; tests/test_cluster.py runs that script",
    "[[": "the same",
    "exit": "the same",
    "python -m squeezenext.train --configuration v_1_0_SqNxt_23 --teacher": "wants all of "
    "ImageNet; tests/test_phases.py distils",
    "python scripts/benchmarks/": "measures for minutes",
    "bash scripts/check_micro.sh": "needs QEMU and a compiler for Arm",
    "bash scripts/check_gpu.sh --": "compiles for minutes; tests/test_check_gpu.py has its parts",
}


SCRIPTS = {  # what the shell scripts hand their arguments to
    "run_train.sh": "squeezenext.train",
    "datasets/process_downloaded_imagenet.sh": "datasets.convert",
    "predict.py": "squeezenext.predict",
}
FOREIGN = {
    "base64",
    "curl",
    "docker",
    "exit",
    "make",
    "mkdir",
    "pip",
    "predicting/bin/pip",
    "python3",
    "source",
    "[[",
}
FRAGMENTS = {  # how Python begins that cannot run by itself
    "augmentation = (": "is a part of a configuration",
    "from mediapipe": "is tests/test_export.py's, in an environment with MediaPipe",
}


@functools.cache
def _runtime_of_the_page() -> bool:
    try:
        return all(
            export_web.package_files(package, {}) == {}
            for package in (export_web.CORE, export_web.UTILS)
        )
    except InputError:
        return False


NEEDED = {  # what a command asks for beyond requirements.txt: whether it is here, and its name;
    # asked inside tests alone, since it may take to the network
    "--format web": (_runtime_of_the_page, "npm's registry, or its packages in SQUEEZENEXT_NPM"),
    "--video": (lambda: bool(importlib.util.find_spec("cv2")), "opencv-python-headless"),
    "--format ncnn": (lambda: bool(importlib.util.find_spec("ncnn")), "ncnn"),
    "--format onnx": (lambda: bool(importlib.util.find_spec("onnxruntime")), "onnxruntime"),
    "--format parquet": (lambda: bool(importlib.util.find_spec("pyarrow")), "pyarrow"),
    "--runner beam": (lambda: bool(importlib.util.find_spec("apache_beam")), "Apache Beam"),
}


@dataclasses.dataclass(frozen=True)
class Line:
    """One command, or a whole ```python block, of a document."""

    document: str
    text: str
    python: bool = False

    @property
    def reason(self) -> str | None:
        """Why it is not run, None for what is."""
        if not self.python:
            matching = [start for start in NOT_RUN if self.text.startswith(start)]
            if matching:
                start = max(matching, key=len)
                # Without its flag the script wants all of ImageNet, with it a part is enough.
                return None if "--partial" in self.text else NOT_RUN[start]
        for start, reason in FRAGMENTS.items():
            if self.text.startswith(start):
                return reason
        return None

    @property
    def wants(self) -> list[str]:
        """The words of it that are in `NEEDED`."""
        return [word for word in NEEDED if word in self.text]

    def lacking(self) -> list[str]:
        """What it needs that is not here."""
        needed = (NEEDED[word] for word in self.wants)
        return [f"{self.text} (needs {what})" for there, what in needed if not there()]


def lines(path: Path) -> list[Line]:
    """What a document tells people to type, in its order; comments dropped."""
    found = []
    for kind, block in re.findall(r"```(bash|python)\n(.*?)```", path.read_text(), re.DOTALL):
        if kind == "python":
            found.append(Line(path.name, block, python=True))
            continue
        for text in block.replace("\\\n", " ").splitlines():
            if text := re.sub(r"(^|\s)#.*", "", text).strip():
                found.append(Line(path.name, " ".join(text.split())))
    return found


DOCUMENTS = {
    path.name: lines(path)
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
EVERYTHING = [line for document in DOCUMENTS.values() for line in document]


class Reader:
    """Somebody who follows documents in a folder; what was typed already is not typed again."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder, self.environment = folder, environment
        self.done: set[str] = set()

    def follow(self, document: str) -> list[str]:
        """Types its lines; returns those that need what is not here."""
        left = []
        for line in DOCUMENTS[document]:
            if line.reason is None and line.text not in self.done:
                if lacking := line.lacking():
                    left += lacking
                    continue
                with contextlib.chdir(self.folder), _set(self.environment):
                    self._type(line)
                self.done.add(line.text)
        return left

    def _type(self, line: Line) -> None:
        text = _smaller(line)
        if line.python:
            exec(compile(text, line.document, "exec"), {"__name__": "example"})
            return
        words = shlex.split(string.Template(text).safe_substitute(self.environment))
        if words[0] == "export":
            self.environment.update(word.split("=", 1) for word in words[1:])
            return
        found = own(words)
        if found is None or words[0] == "bash":
            words = [str(REPOSITORY / w) if w.endswith(".sh") else w for w in words]
            result = subprocess.run(words, capture_output=True, text=True, timeout=400)
            assert result.returncode == 0, f"{text}\n{result.stderr[-3000:]}"
            return
        module, rest = found
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            code = importlib.import_module(module).main([module, *rest])
        assert code == 0, f"{line.document}: {text}\n{told.getvalue()[-3000:]}"


@contextlib.contextmanager
def _set(environment: dict[str, str]):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


def _smaller(line: Line) -> str:
    text = line.text
    for word, real in PLACEHOLDERS.get(line.document, {}).items():
        text = re.sub(rf"(?<![\w|$/]){re.escape(word)}(?![\w|])", real, text)
    for words, fewer in SMALLER.items():
        text = re.sub(words, fewer, text)
    return text


def own(words: list[str]) -> tuple[str, list[str]] | None:
    """(what main takes the flags, its words) of a command of ours; None for another program's."""
    program, *rest = words
    if Path(program).name == "squeezenext":
        return COMMANDS[rest[0]][0], rest[1:]
    if program in ("bash", "python"):
        if rest[0] == "-m":
            return rest[1], rest[2:]
        assert (REPOSITORY / rest[0]).is_file(), f"{' '.join(words)}: there is no {rest[0]}"
        script = rest[0].removesuffix(".py").replace("/", ".") if program == "python" else None
        return (SCRIPTS.get(rest[0], script), rest[1:]) if SCRIPTS.get(rest[0], script) else None
    assert program in FOREIGN, f"{' '.join(words)}: whose command is this?"
    return None


@pytest.fixture(scope="module", autouse=True)
def _hurry():
    """What no flag makes smaller: --profile_input's 10 s, and how near to its budget a file is."""
    from squeezenext.train import measure as train_measure

    measure = train_measure._repeated
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_measure, "_repeated", lambda work, seconds: measure(work, 0.1))
        patch.setattr(allocation, "_UNUSED_BYTES", 0.3)
        patch.setattr(making, "PROBES", 6)
        yield


@pytest.fixture(scope="module")
def photographs(shared, tmp_path_factory) -> Reader:
    """PHOTOS with 15 photographs of 3 classes, photos, photo.jpg, photos.txt, and the weights."""
    folder = tmp_path_factory.mktemp("photographs")
    subprocess.run(["tar", "xf", shared / "imagenet-100.tar", "-C", folder], check=True)
    sources = sorted(folder.glob("n*/*"))[:3]
    (folder / "photos" / "more").mkdir(parents=True)
    for place, source in enumerate(sources):
        inside = folder / "PHOTOS" / source.parent.name
        inside.mkdir(parents=True)
        for number in range(5):
            with Image.open(source) as image:
                image.rotate(4 * number).convert("RGB").save(inside / f"{number}.jpg")
        shutil.copy(source, folder / "photos" / "more" / f"{place}.jpg")
    shutil.copy(sources[0], folder / "photo.jpg")
    if NEEDED["--video"][0]():
        _film(folder / "film.avi", folder / "photo.jpg")
    (folder / "photos.txt").write_text("photo.jpg\nphotos/more/0.jpg\n")
    (folder / "docs").symlink_to(REPOSITORY / "docs")
    for path in folder.glob("n*"):
        shutil.rmtree(path)
    return Reader(folder, _environment(shared, tmp_path_factory))


def _film(path: Path, photograph: Path) -> None:
    """A film of two seconds."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (320, 240))
    frame = cv2.resize(cv2.imread(str(photograph)), (320, 240))
    for _ in range(50):
        writer.write(frame)
    writer.release()


def _environment(shared, tmp_path_factory) -> dict[str, str]:
    """A cache of its own, but for the page's runtime, which is fetched once a machine."""
    cache = tmp_path_factory.mktemp("cache")
    fetched = published.cache().parent / "npm"
    fetched.mkdir(parents=True, exist_ok=True)
    (cache / "squeezenext").mkdir()
    (cache / "squeezenext" / fetched.name).symlink_to(fetched)
    weights = str(shared / "weights")
    return {"SQUEEZENEXT_WEIGHTS": weights, "XDG_CACHE_HOME": str(cache)}


@pytest.fixture(scope="module")
def imagenet(shared, tmp_path_factory) -> Reader:
    """The archives of a part of ImageNet in `imagenet`, and photo.jpg."""
    folder = tmp_path_factory.mktemp("imagenet")
    (folder / "imagenet").mkdir()
    real_imagenet(folder / "imagenet")
    image = next(name for name in _members(shared))
    (folder / "photo.jpg").write_bytes(image)
    (folder / "v_1_0_SqNxt_23.py").write_text(SHALLOW)
    return Reader(folder, {})


def _members(shared):
    with tarfile.open(shared / "imagenet-100.tar") as archive:
        for member in archive:
            if member.isfile():
                yield archive.extractfile(member).read()


@pytest.fixture(scope="module")
def reproduced(imagenet) -> Reader:
    imagenet.follow("reproduce.md")
    return imagenet


@pytest.fixture(scope="module")
def adapted(photographs) -> Reader:
    photographs.follow("adapt.md")
    return photographs


@pytest.fixture(scope="module")
def everything(adapted, reproduced) -> tuple[Reader, list[str]]:
    """All documents, whichever tests have run before, and the lines that cannot be typed here."""
    adapted.done |= reproduced.done
    first, *rest = DOCUMENTS  # README.md, which is of what the others have made
    return adapted, [line for document in (*rest, first) for line in adapted.follow(document)]


def _tell(left: list[str]) -> None:
    if left:
        pytest.skip(f"Not followed: {'; '.join(left)}")


def test_reproduce(reproduced):
    run = reproduced.folder / "runs" / "v_1_0_SqNxt_23"
    final = json.loads((run / "final.json").read_text())
    assert final["step"] == 3 and final["examples_seen"] == 96
    manifest = json.loads((reproduced.folder / "imagenet/tf-records/manifest.json").read_text())
    counts = {name: split["examples"] for name, split in manifest["splits"].items()}
    assert counts == {"train": 100, "validation": 100} and len(manifest["classes"]) == 1000
    assert not list(reproduced.folder.rglob("*.JPEG"))  # nothing was extracted
    for made in ("sheet.png", "history.png"):
        assert (reproduced.folder / made).stat().st_size > 10_000


def test_adapt(adapted):
    mine = adapted.folder / "mine"
    scores = json.loads((mine / "scores.json").read_text())
    assert scores["split"] == "validation" and scores["images"] == {"train": 12, "validation": 3}
    names = {"exported/model-float32.tflite", "exported/model-int8.tflite", "exported/model.sqz"}
    assert set(scores["files"]) == names
    assert (mine / "exported" / "model.sqz").stat().st_size <= 250_000
    card = (mine / "MODEL_CARD.md").read_text()
    assert "12 train, 3 validation" in card and "weights of squeezenet\\_v1\\_1" in card
    for name in names:
        assert f"`{name}`" in card
    report = (mine / "report" / "index.html").read_text()
    assert "Reliability" in report and "<polyline" in report  # the figures and the run's curves
    assert len(list((adapted.folder / "maps").iterdir())) == 3


def test_ship(adapted):
    left = adapted.follow("ship.md")
    sizes = {
        path.name: path.stat().st_size for path in adapted.folder.glob("mine*") if path.is_file()
    }
    assert sizes["mine-int8.tflite"] < 0.35 * sizes["mine.tflite"]
    assert sizes["mine.sqz"] <= 250_000
    assert (adapted.folder / "serving/1/saved_model.pb").is_file()
    assert "Probabilities are calibrated" in (adapted.folder / "mine/MODEL_CARD.md").read_text()
    assert (adapted.folder / "mine.onnx").is_file() or "mine.onnx" in str(left)
    assert (adapted.folder / "site/index.html").is_file() or "--output site" in str(left)
    _tell(left)


@pytest.mark.parametrize("document", ["doctor.md", "predict.md", "camera.md", "export.md",
                                      "compression.md", "micro.md", "weights.md", "training.md",
                                      "data.md", "clusters.md", "hub.md"])  # fmt: skip
def test_each_document(adapted, document):
    _tell(adapted.follow(document))


def test_readme(everything):
    """What the tutorials have not typed already; and no line of any document is left."""
    reader, left = everything
    for line in EVERYTHING:
        assert line.reason or line.text in reader.done or line.lacking(), line.text
    _tell(left)


class Serving(http.server.BaseHTTPRequestHandler):
    """Stands for TensorFlow Serving: keeps what it is asked."""

    protocol_version = "HTTP/1.1"  # in which curl asks first whether it may send much
    asked: list[tuple[str, bytes]] = []

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, content))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        del arguments


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_a_server_is_sent_a_photograph_of_any_size(tmp_path):
    """Linux takes 131,072 bytes of an argument."""
    line = next(line for line in DOCUMENTS["ship.md"] if "curl" in line.text)
    photo = bytes(range(256)) * 6000
    (tmp_path / "photo.jpg").write_bytes(photo)
    with http.server.HTTPServer(("127.0.0.1", 0), Serving) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        text = line.text.replace("localhost:8501", f"127.0.0.1:{server.server_port}")
        environment = os.environ | {"no_proxy": "*"}
        result = subprocess.run(["bash", "-o", "pipefail", "-c", text], cwd=tmp_path,
                                env=environment, capture_output=True, timeout=30)  # fmt: skip
    assert result.returncode == 0, result.stderr
    path, content = Serving.asked.pop()
    document = json.loads(content)
    assert path == "/v1/models/mine:predict" and document["signature_name"] == "encoded"
    assert base64.b64decode(document["instances"][0]["b64"]) == photo


def test_what_is_absent_is_told_and_asked_for_inside_tests_alone(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setitem(NEEDED, "--format web", (lambda: asked.append("npm"), "npm"))
    line = next(line for line in DOCUMENTS["ship.md"] if "--format web" in line.text)
    assert line.reason is None and not asked  # which is all that collecting looks at
    monkeypatch.setitem(DOCUMENTS, "ship.md", [line])
    reader = Reader(tmp_path, {})
    with pytest.raises(pytest.skip.Exception, match=r"--output site \(needs npm\)"):
        _tell(reader.follow("ship.md"))
    assert asked and not reader.done


def test_each_file_that_is_cited_is_there():
    """No document or program names a file that is absent; programs only docs/ and scripts/."""
    documents = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
    documents += (REPOSITORY / "docs").glob("*.md")
    programs = [
        path
        for folder in ("squeezenext", "datasets", "scripts", "tests")
        for path in (REPOSITORY / folder).rglob("*.py")
    ]
    absent = set()
    for paths, folders in (
        (programs, "docs|scripts"),
        (documents, "docs|scripts|squeezenext|configs|datasets|tests"),
    ):
        cited = re.compile(rf"(?<![\w/.])(?:{folders})/[\w/]+\.(?:md|py|sh)\b")
        absent |= {
            f"{path.relative_to(REPOSITORY)}: {name}"
            for path in paths
            for name in cited.findall(path.read_text())
            if not (REPOSITORY / name).is_file()
        }
    assert not absent


def test_what_is_not_run_is_in_the_documents():
    """No reason outlives its command."""
    for start in NOT_RUN:
        assert any(line.text.startswith(start) for line in EVERYTHING if not line.python), start


@pytest.mark.parametrize("line", [x for x in EVERYTHING
                                  if (x.reason or x.wants) and not x.python],
                         ids=lambda line: f"{line.document}: {line.text[:60]}")  # fmt: skip
def test_a_command_that_is_not_run_has_such_flags(line, capsys):
    words = shlex.split(line.text)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0], re.DOTALL):
        words.pop(0)  # the command's environment
    if words[:1] == ["srun"]:
        words = words[words.index("python") :]
    found = own(words) if words else None
    if found is None:
        return
    module, rest = found
    assert importlib.import_module(module).main([module, "--help"]) == 0
    told = capsys.readouterr()
    known = set(re.findall(r"--(?:\[no\])?([a-z0-9_]+)", told.out + told.err))
    flags = [found[1] for word in rest if (found := re.match(r"--(?:no)?([a-z0-9_]+)", word))]
    assert set(flags) <= known
    for flag, value in zip(rest, rest[1:], strict=False):
        if flag == "--configuration" and value != "NAME" and not value.startswith("hf://"):
            config_io.load(value)


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_no_figure_is_a_placeholder(document):
    path = REPOSITORY / ("" if document == "README.md" else "docs") / document
    assert not re.findall(r"@[A-Z]+@", path.read_text())


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_no_table_cell_is_a_paragraph(document):
    path = REPOSITORY / ("" if document == "README.md" else "docs") / document
    rows = [line for line in path.read_text().splitlines() if line.lstrip().startswith("|")]
    assert not [cell for row in rows for cell in row.split("|") if len(cell.strip()) > 200]
