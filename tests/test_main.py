"""The program `squeezenext`: its table of commands, and what it answers by itself."""

import importlib
import os
import subprocess
import sys
import zipfile

import pytest

import squeezenext
from squeezenext.__main__ import COMMANDS, main
from tests.conftest import REPOSITORY


def answer(monkeypatch, capsys, *arguments):
    """Exit code, standard output and standard error of `squeezenext ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["squeezenext", *arguments])
    return main(), *capsys.readouterr()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_how_it_is_called_by_this_name(name, monkeypatch, capsys):
    module, does = COMMANDS[name]
    code, text, _ = answer(monkeypatch, capsys, name, "--help")
    assert code == 0 and f"squeezenext {name}" in text and "python" not in text.split("\n\n")[1]
    assert callable(importlib.import_module(module).main)
    assert does[0].islower() and len(does) < 60 and not does.endswith(".")


def test_help_lists_the_commands(monkeypatch, capsys):
    for arguments in (), ("--help",), ("-h",):
        code, text, _ = answer(monkeypatch, capsys, *arguments)
        assert code == 0 and all(f"\n  {name} " in text for name in COMMANDS)


def test_the_version(monkeypatch, capsys):
    said = answer(monkeypatch, capsys, "--version")
    assert said == (0, f"squeezenext {squeezenext.__version__}\n", "")


@pytest.mark.parametrize(
    ("name", "said"), [("trian", "did you mean train? "), ("--gpu", ""), ("", "")]
)
def test_a_wrong_command_is_told_the_nearest(name, said, monkeypatch, capsys):
    code, _, error = answer(monkeypatch, capsys, name)
    lists = "squeezenext --help lists them all."
    assert (code, error) == (2, f"error: There is no command {name!r}; {said}{lists}\n")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("squeezenext ad", "adapt"),
        ("squeezenext stats --c", "--configuration --csv"),
        ("squeezenext stats x", ""),  # for which bash then looks among the files
        ("squeezenext nothing --c", ""),
    ],
)
def test_bash_completes_commands_and_flags(words, found):
    shell = """
squeezenext() { "$PYTHON" -m squeezenext "$@"; }
eval "$(squeezenext completion bash)"
COMP_WORDS=($WORDS) COMP_CWORD=$(($(wc -w <<<"$WORDS") - 1))
_squeezenext
echo "${COMPREPLY[@]}"
"""
    environment = os.environ | {"PYTHON": sys.executable, "WORDS": words}
    text = subprocess.check_output(["bash", "-c", shell], cwd=REPOSITORY, env=environment,
                                   text=True, timeout=60)  # fmt: skip
    assert text.strip() == found


@pytest.mark.parametrize("arguments", [[], ["tcsh"], ["bash", "zsh"]])
def test_completion_wants_one_of_its_shells(arguments, monkeypatch, capsys):
    assert answer(monkeypatch, capsys, "completion", *arguments) == (
        2, "", "error: Name your shell: squeezenext completion bash, zsh or fish.\n",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["squeezenext", "squeezenext.exe", "squeezenext-predict.exe"])
def test_the_installed_programs_say_in_one_sentence_what_is_missing(tmp_path, name):
    """Python runs archives, which pip's programs are on Windows."""
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("__main__.py", """
import sys
sys.modules["numpy"] = None
sys.argv = ["squeezenext", "predict", "photo.jpg"]
from squeezenext.__main__ import main
sys.exit(main())
""")  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, tmp_path / name], env=environment, text=True,
                            capture_output=True, timeout=60)  # fmt: skip
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert "numpy is not installed" in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_a_sentence():
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "-m", "squeezenext", "--help"], stdout=full,
                                stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
                                timeout=60)  # fmt: skip
    assert result.returncode == 75 and len(result.stderr.splitlines()) == 1


def test_only_the_chosen_command_is_imported():
    code = """
import sys
from squeezenext.__main__ import main
sys.argv = ["squeezenext", *sys.argv[1:]]
assert main() == 0
print(*(name for name in sys.modules if name.startswith("squeezenext.")))
"""

    def imported(*arguments):
        text = subprocess.check_output([sys.executable, "-c", code, *arguments], cwd=REPOSITORY,
                                       text=True, timeout=60)  # fmt: skip
        return set(text.splitlines()[-1].split())

    commands = {module for module, _ in COMMANDS.values()} - {"squeezenext.__main__"}
    few = imported("--help")
    assert not few & commands and len(few) < 10
    assert imported("stats", "--help") & commands == {"squeezenext.stats"}
