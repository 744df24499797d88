"""What an unfinished conversion is writing: the next one goes on with it or clears it away.

The plan is on the disk before the first shard. It names every file that the output folder will
hold, so that the next conversion can remove the files that an interrupted one has left.
One process at a time converts into a folder.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import filelock

from squeezenext import files
from squeezenext.cli import printable
from squeezenext.convert import commit, shards
from squeezenext.convert.listing import Collection
from squeezenext.convert.options import ConvertOptions
from squeezenext.errors import InputError, RunAgain
from squeezenext.records import dataset, stores

LABELS, CATEGORIES, MEAN = "labels.txt", "categories.csv", "rgb_val.json"
LISTS = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}

LOCK = ".convert.lock"
_PLAN = "plan.json"
_NOTES = "*-of-*.json"  # notes in the work folder about shards, see `shards.publish`
_SHARD = re.compile(r"(?:train|validation|test)-\d{5}-of-\d{5}")


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Locks the directory for this process, with which the operating system drops the lock.

    The directory is made, and removed again if nothing comes into it.

    Raises:
      RunAgain: another process has locked it; it is named.
    """
    lock = filelock.FileLock(directory / LOCK)
    owner = directory / f"{LOCK}.owner"
    try:
        made = files.make_missing(directory)
        os.close(files.open_own(directory / LOCK))  # filelock would empty what a link leads to
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise RunAgain(
            f"{directory} is being written by {_read_owner(owner)}; wait for it."
        ) from error
    except OSError as error:
        raise commit.explanation(error, directory) from error
    try:
        _write_owner(owner)
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        files.remove_unused(directory, LOCK, made)
        lock.release()


def _write_owner(owner: Path) -> None:
    """Writes the file atomically, for readers; unflushed, since it dies with the process."""
    draft = owner.with_name(f"{owner.name}.tmp")  # overwrites a killed process's
    with contextlib.suppress(OSError):
        with open(files.open_own(draft, empty=True), "wb") as file:
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        os.replace(draft, owner)
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)


def _read_owner(owner: Path) -> str:
    try:
        with open(files.open_regular(owner, os.O_RDONLY | files.NO_LINK), "rb") as file:
            text = file.read(200).decode("utf-8", "replace")
    except (OSError, InputError):
        return "another process"
    return printable(text.strip()) or "another process"


@dataclasses.dataclass(frozen=True)
class ConversionPlan:
    """The files that a conversion is going to write."""

    identity: str  # digest of all that decides the output's bytes
    fingerprint: str  # digest of the source's state
    files: tuple[str, ...]  # names of all files that will be written

    @property
    def key(self) -> str:
        """A digest that no other plan has."""
        return hashlib.sha256(json.dumps(dataclasses.astuple(self)).encode()).hexdigest()


def planned_files(
    collection: Collection, options: ConvertOptions, kept: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """Returns the names of all files to write except the manifest, which comes last."""
    names = [LABELS, CATEGORIES, MEAN]
    for split in collection.splits:
        names += [*shards.shard_names(collection, split, options), f"{split}.index", LISTS[split]]
    return tuple(name for name in names if name not in kept)


def source_files(collection: Collection, output: Path) -> frozenset[str]:
    """Returns the files that stay unchanged in an `output` that is the source, too.

    They are the shards, and the labels.txt that names their classes if no conversion made it.
    """
    names = {path.name for split in collection.splits.values() for path in split.files}
    unfinished = _read_plan(output / commit.WORK)
    ours = unfinished is not None and LABELS in unfinished.files
    if (output / LABELS).exists() and not ours:
        names.add(LABELS)
    return frozenset(names)


def begin(output: Path, plan: ConversionPlan, kept: frozenset[str] = frozenset()) -> None:
    """Makes the work folder and removes what another conversion left unfinished.

    Files of the source that lie in `output` are `kept`, see `source_files`.

    Raises:
      InputError: a file that would be replaced, or a shard, exists that no conversion left.
    """
    work = output / commit.WORK
    resumed = _read_plan(work) == plan
    if not resumed:
        _remove(output, set(_unfinished(work)) - kept)
    ours = {*kept, *(plan.files if resumed else ())}
    for path in sorted(output.iterdir()):
        replaced = path.name in plan.files or _SHARD.fullmatch(path.name)
        if replaced and path.name not in ours:
            raise InputError(
                f"{path} is there already, but no conversion that could go on left it; choose "
                "another --output, or give --overwrite to lose it."
            )
    if not resumed:
        shutil.rmtree(work, ignore_errors=True)
    _write_plan(work, plan)
    with commit.explained(output):
        files.flush(output)  # the work folder's own name


def clear(output: Path, plan: ConversionPlan, kept: frozenset[str] = frozenset()) -> None:
    """Removes a finished data set, whatever is named like a shard, and what the plan will write.

    If killed meanwhile, it leaves either the data set or a plan of what is still to be removed.
    Arguments as for `begin`.
    """
    work = output / commit.WORK
    doomed = sorted({*finished_files(output), *_unfinished(work), *plan.files} - kept)
    _write_plan(work, ConversionPlan("", "", tuple(doomed)))
    _remove(output, [dataset.MANIFEST])
    _remove(output, doomed)
    shutil.rmtree(work, ignore_errors=True)


def finished_files(output: stores.AnyPath) -> list[str]:
    """Returns the files of a finished data set, as far as known if its manifest is damaged."""
    names = [path.name for path in output.iterdir() if _SHARD.fullmatch(path.name)]
    if (output / dataset.MANIFEST).exists():
        names += [LABELS, CATEGORIES, MEAN, *LISTS.values()]
        names += [f"{split}.index" for split in LISTS]
    with contextlib.suppress(InputError):
        for split in dataset.load_manifest(output).splits.values():
            parts = (*split.shards, *([split.sidecar] if split.sidecar else []))
            names += [part.path.name for part in parts]
    return names


def _unfinished(work: Path) -> list[str]:
    """Returns the files of an unfinished conversion; if its plan is damaged, those with notes."""
    plan = _read_plan(work)
    noted = [note.name.removesuffix(".json") for note in work.glob(_NOTES)]
    return [*(plan.files if plan else ()), *noted]


def _remove(output: Path, names: Iterable[str]) -> None:
    """Returns when the files are gone, power cuts included: only then may the plan be removed."""
    with commit.explained(output):
        for name in names:
            (output / name).unlink(missing_ok=True)
        files.flush(output)


def _write_plan(work: Path, plan: ConversionPlan) -> None:
    commit.make_folder(work)
    commit.write_document(work / _PLAN, dataclasses.asdict(plan), work)


def _read_plan(work: Path) -> ConversionPlan | None:
    """Returns the plan of an unfinished conversion; None if there is none, or a damaged one."""
    try:
        fields = files.read_document(work / _PLAN)
        plan = ConversionPlan(**fields | {"files": tuple(fields["files"])})
        plain = all(isinstance(name, str) and Path(name).name == name for name in plan.files)
        return plan if plain else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_planned(job: shards.ShardJob) -> str:
    """Writes a shard on a machine of a cluster, which no lock stops, if it is still awaited.

    Raises:
      RunAgain: the conversion was ended, or another one has begun; nothing is published.
    """
    drafted, output = shards.draft(job), job.path.parent
    current = _read_plan(output / commit.WORK)
    if current is None or current.key != job.plan:
        if drafted.draft:
            with contextlib.suppress(OSError):
                (output / commit.WORK / drafted.draft).unlink(missing_ok=True)
        raise RunAgain(f"{output} is no longer written by this conversion; run it again.")
    return shards.publish(output, drafted).file
