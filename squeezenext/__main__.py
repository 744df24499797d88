"""The program `squeezenext`: runs the command that is named first, and imports no other."""

import difflib
import importlib
import sys

import squeezenext
from squeezenext.cli import guarded, say
from squeezenext.errors import InputError

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
    "--help": """Prints a script by which a shell completes commands, flags and file names.

    eval "$(squeezenext completion bash)"     in ~/.bashrc
    eval "$(squeezenext completion zsh)"      in ~/.zshrc
    squeezenext completion fish | source      in ~/.config/fish/config.fish
""",
}


def main() -> int:
    """Runs the command that `sys.argv` names; returns its exit code."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in COMMANDS and name != "completion":
        sys.argv = [f"squeezenext {name}", *arguments]
        return importlib.import_module(COMMANDS[name][0]).main()
    return guarded(lambda: say(*_answer(name, " ".join(arguments)).splitlines()))


def _answer(name: str, argument: str) -> str:
    """Returns the text of --help or the script of completion.

    Raises:
      InputError: there is no such command, or shell to complete it in.
    """
    if name in ("--help", "-h"):
        width = max(map(len, COMMANDS))
        return _USAGE + "".join(f"  {x:{width}}  {does}\n" for x, (_, does) in COMMANDS.items())
    if name == "--version":
        return f"squeezenext {squeezenext.__version__}"
    if name == "completion":
        if argument not in _COMPLETION:
            raise InputError("Name your shell: squeezenext completion bash, zsh or fish.")
        return _COMPLETION[argument].replace("NAMES", " ".join(COMMANDS))
    near = difflib.get_close_matches(name, COMMANDS, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"There is no command {name!r}; {meant}squeezenext --help lists them all.")


if __name__ == "__main__":
    sys.exit(main())
