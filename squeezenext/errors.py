"""Faults outside the program, and their exit codes."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from types import TracebackType

Hook = Callable[[type[BaseException], BaseException, TracebackType | None], object]


class InputError(ValueError):
    """A fault in the user's input: one sentence with the fault and its remedy. Exit code 2."""


class SomeInputsFailed(RuntimeError):
    """The work is done except for some inputs, which have been reported. Exit code 1."""


class NotFinite(RuntimeError):
    """A gradient is not finite and no loss scale is at fault. Exit code 1."""


class NotKept(RuntimeError):
    """A written file does not answer like its model, and was removed. Exit code 1."""


class RunAgain(RuntimeError):
    """Busy or interrupted: nothing is lost, and the same command goes on later. Exit code 75."""


EXIT_CODES = {SomeInputsFailed: 1, NotFinite: 1, NotKept: 1, InputError: 2, RunAgain: 75}


def missing_package(error: BaseException, extra: str = "train") -> str:
    """Returns a sentence about a package that is not installed, "" for any other error."""
    named = error.name if isinstance(error, ModuleNotFoundError) else None
    name = (named or "").partition(".")[0]
    if name in ("", "squeezenext", "configs", "datasets"):
        return ""
    return f"The Python package {name} is not installed in this environment; {install(extra)}"


def install(extra: str) -> str:
    """Returns the line to type to install an extra of the package, such as "train".

    Double quotes mean the same to the shells of Linux, macOS and Windows.
    """
    if installed():
        return f'type: {sys.executable} -m pip install "squeezenext[{extra}]"'
    file = "" if extra == "train" else f" requirements-{extra}.txt"
    return f"type in the repository's folder: bash scripts/setup.sh{file}"


def installed() -> bool:
    """Returns True in the installed package, which contains `datasets`, and False in a clone."""
    return os.path.isdir(os.path.join(os.path.dirname(__file__), "datasets"))


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Raises InputError that names the extra to install if an import in the block fails.

        with needs("onnx"):
            import onnx

    Raises:
      InputError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(missing_package(error, extra) or str(error)) from error


def interrupts(error: BaseException | None) -> bool:
    """Returns whether Ctrl-C is an error's cause: a native module makes an ImportError of it."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def excepthook(before: Hook) -> Hook:
    """Returns a `sys.excepthook` that reports what ends a command of ours before `cli.run` starts.

    That is a package that is not installed, or Ctrl-C while the packages are imported. `before` is
    the hook for everything else, as for the programs of others that import this one.
    """

    def hook(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> object:
        missing = str(error) if kind is InputError else missing_package(error)  # of `needs`
        interrupted = interrupts(error)
        if "--debug" in sys.argv or not (missing or interrupted) or not _is_command(trace):
            return before(kind, error, trace)
        sys.stderr.write(f"error: {missing or 'Interrupted.'}\n")
        if kind is not KeyboardInterrupt:
            raise SystemExit(2 if missing else 130)
        return None  # Python itself ends the process as Ctrl-C does: 130 in a shell

    return hook


def _is_command(trace: TracebackType | None) -> bool:
    """Returns whether the program is a command of ours: its outermost file is."""
    while trace and trace.tb_frame.f_code.co_filename.startswith("<frozen "):  # runpy, for -m
        trace = trace.tb_next
    program = os.path.realpath(trace.tb_frame.f_code.co_filename if trace else "")
    home = os.path.dirname(os.path.realpath(__file__))
    ours = [os.path.join(os.path.dirname(home), name) for name in ("predict.py", "datasets")]
    installed_name = os.path.basename(program.removesuffix(f"{os.sep}__main__.py"))  # in pip's .exe
    return re.match(r"squeezenext(-|\.exe$|$)", installed_name) is not None or any(
        program == place or program.startswith(place + os.sep) for place in (home, *ours)
    )
