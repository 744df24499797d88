"""The program `squeezenext`: starts a command by its name, and imports no other."""

import difflib
import importlib
import sys

import squeezenext
from squeezenext.cli import log, say

COMMANDS = {  # the module that has its `main`, and what the command does
    "adapt": ("squeezenext.adapt.command", "make a classifier of a folder of photographs"),
    "doctor": ("squeezenext.doctor.command", "find faults among photographs before training"),
    "train": ("squeezenext.train.command", "train a configuration, or go on with its training"),
    "evaluate": ("squeezenext.evaluate.command", "score a model on every image of a split"),
    "predict": ("squeezenext.predict.command", "name what is in images"),
    "export": ("squeezenext.export.command", "write a model for phones, web pages and servers"),
    "push": ("squeezenext.export.push", "put a model on the Hugging Face Hub"),
    "compress": ("squeezenext.compress.command", "make one small .sqz file of a model"),
    "convert": ("squeezenext.convert.command", "turn folders or archives of images into records"),
    "verify": ("squeezenext.convert.verify", "check records against their manifest"),
    "weights": ("squeezenext.weights", "read and write the weight files of other programs"),
    "stats": ("squeezenext.stats", "count parameters and multiply-adds"),
    "serve": ("squeezenext.serve", "answer HTTP requests with predictions"),
    "demo": ("squeezenext.demo", "serve a model's web page on this machine"),
    "completion": ("squeezenext.__main__", "complete commands and flags in bash, zsh or fish"),
}
_USAGE = """Train small image classifiers on your photographs, and ship them.

    squeezenext COMMAND [ARGUMENTS]
    squeezenext COMMAND --help

Commands:
"""
# In these, NAMES are those of the commands. Flags are completed from what --help says at that time,
# all other words as file names. zsh runs the function of bash.
_BASH = r"""_squeezenext() {
    local word="${COMP_WORDS[COMP_CWORD]}" words=""
    if [[ $COMP_CWORD == 1 ]]; then
        words="NAMES"
    elif [[ $word == -* ]]; then
        words="$("${COMP_WORDS[0]}" "${COMP_WORDS[1]}" --help 2>/dev/null |
            sed -nE 's/^ *(-.,)?--(\[no\])?([a-z0-9_]+):.*/--\3/p')"
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _squeezenext squeezenext
"""
_ZSH = """(( $+functions[compdef] )) || { autoload -U compinit && compinit; }
autoload -U bashcompinit && bashcompinit
"""
_FISH = r"""complete -c squeezenext -n __fish_use_subcommand -f -a "NAMES"
complete -c squeezenext -n "string match -q -- '-*' (commandline -ct)" \
    -a "(squeezenext (commandline -opc)[2] --help 2>/dev/null |
        string replace -rf '^ *(-.,)?--(\[no\])?(\w+):.*' -- '--\$3')"
"""
_COMPLETION = {
    "bash": _BASH,
    "zsh": _ZSH + _BASH,
    "fish": _FISH,
    "--help": """Prints what a shell reads at its start to complete commands, flags and file names.

    eval "$(squeezenext completion bash)"     in ~/.bashrc
    eval "$(squeezenext completion zsh)"      in ~/.zshrc
    squeezenext completion fish | source      in ~/.config/fish/config.fish
""",
}


def main() -> int:
    """Runs the command that `sys.argv` names; returns its exit code."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        width = max(map(len, COMMANDS))
        rows = (f"  {name:{width}}  {does}" for name, (_, does) in COMMANDS.items())
        say(*_USAGE.splitlines(), *rows)
    elif name == "--version":
        say(f"squeezenext {squeezenext.__version__}")
    elif name == "completion":
        return _completion(" ".join(arguments))
    elif name in COMMANDS:
        sys.argv = [f"squeezenext {name}", *arguments]
        return importlib.import_module(COMMANDS[name][0]).main()
    else:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        return _wrong(f"There is no command {name!r}; {meant}squeezenext --help lists them all.")
    return 0


def _completion(shell: str) -> int:
    if shell not in _COMPLETION:
        return _wrong("Name your shell: squeezenext completion bash, zsh or fish.")
    say(*_COMPLETION[shell].replace("NAMES", " ".join(COMMANDS)).splitlines())
    return 0


def _wrong(sentence: str) -> int:
    log(f"error: {sentence}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
