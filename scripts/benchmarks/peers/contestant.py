"""Runs a benchmark's contestant in a process of its own, one turn at a time."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from squeezenext.errors import InputError

ROOT = Path(__file__).resolve().parents[3]


def check_imports(flag: str, python: str, *modules: str) -> None:
    """Checks before a benchmark starts that its contestants in another interpreter will run.

    Raises:
      InputError: the interpreter does not start, or lacks what these modules import; the message
        begins with `flag`.
    """
    line = [python, "-c", f"import {', '.join(modules)}"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, env=_environment())
    except OSError as error:
        raise InputError(f"{flag} {python} does not run ({error.strerror}).") from error
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise InputError(
            f"{flag} {python} cannot run its contestants ({reason}); install what is missing, "
            f"for example with {python} -m pip install absl-py numpy google-crc32c."
        )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


class Contestant:
    """Runs a benchmark's script with --serve.

    It says a line when it is ready, and one after each line that it is given.

    Args:
      python: the interpreter.
      script: the benchmark.
      kind: which contestant it is.
      arguments: the script's own.
      environment: variables beside the benchmark's own.
    """

    def __init__(
        self,
        python: str,
        script: str,
        kind: str,
        *arguments: str,
        environment: Mapping[str, str] = MappingProxyType({}),
    ):
        self.kind = kind
        line = [python, script, "--serve", f"--kind={kind}", *arguments]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            line, stdin=pipe, stdout=pipe, text=True, env={**_environment(), **environment}
        )
        self._answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _answer(self) -> str:
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.kind} ended with {self._process.wait()}.")
        return answer

    def turn(self) -> str:
        """Lets it do a turn; returns what it says of that."""
        print("go", file=self._process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
