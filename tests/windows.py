r"""A stand-in for Windows: what that system lacks is taken away from a process on Linux.

    python -m tests.windows FOLDER [--windows] [PHOTOS]

converts, trains, resumes, adapts and predicts in FOLDER, and prints the SHA-256 of what these
leave. FOLDER/photos holds photographs and FOLDER/base a model directory, from which adapt begins;
with PHOTOS, all use those photographs instead, and adapt its usual network. With --windows the
stand-in is in place, in the processes of the converter, too.

For our own modules, `os`, `signal` and others have only the names that Windows has, by the stubs of
mypy, and `fcntl`, `resource` and others cannot be imported; Python and the libraries keep theirs,
since they have their own code for Windows. For every module, files below FOLDER behave as there:
none that is open is renamed, replaced or removed; no folder is opened, so none is flushed; names in
which case alone differs are one; text gets "\r\n" and cp1252 where the code chooses nothing else.
This cannot show what the real system's disks, drive letters, consoles and antivirus programs do.
"""

import ast
import builtins
import errno
import functools
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import sys
import types
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
OURS = {"configs", "datasets", "predict", "squeezenext"}
LACKING = {"errno", "os", "select", "signal", "socket", "time"}
ABSENT = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
_RESERVED = re.compile(r'[<>:"\\|?*\0-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.I)
_BINARY = 1 << 29
SHORT = ("--configuration=base", "--minutes=0.001", "--max_bytes=0")
IN_WORKERS = """import sys
sys.path.insert(0, {!r})
from tests import windows
windows.take_away({!r})
"""


@functools.cache
def lacks(module: str) -> frozenset[str]:
    """Returns the names of a module that Linux has and Windows lacks."""
    stubs = Path(importlib.util.find_spec("mypy").origin).parent / "typeshed" / "stdlib"
    file = next(x for x in (stubs / f"{module}.pyi", stubs / module / "__init__.pyi") if x.exists())
    body = ast.parse(file.read_text("utf-8")).body
    return frozenset({*_names(body, "linux")} - {*_names(body, "win32")})


def _names(body: list[ast.stmt], platform: str):
    system = types.SimpleNamespace(platform=platform, version_info=sys.version_info)
    for node in body:
        if isinstance(node, ast.If):
            holds = eval(ast.unparse(node.test), {"sys": system})  # noqa: S307  mypy's own text
            yield from _names(node.body if holds else node.orelse, platform)
        elif isinstance(node, ast.ImportFrom):
            yield from (name.asname or name.name for name in node.names)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            yield ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
        elif hasattr(node, "name"):
            yield node.name


def take_away(folder: str | Path) -> None:
    """Puts the stand-in into this process, with its rules for the files below `folder`."""
    twins = {name: _stripped(name) for name in LACKING}
    real = builtins.__import__

    def imported(name, globals=None, *more, **named):
        top = name.partition(".")[0]
        if ((globals or {}).get("__name__") or "").partition(".")[0] in OURS:
            if top in ABSENT:
                raise ModuleNotFoundError(f"No module named {top!r}", name=top)
            if top in twins:
                return twins[top]
        return real(name, globals, *more, **named)

    builtins.__import__ = imported
    builtins.open = io.open = functools.partial(_opened, io.open)
    shutil._use_fd_functions = False
    sys.addaudithook(functools.partial(_check, os.path.realpath(folder)))


def _stripped(name: str) -> types.ModuleType:
    module, twin = importlib.import_module(name), types.ModuleType(name)
    vars(twin).update({k: v for k, v in vars(module).items() if k not in lacks(name)})
    if name == "os":
        text: set[int] = set()  # descriptors that change the ends of lines

        def opened(path, flags, *more, **named):
            descriptor = os.open(path, flags & ~_BINARY, *more, **named)
            (text.discard if flags & _BINARY else text.add)(descriptor)
            return descriptor

        def written(descriptor, data):
            if descriptor in text:
                data = bytes(data).replace(b"\n", b"\r\n")
            return os.write(descriptor, data)

        twin.name, twin.O_BINARY, twin.open, twin.write = "nt", _BINARY, opened, written
    return twin


def _opened(real, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *more,
            **named):  # fmt: skip
    if "b" not in mode:
        encoding = "cp1252" if encoding in (None, "locale") else encoding
        newline = "\r\n" if newline is None and "r" not in mode else newline
    return real(file, mode, buffering, encoding, errors, newline, *more, **named)


def _check(folder: str, event: str, given: tuple) -> None:
    """Refuses what Windows refuses, as an audit hook."""
    if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.link"):
        return
    named = [os.fsdecode(x) for x in given[:2] if isinstance(x, str | bytes | Path)]
    paths = [x for x in map(os.path.abspath, named) if x.startswith(folder + os.sep)]
    for path in paths:
        if event == "open" and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Windows opens no folder", path)
        if event in ("os.rename", "os.remove") and (held := _held(path)):
            raise PermissionError(errno.EACCES, f"Windows: {held} is open", path)
    if paths and event != "os.remove" and (event != "open" or given[2] & os.O_CREAT):
        place, name = os.path.split(paths[-1])
        if _RESERVED.search(name):
            raise OSError(errno.EINVAL, "Windows allows no such name", paths[-1])
        twins = [x for x in os.listdir(place) if x != name and x.casefold() == name.casefold()]
        if twins:
            raise FileExistsError(errno.EEXIST, f"on Windows the same name as {twins[0]}", name)


def _held(path: str) -> str:
    """Returns a file that this process has open or mapped at a path or below it, or ""."""
    found = {line.split(maxsplit=5)[5].rstrip() for line in _lines("/proc/self/maps")}
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # that of listdir
            continue
    return next((x for x in sorted(found) if x == path or x.startswith(path + os.sep)), "")


def _lines(path: str) -> list[str]:
    with io.FileIO(path) as file:
        return [line for line in file.readall().decode().splitlines() if "/" in line]


def story(folder: Path, photos: str | None, interrupt: bool) -> dict[str, str]:
    """Runs the commands in `folder`; returns the SHA-256 of the files without times, by name."""
    os.chdir(folder)
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # as --deterministic; TensorFlow is imported here
    from datasets import convert
    from squeezenext import adapt, predict, train
    from squeezenext.convert import digits
    from squeezenext.model import checkpoint
    from squeezenext.train.loop import Loop

    def run(command, *arguments: str, code: int = 0) -> None:
        print("$", *arguments, file=sys.stderr)
        found = command.main(list(arguments))
        if found != code:
            raise SystemExit(f"{arguments}: exit code {found}, not {code}")

    run(convert, "convert", "--layout=folder", f"--source={photos or 'photos'}", "--output=records",
        "--workers=2")  # fmt: skip
    if not Path("digits").exists():
        run(digits, "digits", "--output=digits")
    run(convert, "convert", "--layout=folder", "--source=digits", "--output=digit-records",
        "--workers=2")  # fmt: skip
    training = ("train", "--configuration=quickstart", "--data_dir=digit-records", "--num_epochs=2",
                "--model_dir=run", "--deterministic", "--checkpoint_minutes=0")  # fmt: skip
    if interrupt:
        whole = Loop.train

        def interrupted(self, *given):
            if checkpoint.steps(Path("run/checkpoints")):
                raise KeyboardInterrupt
            return whole(self, *given)

        Loop.train = interrupted
        run(train, *training, code=75)
        Loop.train = whole
    run(train, *training)
    begin = ("--minutes=0.2",) if photos else SHORT
    run(adapt, "adapt", photos or "photos", "--model_dir=mine", "--deterministic", *begin)
    image = str(sorted(Path(photos or "photos").glob("**/*.jpg"))[0])
    run(predict, "predict", image, "--model_dir=mine", "--explain=maps")
    patterns = ("records/*", "digit-records/*", "run/final.json", "run/model.tflite", "mine/*.json",
                "mine/MODEL_CARD.md", "mine/model.tflite", "mine/exported/*", "maps/*")  # fmt: skip
    paths = sorted(x for pattern in patterns for x in Path().glob(pattern) if x.is_file())
    return {str(x): hashlib.sha256(x.read_bytes()).hexdigest() for x in paths}


def main() -> None:
    folder, *others = sys.argv[1:]
    windows = "--windows" in others
    folder = Path(folder).resolve()
    if windows:
        (folder / "site").mkdir(parents=True, exist_ok=True)
        (folder / "site" / "sitecustomize.py").write_text(
            IN_WORKERS.format(str(REPOSITORY), str(folder))
        )
        os.environ["PYTHONPATH"] = str(folder / "site")
        take_away(folder)
    from squeezenext.adapt import command
    from squeezenext.config import io as config_io
    from squeezenext.config import zoo

    photos = next((x for x in others if x != "--windows"), None)
    if not photos:  # the model directory counts as a published model
        load = config_io.load
        command.PUBLISHED["base"] = zoo.Published("", (), "", "base")
        own = functools.partial(config_io.read, Path("base/config.json"))
        config_io.load = lambda name: own() if name == "base" else load(name)
    print(json.dumps(story(folder, photos, windows)))


if __name__ == "__main__":
    main()
