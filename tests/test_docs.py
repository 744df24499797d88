"""What README.md and docs/ tell people to type exists: every command, flag, file and field."""

import importlib
import re
import shlex

import pytest

from squeezenext import config_io
from tests.conftest import REPOSITORY

SCRIPTS = {  # what the shell scripts hand their arguments to
    "run_train.sh": "squeezenext.train",
    "datasets/process_downloaded_imagenet.sh": "datasets.convert",
    "predict.py": "predict",
}
FOREIGN = {"source", "pip", "cd", "docker", "curl", "kubectl", "srun", "sbatch", "export", "git",
           "apt-get", "[[", "mkdir", "tar", "for", "done", "npm"}  # fmt: skip


def commands():
    """(file, command's words) of every line of every ```bash block, continuations joined."""
    for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]:
        for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)  # the command's environment
                if words:
                    yield path.name, words


def own(words):
    """(what main takes the flags, its words) of a command of ours; None for another program's."""
    program, *rest = words
    if program in FOREIGN:
        return None
    if program in ("bash", "python"):
        if rest[0] == "-m":
            return rest[1], rest[2:]
        assert (REPOSITORY / rest[0]).is_file(), f"{' '.join(words)}: there is no {rest[0]}"
        script = rest[0].removesuffix(".py").replace("/", ".") if program == "python" else None
        return SCRIPTS.get(rest[0], script), rest[1:]
    assert program.startswith("squeezenext-"), f"{' '.join(words)}: whose command is this?"
    return f"squeezenext.{program.removeprefix('squeezenext-')}", rest


CASES = list(dict.fromkeys((name, tuple(words)) for name, words in commands()))


@pytest.mark.parametrize(("name", "words"), CASES, ids=lambda x: x if isinstance(x, str) else "")
def test_documented_command_exists(name, words, capsys):
    found = own(list(words))
    if found is None or found[0] is None:
        return
    module, rest = found
    importlib.import_module(module)  # there is such a module
    flags = [
        re.match(r"\[?--(?:no)?([a-z0-9_]+)", word)[1]
        for word in rest
        if re.match(r"\[?--[a-z]", word)
    ]
    if flags:
        known = _known(module, capsys)
        for flag in flags:
            assert flag in known, f"{name}: {module} has no flag --{flag}"
    _check_values(rest)


_KNOWN: dict[str, set] = {}


def _known(module, capsys):
    if module not in _KNOWN:
        assert importlib.import_module(module).main([module, "--help"]) == 0
        told = capsys.readouterr()
        _KNOWN[module] = set(re.findall(r"--(?:\[no\])?([a-z0-9_]+)", told.out + told.err))
    return _KNOWN[module]


def _check_values(rest):
    """--configuration names a module of configs/, and --set a field that takes the value."""
    config = None
    for flag, value in zip(rest, rest[1:], strict=False):
        if flag == "--configuration" and value.islower():
            config = config_io.load(value)
    for flag, value in zip(rest, rest[1:], strict=False):
        if flag == "--set" and not value.isupper():
            config_io.override(config or config_io.load("v_1_0_SqNxt_23"), value)
