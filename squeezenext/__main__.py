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
    "compress": ("squeezenext.compress.command", "make one small .sqz file of a model"),
    "convert": ("squeezenext.convert.command", "turn folders or archives of images into records"),
    "verify": ("squeezenext.convert.verify", "check records against their manifest"),
    "weights": ("squeezenext.weights", "read and write the weight files of other programs"),
    "stats": ("squeezenext.stats", "count parameters and multiply-adds"),
    "serve": ("squeezenext.serve", "answer HTTP requests with predictions"),
    "demo": ("squeezenext.demo", "serve a model's web page on this machine"),
}
_USAGE = """Train small image classifiers on your photographs, and ship them.

    squeezenext COMMAND [ARGUMENTS]
    squeezenext COMMAND --help
"""


def main() -> int:
    """Runs the command that `sys.argv` names; returns its exit code."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        width = max(map(len, COMMANDS))
        say(*_USAGE.splitlines(), *(f"  {x:{width}}  {does}" for x, (_, does) in COMMANDS.items()))
    elif name == "--version":
        say(f"squeezenext {squeezenext.__version__}")
    elif name in COMMANDS:
        sys.argv = [f"squeezenext {name}", *arguments]
        return importlib.import_module(COMMANDS[name][0]).main()
    else:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        log(f"error: There is no command {name!r}; {meant}squeezenext --help lists them all.")
        return 2
    return 0
