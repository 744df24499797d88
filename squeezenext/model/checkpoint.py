"""Checkpoints, each complete or absent, and the directory that holds them.

A checkpoint is a directory `step-00001234` with `state.npz` (arrays by name, no pickles) and
`META.json` (progress, configuration, versions, and the SHA-256 of every file and of itself; see
squeezenext/train/checkpoints.py). It is written under another name, flushed to the disk, and put
in place by one rename.

The arrays, by the beginning of their names:
  model/LAYER/VARIABLE    the network's variables
  average/LAYER/VARIABLE  the moving averages of its weights and of its moving statistics
  update/                 counters and the loss scale, from `Update.state`
  optimizer/              the optimizer's state, from `Update.state`
  replicas/               each replica's moving statistics; average/replicas/ their averages
"""

import contextlib
import hashlib
import json
import os
import re
import reprlib
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from squeezenext.arguments import fits
from squeezenext.errors import InputError
from squeezenext.files import MAX_TEXT, NO_LINK, flush, make_own_folder, open_regular, write_text

_NAME = re.compile(r"step-(\d{8,})")
FORMAT_VERSION = 3  # formats 1 and 2 number the averages; 1 has no hash of META.json
STATE = "state.npz"
# Bytes of a file: the largest network (bounds.py) with averages and an optimizer's two states takes
# 270 MB; 5 GB would take 15 s to hash.
MAX_STATE = 512 << 20
MODEL, AVERAGE = "model/", "average/"  # beginnings of arrays' names
# Types of META.json's entries: of those that a run always has, and of those that it may have.
_SUMS: dict[str, Any] = {"steps": int, "examples": int, "loss": float, "top1": float, "top5": float}
_BEST: tuple[Any, ...] = (type(None), {"step": int, "top1": float})  # either of them
_OF_RUN = {
    "epoch": float, "examples": int, "config": dict, "versions": dict[str, str], "epoch_sums": _SUMS
}  # fmt: skip
_OPTIONAL = {
    "seed": int, "examples_seen": int, "replicas": int, "precision": str, "micro_batch": int,
    "xla": bool, "best": _BEST, "epoch_seconds": float, "epoch_timed": int, "epoch_ended": bool,
    "skipped_examples": int, "passed_over": int, "rollbacks": list[dict[str, int]], "death": str,
    "imported": dict,
}  # fmt: skip
_WEIGHTS = ("kernel", "bias", "gamma", "beta")  # variables that are trained, and so averaged


class DamagedCheckpoint(InputError):
    """A checkpoint whose content is not what was saved; trying again will not help."""


def save(directory: Path, step: int, state: Mapping[str, np.ndarray], meta: dict) -> Path:
    """Commits a checkpoint.

    Args:
      directory: `checkpoints/` of a model directory; made if absent.
      step: the step of the run, which names the checkpoint.
      state: arrays by name.
      meta: content of META.json; "step", "files", its format and hash are added.

    Returns:
      The checkpoint's path. A checkpoint of the same step is replaced.
    """
    make_own_folder(directory)
    final = directory / f"step-{step:08d}"
    temporary = directory / f".{final.name}.tmp-{secrets.token_hex(8)}"
    temporary.mkdir()
    try:
        with open(temporary / STATE, "wb") as file:
            np.savez(file, **state)
        files = {STATE: _sha256(temporary / STATE)}
        text = _meta_text(meta, step, files, FORMAT_VERSION)
        (temporary / "META.json").write_bytes(text.encode())
        for path in (temporary / STATE, temporary / "META.json", temporary):
            flush(path)
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(directory)
    return final


def amend(directory: Path, step: int, meta: dict) -> None:
    """Replaces META.json of a checkpoint, whose other files are not checked; see `save`.

    The format stays that of the arrays: an earlier release may have written them.

    Raises:
      InputError: META.json is damaged.
    """
    folder = directory / f"step-{step:08d}"
    before = _read_meta(folder, step)
    text = _meta_text(meta, step, before["files"], before["format_version"])
    write_text(folder / "META.json", text)


def _meta_text(meta: dict, step: int, files: dict[str, str], version: int) -> str:
    document = meta | {"format_version": version, "step": step, "files": files}
    return json.dumps(document | {"sha256": _meta_sha256(document)}, indent=1) + "\n"


def _meta_sha256(document: dict) -> str:
    """The hash of META.json's content without its own entry "sha256"."""
    plain = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _opened(path: Path) -> BinaryIO:
    """Opens a file of a checkpoint, which may be a stranger's: no link, no pipe, none too large."""
    file = open(open_regular(path, os.O_RDONLY | NO_LINK), "rb")
    if os.fstat(file.fileno()).st_size > MAX_STATE:
        file.close()
        raise InputError(f"{path} is larger than {MAX_STATE >> 20} MB.")
    return file


def _sha256(path: Path) -> str:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def steps(directory: Path) -> list[int]:
    """Returns the steps that have a checkpoint, oldest first, damaged ones included.

    Raises:
      InputError: a checkpoint is a link, which may lead to another run's.
    """
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    if links := sorted(path for path in found if path.is_symlink()):
        raise InputError(f"{links[0]} is a symbolic link; put the folder itself there.")
    return sorted(int(path.name.removeprefix("step-")) for path in found)


def read_meta(directory: Path, step: int) -> dict[str, Any]:
    """Checks the hash of every file of a checkpoint and returns META.json.

    Raises:
      DamagedCheckpoint: a file is missing, or its content is not what was saved.
      InputError: a file cannot be read at present, or was written by a later release.
    """
    folder = directory / f"step-{step:08d}"
    with _faults_of(folder / "META.json"):
        meta = _read_meta(folder, step)
        for name, sha256 in meta["files"].items():
            if _sha256(folder / name) != sha256:
                raise DamagedCheckpoint(
                    f"{folder}/{name} is damaged: its SHA-256 is not META.json's."
                )
    return meta


@contextlib.contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    """Raises `DamagedCheckpoint`, or InputError where a checkpoint cannot be read at present."""
    try:
        yield
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedCheckpoint(f"{error.filename} is missing.") from error
    except OSError as error:  # no server, no permission: it may be readable later
        raise InputError(
            f"{path.parent} cannot be read: {error.strerror}. Mend that and run again, or move the "
            "folder elsewhere to go on from the checkpoint before it."
        ) from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        MemoryError,
        RecursionError,
        zipfile.BadZipFile,
    ) as error:
        raise DamagedCheckpoint(f"{path} is damaged: {error!r}.") from error


def _read_meta(folder: Path, step: int) -> dict[str, Any]:
    with _faults_of(folder / "META.json"):
        with _opened(folder / "META.json") as file:
            meta = json.loads(file.read(MAX_TEXT))
        version = meta["format_version"]
        unsigned = version == 1 and "sha256" not in meta
        if not unsigned and meta.get("sha256") != _meta_sha256(meta):
            raise DamagedCheckpoint(f"{folder}/META.json is damaged: its SHA-256 is another.")
        if version not in range(1, FORMAT_VERSION + 1):
            raise InputError(
                f"{folder} is of another release (format {version}, this one reads up to "
                f"{FORMAT_VERSION}); go on with that, or move the folder elsewhere."
            )
        if meta["step"] != step or meta["files"].keys() != {STATE}:
            raise DamagedCheckpoint(f"{folder}/META.json is of another checkpoint.")
        kinds = {name: kind for name, kind in _OPTIONAL.items() if name in meta}
        for name, kind in (kinds | (_OF_RUN if "seed" in meta else {})).items():
            if not _is(value := meta.get(name), kind):
                what = f"is {reprlib.repr(value)}" if name in meta else "is missing"
                raise DamagedCheckpoint(f"{folder}/META.json is damaged: its {name!r} {what}.")
        return meta


def _is(value: object, kind: Any) -> bool:
    """Returns whether a JSON value is of a type, of one in a tuple, or has just these entries."""
    if isinstance(kind, tuple):
        return any(_is(value, each) for each in kind)
    if not isinstance(kind, dict):
        return fits(value, kind)
    same = isinstance(value, dict) and value.keys() == kind.keys()
    return same and all(_is(value[name], kind[name]) for name in kind)  # type: ignore[index]


def load(directory: Path, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns (arrays by name, META.json) of a checkpoint; raises InputError as `read_meta`."""
    meta = read_meta(directory, step)
    path = directory / f"step-{step:08d}" / STATE
    with (
        _faults_of(path),
        _opened(path) as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        # Three megabytes can unpack to gigabytes; `save` packs nothing.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.zip.infolist()):
            raise ValueError("its arrays are packed")
        state = {name: archive[name] for name in archive.files}
        return (_with_named_averages(state) if meta["format_version"] < 3 else state), meta


def _with_named_averages(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names the moving averages of a checkpoint that numbers them, `average/0000`.

    They are in the order of the trained variables, and so are those in the file: a checkpoint
    holds the arrays in the order in which the run named them.
    """
    numbered = [name for name in state if name.startswith(AVERAGE)]
    if not numbered:
        return state
    new = dict(zip(numbered, map(average_of, trained(state)), strict=True))
    return {new.get(name, name): array for name, array in state.items()}


def trained(names: Iterable[str]) -> list[str]:
    """Returns those names that are of trained variables of the network, in the given order."""
    return [x for x in names if x.startswith(MODEL) and x.rpartition("/")[2] in _WEIGHTS]


def average_of(name: str) -> str:
    """Returns the name of the moving average of a network's variable."""
    return AVERAGE + name.removeprefix(MODEL)


def evaluated(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the network's variables as it is evaluated: the averages where there are any."""
    return {
        name: state.get(average_of(name), array)
        for name, array in state.items()
        if name.startswith(MODEL)
    }


def newest(
    directory: Path, report: Callable[[str], None]
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Loads the newest undamaged checkpoint, as `load`; calls `report` for each damaged one.

    Returns None if there is no checkpoint at all.

    Raises:
      InputError: all checkpoints are damaged, or one cannot be read at present.
    """
    found = steps(directory)
    for step in reversed(found):
        try:
            return load(directory, step)
        except DamagedCheckpoint as error:
            report(f"{error} Passing over this checkpoint.")
    if found:
        raise InputError(
            f"{directory} holds no whole checkpoint; bring one back from a "
            "copy, or delete that folder to start from the beginning."
        )
    return None


def remove_older(directory: Path, keep: int, best: int | None, current: int) -> None:
    """Removes old checkpoints and what interrupted saves left.

    The newest `keep` checkpoints and the one of step `best` stay. A checkpoint after `current`,
    the one just saved, was skipped because it is damaged: it is renamed, for a person to look at.
    """
    for step in steps(directory):
        if step > current:
            name = f"step-{step:08d}"
            shutil.rmtree(directory / f"damaged-{name}", ignore_errors=True)
            os.replace(directory / name, directory / f"damaged-{name}")
    for path in directory.glob(".step-*.tmp-*"):
        shutil.rmtree(path, ignore_errors=True)
    for step in steps(directory)[:-keep]:
        if step != best:
            shutil.rmtree(directory / f"step-{step:08d}", ignore_errors=True)


def without_averaged_statistics(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays that earlier releases saved: their averages were of weights alone."""
    ours = {n for n in state if n.startswith(AVERAGE) and n.rpartition("/")[2] not in _WEIGHTS}
    return {name: array for name, array in state.items() if name not in ours}


def weights_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns one hash over all arrays: their names in order, types, shapes and bytes.

    Moving averages are hashed under the numbers that were their names before format 3, in the
    order of `arrays`. So runs that were finished before are still known to be, and equal runs of
    older releases have equal hashes.
    """
    averages = [name for name in arrays if name.startswith(AVERAGE)]
    numbers = {name: f"{AVERAGE}{number:04d}" for number, name in enumerate(averages)}
    digest = hashlib.sha256()
    for name, key in sorted((numbers.get(key, key), key) for key in arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
