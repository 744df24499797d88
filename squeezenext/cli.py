"""Runs commands: parses their flags, and reports each fault in one sentence with an exit code.

Each command has its own `flags.FlagValues()`, so that importing two commands into one process, as
the tests do, never defines a flag twice.
"""

import codecs
import collections
import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from squeezenext import tf_import
from squeezenext.arguments import ON_HUB, is_hub, is_url, refuse_remote
from squeezenext.errors import EXIT_CODES, InputError, installed, interrupts, missing_package
from squeezenext.files import is_leftover

Log = Callable[[str], None]  # receives sentences about progress; commands pass `log`
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST = 200  # bytes of an output's name; file systems take 255
_ROOM = "make room and run the same command again."
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_MISPLACED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)


def run(
    command: Callable[[flags.FlagValues, list[str]], None],
    values: flags.FlagValues,
    usage: str,
    argv: Sequence[str] | None = None,
    *,
    required: Sequence[str] = (),
    positional: bool = False,
    resumes: bool = False,
    prints: bool = False,
    addresses: Sequence[str] = (),
) -> int:
    """Parses `argv`, runs `command(values, arguments)` and returns the exit code.

    Args:
      command: a function of the parsed flags and the positional arguments.
      values: the command's flags; `--help` and `--debug` are added.
      usage: text for `--help`, above the flags.
      argv: the command line with the program's name first; default `sys.argv`.
      required: names of flags that must be given.
      positional: allow positional arguments.
      resumes: the command, interrupted and given again, goes on.
      prints: standard output is what the command is for, so it must not be closed.
      addresses: names of flags that may be addresses, such as s3://..., which the command checks
        itself; "argument" for the positional ones.

    Returns:
      0: done; 1: some inputs failed, or an internal fault; 2: wrong usage; 75: run again.
    """
    if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    argv = list(sys.argv if argv is None else argv)
    _define_common(values)
    closed = sys.stdout is None
    _open_closed_streams()
    _print_any_text()
    try:
        arguments = [os.path.expanduser(argument) for argument in list(values(argv))[1:]]
        _expand_home(values)
    except flags.Error as error:
        text = str(error).rstrip()
        return _fail(f"{text}{'' if text.endswith(('.', '?')) else '.'} Try --help.", 2)
    if values["help"].value:
        if argv[0].startswith("squeezenext "):  # a command of the program, see __main__.py
            usage = re.sub(r"python (-m [\w.]+|predict\.py)", argv[0], usage)
        return guarded(lambda: print(f"{usage.strip()}\n\n{values.get_help().strip()}"))
    tf_import.settle(values["debug"].value)

    def checked() -> None:
        _check(values, arguments, required, positional, addresses)
        if closed and prints:
            raise InputError("Standard output is closed; to print nothing, give >/dev/null.")
        command(values, arguments)

    code = guarded(checked, values["debug"].value, resumes)
    if signal.getsignal(signal.SIGINT) is interrupt:  # too late: the work is done
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def interrupt(number: int, frame: object) -> None:
    """Handles the first signal of a kind like Ctrl-C; a second one ends the process at once.

    Processes of a pool do not: a broken pool ends its other processes by SIGTERM.
    """
    del frame
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def _check(
    values: flags.FlagValues,
    arguments: list[str],
    required: Sequence[str],
    positional: bool,
    addresses: Sequence[str],
) -> None:
    if arguments and not positional:
        raise InputError(f"Unexpected argument {arguments[0]!r}; flags begin with --.")
    empty = [
        f"--{name}" for name in values if values[name].present and values[name].value in ("", [""])
    ]
    if empty := [*empty, *("An argument" for argument in arguments if not argument)]:
        raise InputError(f"{empty[0]} is empty; is a variable of the shell not set?")
    for name in values:
        text, on_hub = values[name].value, name in ON_HUB and is_hub(values[name].value)
        if isinstance(text, str) and name not in addresses and not on_hub:
            refuse_remote(f"--{name}", text)
    for argument in arguments:
        if not (is_url(argument) or is_hub(argument) or "argument" in addresses):
            refuse_remote("The argument", argument)
    require_flags(values, required)


def require_flags(values: flags.FlagValues, names: Sequence[str]) -> None:
    """Raises InputError if a flag was not given; absl's own check would reject --help, too."""
    for name in names:
        if values[name].value in (None, ""):
            raise InputError(f"--{name} is missing; --help shows how to call this command.")


def check_needed(values: flags.FlagValues, needed: dict[str, str]) -> None:
    """Raises InputError if a flag was given without another one (by name) that it needs."""
    for name, other in needed.items():
        if values[name].present and not values[other].value:
            raise InputError(f"--{name} means nothing without --{other}; give both, or neither.")


def _define_common(values: flags.FlagValues) -> None:
    if "help" not in values:
        flags.DEFINE_bool("help", False, "Show this text.", short_name="h", flag_values=values)
        flags.DEFINE_bool("debug", False, "Show tracebacks.", flag_values=values)


def _open_closed_streams() -> None:
    """Opens standard streams that the caller has closed, as by `>&-`, onto nothing.

    Python has None in their place, and the next file that is opened would get their number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def _print_any_text() -> None:
    """Makes standard output and standard error accept any text in any encoding.

    A name that is not UTF-8 is written as its bytes, a character that an encoding lacks as its
    number: neither may end a command that has hours of work behind it.
    """
    codecs.register_error("any_text", _any_text)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # not a text file, as under a test
            stream.reconfigure(errors="any_text")  # type: ignore[union-attr]


def _any_text(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replaces the first character that cannot be encoded, as a handler of codec errors."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    error.end = error.start + 1
    surrogate = "\udc80" <= error.object[error.start] <= "\udcff"  # a byte that is not UTF-8
    return codecs.lookup_error("surrogateescape" if surrogate else "backslashreplace")(error)


def _expand_home(values: flags.FlagValues) -> None:
    """Expands "~", which a shell leaves in --model_dir=~/mine and in quotes."""
    for name in values:
        if isinstance(values[name].value, str):
            values[name].value = os.path.expanduser(values[name].value)


def guarded(work: Callable[[], None], debug: bool = False, resumes: bool = False) -> int:
    """Runs `work`; reports an exception as one sentence on standard error and an exit code."""
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the pipe, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except (KeyboardInterrupt, Exception) as error:
        if interrupts(error):
            how = "to go on" if resumes else "to begin anew"
            return _fail(f"Interrupted; run the same command again {how}.", 75)
        unnamed = isinstance(error, OSError) and error.filename is None
        if unnamed and (fault := _output_fault()):
            return _fail(*fault)
        if debug:
            raise
        return _fail(*sentence(error))
    return 0


def _output_fault() -> tuple[str, int] | None:
    """Returns sentence and exit code if standard output cannot be written, and drops its buffer.

    An error of write() names no file, so another attempt is the only way to find out.
    """
    try:
        sys.stdout.flush()
        os.write(1, b"\n")
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python fails once more at exit
        where = f"Standard output cannot be written: {error.strerror}"
        return (f"{where}; {_ROOM}", 75) if error.errno in FULL else (f"{where}.", 1)
    return None


def sentence(error: BaseException) -> tuple[str, int]:
    """Returns the sentence about an exception, and its exit code."""
    for kind, code in EXIT_CODES.items():
        if isinstance(error, kind):
            return str(error), code
    if missing := missing_package(error):
        return missing, 2
    if reason := _full_disk(error):
        name = getattr(error, "filename", None)
        return f"{reason}{f' ({name})' if name else ''}; {_ROOM}", 75
    if isinstance(error, OSError) and error.errno in _FORBIDDEN and error.filename:
        return f"{error.filename}: {error.strerror}; name another place, or change its rights.", 2
    if isinstance(error, OSError) and error.errno in _MISPLACED and error.filename:
        return f"{error.filename}: {error.strerror}; name another place.", 2
    return f"{type(error).__name__}: {error} (--debug shows where.)", 1


def _full_disk(error: BaseException) -> str:
    """Returns the system's words for a full disk, which TensorFlow puts into its own, or ""."""
    if isinstance(error, OSError):
        return (error.strerror or "") if error.errno in FULL else ""
    if type(error).__name__ != "ResourceExhaustedError":
        return ""
    return next((text for text in map(os.strerror, FULL) if text in str(error)), "")


def _fail(sentence: str, code: int) -> int:
    log(f"error: {sentence}")
    return code


def log(text: str) -> None:
    """Writes a line to standard error, `printable`."""
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:  # full, or a pipe whose reader has ended: no reason to end the work
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # else Python fails once more at exit


def say(*lines: str) -> None:
    """Prints lines to standard output; on a terminal, which they could control, `printable`."""
    for line in lines:
        print(printable(line) if sys.stdout.isatty() else line)


def printable(text: str) -> str:
    r"""Returns a text with control characters escaped as \n or \x1b, as `ls` does."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def csv_cell(text: str) -> str:
    """Returns a cell of a CSV file that a spreadsheet does not take for a formula."""
    return f"'{text}" if len(text) > 1 and text[0] in "=+-@\t\r" else text


def plural(count: int, one: str, more: str = "") -> str:
    """Returns "1 image" or "2,000 images"; `more` is for "files were" and its like."""
    if count == 1:
        return f"1 {one}"
    return f"{count:,} {more or one + ('es' if one.endswith('s') else 's')}"


def size_text(size: int) -> str:
    """Returns a number of bytes as people read it: "12 kB", "3.4 MB" or "1.2 GB"."""
    if size < 999_500:
        return f"{max(1, round(size / 1e3)) if size else 0} kB"
    return f"{size / 1e6:.1f} MB" if size < 999.95e6 else f"{size / 1e9:.1f} GB"


def module_command(module: str) -> str:
    """Returns the command that runs a module of `datasets`, in a clone or as installed."""
    return f"python -m {'squeezenext.' if installed() else ''}{module}"


def counted(counts: collections.Counter[str]) -> str:
    """Returns the five most frequent things with their counts: "12 .heic, 3 .tif, 1 .pdf"."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [f"{count} {name}" for name, count in ordered[:5]]
    rest = sum(count for _, count in ordered[5:])
    return ", ".join([*rows, f"{rest} others"] if rest else rows)


def cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_length(flag: str, path: Path) -> None:
    """Raises InputError if an output's name is too long for its temporary file's beside it."""
    if len(os.fsencode(path.name)) > _LONGEST:
        raise InputError(f"--{flag} {path}: the name is longer than {_LONGEST} bytes; shorten it.")


def check_file(flag: str, path: Path) -> None:
    """Checks that a file can be written.

    Raises:
      InputError: it cannot.
    """
    check_length(flag, path)
    if path.is_dir():
        raise InputError(f"--{flag} {path} is a folder; name a file.")
    if not path.parent.is_dir():
        raise InputError(f"--{flag} {path}: there is no folder {path.parent}.")
    check_writable(flag, path)


def check_writable(flag: str, path: Path) -> None:
    """Raises InputError if nothing can be written into the folder of an output."""
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--{flag} {path} cannot be written: {path.parent} is not yours to write.")


def check_folder(flag: str, path: Path, *names: str) -> None:
    """Checks that a folder can be written, or made, and that our files would not mix with others.

    Args:
      flag: name of the flag that names the folder.
      path: the folder.
      names: patterns of the names that the command gives its files there.

    Raises:
      InputError: it cannot, or other files are there.
    """
    nearest = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise InputError(f"--{flag} {path} cannot be a folder: {nearest} is a file.")
    if not os.access(nearest, os.W_OK):
        raise InputError(f"--{flag} {path} cannot be made: {nearest} is not yours to write.")
    for inside in sorted(path.iterdir()) if path.is_dir() else ():
        if not (any(map(inside.match, names)) or is_leftover(inside.name)):
            raise InputError(
                f"--{flag} {path} holds something else ({inside.name}); choose another folder, "
                f"such as {path / flag}."
            )
