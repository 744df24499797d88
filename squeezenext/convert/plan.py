"""What an unfinished conversion is making: the next one goes on with it or clears it away.

The plan is on the disk before the first shard is, and names every file that the output folder
will hold. So whatever was interrupted, and whatever is converted next, no file stays there that
the manifest does not know.
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
import numpy as np

from squeezenext import files
from squeezenext.convert import commit, imagenet, images, lists
from squeezenext.convert.listing import Collection, Listing, parts, printable, shuffled
from squeezenext.convert.options import Options
from squeezenext.convert.shards import Job
from squeezenext.errors import InputError, RunAgain
from squeezenext.records import manifest

# One converter a directory.


LOCK = ".convert.lock"


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds the directory for this process.

    The operating system drops the lock with the process, however that ends.

    Raises:
      RunAgain: another process holds it; it is named.
    """
    lock = filelock.FileLock(directory / LOCK)
    owner = directory / f"{LOCK}.owner"
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise RunAgain(f"{directory} is being written by {_told(owner)}; wait for it.") from error
    except OSError as error:
        raise commit.explanation(error, directory) from error
    try:
        _tell(owner)
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        lock.release()


def _tell(owner: Path) -> None:
    """Whole or not at all, for whoever looks just now. Not flushed: it dies with the process."""
    draft = owner.with_name(f"{owner.name}.tmp")  # one name: a killed process's is written over
    with contextlib.suppress(OSError):
        draft.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
        os.replace(draft, owner)
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)


def _told(owner: Path) -> str:
    try:
        with owner.open(encoding="utf-8", errors="replace") as file:
            return printable(file.read(200).strip()) or "another process"
    except OSError:
        return "another process"


# Cuts a collection into shards: which examples, in which order, under which name.


SHARD_BYTES = 100 << 20  # tensorflow.org/guide/data_performance_analysis: 100 to 200 MB


def shard_names(collection: Collection, split: str, options: Options) -> list[str]:
    """Returns the names of a split's shards."""
    if options.layout == "tfrecord":
        return [path.name for path in collection.splits[split].files]
    examples = max(1, len(collection.splits[split].names))
    count = min(_shard_count(collection, split, options), examples)
    return [f"{split}-{place:05d}-of-{count:05d}" for place in range(count)]


def shard_jobs(
    collection: Collection, output: Path, options: Options, plan: str = ""
) -> list[tuple[str, Job]]:
    """Returns (split, job) of every shard; a function of the names, the seed and the options.

    Args:
      plan: of which these are a part, see `Plan.key`.
    """
    return [
        (name, dataclasses.replace(job, plan=plan))
        for name in collection.splits
        for job in _of_split(collection, name, output, options)
    ]


def _of_split(collection: Collection, name: str, output: Path, options: Options) -> list[Job]:
    split = collection.splits[name]
    ordered = split.take(shuffled(split.names, options.seed))
    paths = [output / file for file in shard_names(collection, name, options)]
    sample = lists.mean_sample(len(split.names), split.bytes) if name == "train" else 0
    runs = parts(len(split.names), len(paths)), parts(sample, len(paths))
    return [
        _job(collection, ordered, run, quota, path, options)
        for path, run, quota in zip(paths, *runs, strict=True)
    ]


def _job(
    collection: Collection, ordered: Listing, run: slice, quota: slice, path: Path, options: Options
) -> Job:
    """The order is random, so the first of each shard are a fair sample for the mean colour."""
    listing = ordered.take(np.arange(run.start, run.stop))
    classes = {
        int(label): collection.classes[label - 1] for label in np.unique(listing.table["label"])
    }
    smaller = images.Smaller(options.max_side, options.quality) if options.max_side else None
    return Job(path, listing, classes, options.verify_images, quota.stop - quota.start, smaller)


def _shard_count(collection: Collection, name: str, options: Options) -> int:
    wanted = getattr(options, f"{name}_shards")
    if wanted is None and options.layout == "imagenet" and not options.partial:
        wanted = imagenet.OFFICIAL_SHARDS[name]
    return wanted or max(1, round(collection.splits[name].bytes / SHARD_BYTES))


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
    names = [lists.LABELS, lists.CATEGORIES, lists.MEAN]
    for split in collection.splits:
        names += [*shard_names(collection, split, options), f"{split}.index", lists.LISTS[split]]
    return tuple(name for name in names if name not in kept)


def source_files(collection: Collection, output: Path) -> frozenset[str]:
    """Returns what of an `output` that is the source, too, is the source's: it stays as it is.

    They are the shards, and the labels.txt that names their classes if no conversion made it.
    """
    shards = {path.name for split in collection.splits.values() for path in split.files}
    known = _read(output / commit.WORK)
    ours = known is not None and lists.LABELS in known.files
    there = (output / lists.LABELS).exists()
    return frozenset(shards | ({lists.LABELS} if there and not ours else set()))


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
    _remove(output, [manifest.MANIFEST])
    _remove(output, found)
    shutil.rmtree(work, ignore_errors=True)


def _finished(output: Path) -> list[str]:
    """Returns the files of a finished data set, as far as known where its manifest is damaged."""
    found = [path.name for path in output.iterdir() if _SHARD.fullmatch(path.name)]
    if (output / manifest.MANIFEST).exists():
        found += [*lists.FILES, *(f"{split}.index" for split in lists.LISTS)]
    with contextlib.suppress(InputError):
        for split in manifest.load_manifest(output).splits.values():
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
