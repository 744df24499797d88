"""How every command reads its flags and reports its faults.

A command owns its flags (`flags.FlagValues()`), so that importing two commands into one
process, as the tests do, never defines a flag twice.
"""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from absl import flags

from squeezenext import tf_import
from squeezenext.errors import EXIT_CODES, InputError

Say = Callable[[str], None]  # how a library function tells what it does; a command gives `tell`
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def run(
    command: Callable[[flags.FlagValues, list[str]], None],
    values: flags.FlagValues,
    usage: str,
    argv: Sequence[str] | None = None,
    *,
    required: Sequence[str] = (),
    positional: bool = False,
) -> int:
    """Parses `argv`, runs `command(values, arguments)` and returns the exit code.

    Args:
      command: called with the parsed flags and the positional arguments.
      values: the command's own flags; `--help` and `--debug` are added here.
      usage: shown by `--help` above the flags.
      argv: the command line with the program's name first; default `sys.argv`.
      required: names of the flags without which the command is not run.
      positional: whether the command takes arguments without a flag.

    Returns:
      0 done, 1 some inputs failed or an internal fault, 2 usage, 75 run again.
    """
    argv = list(sys.argv if argv is None else argv)
    _define_common(values)
    try:
        arguments = list(values(argv))[1:]
    except flags.Error as error:
        said = str(error).rstrip()
        return _say(f"{said}{'' if said.endswith(('.', '?')) else '.'} Try --help.", 2)
    if values["help"].value:
        return _guarded(lambda: print(f"{usage.strip()}\n\n{values.get_help().strip()}"), False)
    tf_import.settle(values["debug"].value)

    def checked() -> None:
        _check(values, arguments, required, positional)
        command(values, arguments)

    return _guarded(checked, values["debug"].value)


def _check(
    values: flags.FlagValues, arguments: list[str], required: Sequence[str], positional: bool
) -> None:
    if arguments and not positional:
        raise InputError(f"Unexpected argument {arguments[0]!r}; flags begin with --.")
    for name in required:  # absl's own check would refuse --help, too
        if values[name].value in (None, ""):
            raise InputError(f"--{name} is missing; --help shows how to call this command.")


def _define_common(values: flags.FlagValues) -> None:
    if "help" not in values:
        flags.DEFINE_bool("help", False, "Show this text.", short_name="h", flag_values=values)
        flags.DEFINE_bool("debug", False, "Show tracebacks.", flag_values=values)


def _guarded(work: Callable[[], None], debug: bool) -> int:
    """Runs `work`; every fault becomes one sentence on standard error and its exit code."""
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except KeyboardInterrupt:
        return _say("Interrupted; run the same command again to go on.", 75)
    except Exception as error:
        unnamed = isinstance(error, OSError) and error.filename is None
        if unnamed and (fault := _output_fault()):
            return _say(fault, 1)
        if debug:
            raise
        return _say(*sentence(error))
    return 0


def _output_fault() -> str | None:
    """Says what keeps standard output from being written; what waits for it is dropped.

    An error of write() names no file, so the only way to know is to try again.
    """
    try:
        sys.stdout.flush()
        os.write(1, b"\n")
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python fails once more at its end
        return f"Standard output cannot be written: {error.strerror}."
    return None


def sentence(error: Exception) -> tuple[str, int]:
    """Returns what to say of a fault, and its exit code."""
    for kind, code in EXIT_CODES.items():
        if isinstance(error, kind):
            return str(error), code
    if isinstance(error, OSError) and error.errno in _FULL:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}; make room and run the same command again.", 75
    if isinstance(error, OSError) and error.errno in _FORBIDDEN and error.filename:
        return f"{error.filename}: {error.strerror}; name another place, or change its rights.", 2
    return f"{type(error).__name__}: {error} (--debug shows where.)", 1


def _say(sentence: str, code: int) -> int:
    print(f"error: {shown(sentence, sys.stderr)}", file=sys.stderr)
    return code


def log(text: str) -> None:
    """Writes a sentence to standard error."""
    print(shown(text, sys.stderr), file=sys.stderr)


tell = log


def shown(text: str, stream: TextIO) -> str:
    """Returns a text for a stream; on a terminal, `printable`, so that it cannot drive it."""
    return printable(text) if stream.isatty() else text


def printable(text: str) -> str:
    """Returns a text with line ends, escapes and the like written as \\n, \\x1b, as `ls` does."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def check_file(flag: str, path: Path) -> None:
    """Raises:
    InputError: no file can be written there.
    """
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"--{flag} {path} cannot be written: {folder} must be a folder of yours.")


def check_folder(flag: str, path: Path) -> None:
    """Raises:
    InputError: there is no such folder that can be written, and none can be made.
    """
    nearest = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"--{flag} {path} cannot be a folder: {nearest} cannot be written to.")
