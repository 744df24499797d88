"""What an unfinished conversion is making: the next one goes on with it or clears it away.

The plan is on the disk before the first shard is, and names every file that the output folder
will hold. So whatever was interrupted, and whatever is converted next, no file stays there that
the manifest does not know.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from squeezenext import files, records
from squeezenext.errors import InputError, RunAgain

from . import commit, jobs, summary
from .listing import Collection
from .options import Options

_PLAN = "plan.json"
_NOTES = "*-of-*.json"  # what datasets.shards leaves in the work folder beside each shard
_SHARD = re.compile(r"(?:train|validation|test)-\d{5}-of-\d{5}")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What decides the output's bytes, the source's state, and the files that will come."""

    identity: str
    fingerprint: str
    files: tuple[str, ...]

    @property
    def key(self) -> str:
        """Tells this plan from every other one."""
        return hashlib.sha256(json.dumps(dataclasses.astuple(self)).encode()).hexdigest()


def planned_files(
    collection: Collection, options: Options, kept: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """Returns the names of all that will be written but for the manifest, which comes last.

    Args:
      kept: files of the source, which lie in the output and are not written.
    """
    names = [summary.LABELS, summary.CATEGORIES, summary.MEAN]
    for split in collection.splits:
        names += [*jobs.names(collection, split, options), f"{split}.index", summary.LISTS[split]]
    return tuple(name for name in names if name not in kept)


def source_files(collection: Collection, output: Path) -> frozenset[str]:
    """Returns what of an `output` that is the source, too, is the source's: it stays as it is.

    They are the shards, and the labels.txt that names their classes if no conversion made it.
    """
    shards = {path.name for split in collection.splits.values() for path in split.files}
    known = _read(output / commit.WORK)
    ours = known is not None and summary.LABELS in known.files
    there = (output / summary.LABELS).exists()
    return frozenset(shards | ({summary.LABELS} if there and not ours else set()))


def begin(output: Path, plan: Plan, kept: frozenset[str] = frozenset()) -> None:
    """Makes the work folder. What another conversion left unfinished is removed.

    Args:
      kept: files of `output` that are the source's, see `source_files`.

    Raises:
      InputError: a file that would be replaced, or a shard, is there that no conversion left.
    """
    work = output / commit.WORK
    known = _read(work)
    if known != plan:
        _remove(output, set(_unfinished(work)) - kept)
    _check_strangers(output, plan, known, kept)
    if known != plan:
        shutil.rmtree(work, ignore_errors=True)
    commit.make_folder(work)
    commit.write_json(work / _PLAN, dataclasses.asdict(plan), work)
    with commit.explained(output):
        files.flush(output)  # the work folder's own name


def _check_strangers(output: Path, plan: Plan, known: Plan | None, kept: frozenset[str]) -> None:
    ours = {*kept, *(plan.files if known == plan else ())}
    for path in sorted(output.iterdir()):
        awaited = path.name in plan.files or _SHARD.fullmatch(path.name)
        if awaited and path.name not in ours:
            raise InputError(
                f"{path} is there already, but no conversion that could go on left it; choose "
                "another --output, or give --overwrite to lose it."
            )


def check(output: Path, key: str) -> None:
    """Tells a worker of a cluster, which no lock stops, whether its shard is still awaited.

    Raises:
      RunAgain: the conversion was ended, or another one has begun.
    """
    known = _read(output / commit.WORK)
    if known is None or known.key != key:
        raise RunAgain(f"{output} is no longer written by this conversion; run it again.")


def clear(output: Path, plan: Plan, kept: frozenset[str] = frozenset()) -> None:
    """Removes a finished data set, what is called like a shard, and what the plan will write.

    Killed on the way, it leaves either the data set or a plan of what is still to be removed.
    Arguments as in `begin`.
    """
    work = output / commit.WORK
    found = sorted({*_finished(output), *_unfinished(work), *plan.files} - kept)
    commit.make_folder(work)
    commit.write_json(work / _PLAN, dataclasses.asdict(Plan("", "", tuple(found))), work)
    _remove(output, [records.MANIFEST])
    _remove(output, found)
    shutil.rmtree(work, ignore_errors=True)


def _finished(output: Path) -> list[str]:
    """Returns the files of a finished data set, as far as known where its manifest is damaged."""
    found = [path.name for path in output.iterdir() if _SHARD.fullmatch(path.name)]
    if (output / records.MANIFEST).exists():
        found += [*summary.FILES, *(f"{split}.index" for split in summary.LISTS)]
    with contextlib.suppress(InputError):
        for split in records.load_manifest(output).splits.values():
            parts = (*split.shards, *([split.sidecar] if split.sidecar else []))
            found += [part.path.name for part in parts]
    return found


def _unfinished(work: Path) -> list[str]:
    """Returns the files of an unfinished conversion; where its plan is damaged, the noted ones."""
    known = _read(work)
    noted = [note.name.removesuffix(".json") for note in work.glob(_NOTES)]
    return [*(known.files if known else ()), *noted]


def _remove(output: Path, names: Iterable[str]) -> None:
    """Returns when they are gone, power cuts included: only then may the plan be."""
    with commit.explained(output):
        for name in names:
            (output / name).unlink(missing_ok=True)
        files.flush(output)


def _read(work: Path) -> Plan | None:
    """Returns the plan of an unfinished conversion; None if there is none, or a damaged one."""
    try:
        fields = json.loads((work / _PLAN).read_text("utf-8"))
        found = Plan(**fields | {"files": tuple(fields["files"])})
        plain = all(isinstance(name, str) and Path(name).name == name for name in found.files)
        return found if plain else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
