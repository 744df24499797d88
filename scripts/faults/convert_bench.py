"""Common parts of the conversion's fault benches: a source, a conversion, the comparison."""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext.convert import plan
from squeezenext.convert.command import convert
from squeezenext.convert.options import ConvertOptions
from squeezenext.errors import InputError, RunAgain, SomeInputsFailed

OPTIONS = {"layout": "folder", "show_progress": False, "train_shards": 3, "workers": 1}
Hashes = dict[str, str]


class Different(SomeInputsFailed):
    """The results of a disturbed conversion differ from those of an undisturbed one."""


def photos(folder: Path, count: int) -> Path:
    """Writes images of noise in three classes, and one file that is not an image."""
    for number in range(count):
        path = folder / "abc"[number % 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(noise).save(path, quality=90)
    (folder / "a" / "broken.jpg").write_text("this is no picture\n")
    return folder


def undisturbed(source: Path, output: Path, **options) -> Hashes:
    convert(source, output, ConvertOptions(**OPTIONS | options))
    return hashes(output)


def hashes(folder: Path) -> Hashes:
    """Returns the SHA-256 of every file that readers see."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith("."):
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def check(what: str, output: Path, whole: Hashes, finished: bool | None) -> None:
    """Compares the files that readers see with the undisturbed ones.

    Args:
      what: the disturbance, for messages.
      output: folder of the conversion.
      whole: hashes of the undisturbed files.
      finished: True if the conversion has succeeded; None while it runs.

    Raises:
      Different: a file is partial or different; or, of a finished conversion, missing, or a
        temporary file other than the lock is left.
    """
    found = hashes(output)
    for name in sorted(found):
        if found[name] != whole.get(name):
            raise Different(f"{what}: {output / name} is not the undisturbed one.")
    if finished and found != whole:
        raise Different(f"{what}: {output} lacks {sorted(set(whole) - set(found))[0]}.")
    if finished and (left := sorted(_hidden(output) - {plan.LOCK})):
        raise Different(f"{what}: {output / left[0]} stays for ever.")
    if finished is False and "manifest.json" in found and found != whole:
        raise Different(f"{what}: {output} has a manifest but not all of its files.")


def _hidden(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def forked(work: Callable[[], int]) -> int:
    """Runs `work`, which may kill its process, in a child and returns the exit code."""
    child = os.fork()
    if not child:
        code = 99
        try:
            sys.stderr = open(os.devnull, "w")
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def plainly(source: Path, output: Path, **options) -> int:
    """Returns the exit code of a conversion; `forked` makes 99 of an unexpected error."""
    try:
        convert(source, output, ConvertOptions(**OPTIONS | options))
    except RunAgain:
        return 75
    except InputError:
        return 2
    return 0
