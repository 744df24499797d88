"""The output directory: whose it is, what is done already, and the files that finish it."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from datasets import commit
from datasets.listing import Collection, Fault
from datasets.options import Options
from datasets.shards import Written
from squeezenext import records
from squeezenext.errors import InputError

LABELS = "labels.txt"
NOTES = "*-of-*.json"  # what datasets.shards leaves beside each shard it has written
_PLAN = "plan.json"


def identity(collection: Collection, options: Options) -> str:
    """Returns a digest of all that decides the output's bytes but the images themselves."""
    digest = hashlib.sha256()
    for part in (options.recorded(), collection.source, collection.classes):
        digest.update(json.dumps(part, default=dataclasses.astuple).encode())
    for name, split in collection.splits.items():
        digest.update(json.dumps([name, split.names]).encode())
        digest.update(np.ascontiguousarray(split.table).tobytes())
        for box in sorted(split.boxes.items()):
            digest.update(repr(box).encode())
    return digest.hexdigest()


def fingerprint(collection: Collection) -> str:
    """Returns a digest of the source files' sizes and times: what an edit would change.

    It is no part of the identity: a copy of the source makes the same data set.

    Raises:
      InputError: a file is gone.
    """
    digest = hashlib.sha256()
    for path in (path for split in collection.splits.values() for path in split.files):
        try:
            stat = path.stat()
        except OSError as error:
            raise InputError(
                f"{path} is gone ({error.strerror}); run the command again."
            ) from error
        digest.update(f"{stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def finished(output: Path, identity: str) -> records.Manifest | None:
    """Returns the manifest if this very conversion was done before; refuses another one."""
    if not (output / records.MANIFEST).exists():
        return None
    manifest = records.load_manifest(output)
    if manifest.raw.get("arguments", {}).get("identity") != identity:
        raise InputError(
            f"{output} holds another data set, or this one converted with other flags; choose "
            "another --output, or give --overwrite."
        )
    records.check_shards(manifest)
    shutil.rmtree(output / commit.WORK, ignore_errors=True)  # killed just before its own removal
    return manifest


def begin(output: Path, plan: dict[str, str]) -> None:
    """Makes the work folder. What another conversion left unfinished there is removed."""
    work = output / commit.WORK
    if work.exists() and _read_plan(work) != plan:
        for note in work.glob(NOTES):
            (output / note.name.removesuffix(".json")).unlink(missing_ok=True)
        shutil.rmtree(work)
    commit.make_folder(work)
    for left_over in work.glob("*.tmp"):
        left_over.unlink(missing_ok=True)
    commit.write_json(work / _PLAN, plan, work)


def _read_plan(work: Path) -> dict | None:
    try:
        return json.loads((work / _PLAN).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def clear(output: Path) -> None:
    """Removes a finished data set, its manifest first: what is left is none."""
    try:
        manifest = records.load_manifest(output)
    except InputError:
        manifest = None
    (output / records.MANIFEST).unlink(missing_ok=True)
    commit.sync_folder(output)
    for split in manifest.splits.values() if manifest else ():
        for shard in (*split.shards, *([split.sidecar] if split.sidecar else [])):
            shard.path.unlink(missing_ok=True)
    shutil.rmtree(output / commit.WORK, ignore_errors=True)


def finish(
    collection: Collection, output: Path, options: Options, written: dict[str, list[Written]]
) -> records.Manifest:
    """Writes the offsets, labels.txt and, when all else is on the disk, the manifest."""
    work = output / commit.WORK
    for name, results in written.items():
        if not sum(result.examples for result in results):
            raise InputError(f"No image of the {name} split can be used; all were rejected.")
    splits = {name: _split(output, name, results) for name, results in written.items()}
    with commit.written(output / LABELS, work) as file:
        for number, label in enumerate(collection.classes, 1):
            file.write(f"{number}:{label.text}\n".encode())  # as TF-slim's read_label_file reads
    document = _document(collection, options, splits, written)
    commit.write_json(output / records.MANIFEST, document, work)
    shutil.rmtree(work)
    return records.load_manifest(output)


def _split(output: Path, name: str, results: list[Written]) -> dict:
    offsets = np.concatenate([np.array(result.offsets, "<i8") for result in results]).tobytes()
    path = output / f"{name}.index"
    with commit.written(path, output / commit.WORK) as file:
        file.write(offsets)
    digest = hashlib.sha256(offsets).hexdigest()
    return {
        "examples": sum(result.examples for result in results),
        "shards": [
            {key: getattr(result, key) for key in ("file", "examples", "bytes", "sha256")}
            for result in results
        ],
        "index": {"file": path.name, "bytes": len(offsets), "sha256": digest},
    }


def _document(collection, options: Options, splits: dict, written: dict) -> dict:
    results = [result for split in written.values() for result in split]
    repairs = [fault for result in results for fault in result.repairs]
    rejected = [*collection.rejected, *(fault for result in results for fault in result.rejected)]
    return {
        "format_version": records.FORMAT_VERSION,
        "partial": options.partial,
        "classes": [
            {"label": number, "synset": label.synset, "text": label.text}
            for number, label in enumerate(collection.classes, 1)
        ],
        "splits": splits,
        "rgb_mean": None,
        "repairs": _rows(repairs),
        "rejected": _rows(rejected),
        "source": list(collection.source),
        "arguments": options.recorded() | {"identity": identity(collection, options)},
    }


def _rows(faults: list[Fault]) -> list[dict]:
    return [dataclasses.asdict(fault) for fault in sorted(faults, key=dataclasses.astuple)]
