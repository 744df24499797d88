"""Adopts shards that TF-slim's or Inception's scripts wrote: reads them, and writes a manifest.

No image is re-encoded. The shards become hard links in the output folder, or copies if the file
system has no links between the two. If the output is the source, its shards and its labels.txt stay
as they are.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import os
import re
from pathlib import Path

import numpy as np

from squeezenext import files, labels, progress
from squeezenext.cli import plural, printable
from squeezenext.convert import commit, images
from squeezenext.convert.listing import Collection, Listing, Watch, sorted_splits
from squeezenext.convert.pool import Pool
from squeezenext.convert.shards import RECORD, Written, content_crc
from squeezenext.errors import InputError, RunAgain
from squeezenext.records import dataset, example, tfrecord

_SHARD = re.compile(
    r"(?:\w+_)?(train|validation|valid|val|test)[-_.](?:.*-of-(\d+))?.*?(?:\.tfrecords?)?"
)
_SPLITS = {"valid": "validation", "val": "validation"}
_LABELS = "labels.txt"
_LABEL_LINE = re.compile(r"(\d{1,9}):(.*)")
_MAX_LABEL = 100_000  # ImageNet-21k has 21,841; a class takes memory even without a record


def collect(source: Path) -> Collection:
    """Lists the shards as files; their classes are known only when they have been read.

    Raises:
      InputError: there are none, or one of a numbered series is missing.
    """
    shards: dict[str, list[Path]] = {}
    others: list[str] = []
    for path in sorted(path for path in source.iterdir() if path.is_file()):
        match = _SHARD.fullmatch(path.name)
        if match and (match[2] or ".tfrecord" in path.name):
            shards.setdefault(_SPLITS.get(match[1], match[1]), []).append(path)
        elif (".tfrecord" in path.name or "-of-" in path.name) and not path.name.startswith("."):
            others.append(path.name)
    if "train" not in shards:
        raise InputError(
            f"{source} has no training shards, such as train-00000-of-00008 or train.tfrecord."
        )
    for paths in shards.values():
        _check_complete(paths)
    watch, splits = Watch(), {}
    for name, paths in sorted_splits(shards).items():
        rows = [(n, 0, watch.size(path), 1) for n, path in enumerate(paths)]
        splits[name] = Listing.of_rows(paths, rows, [path.name for path in paths])
    size = sum(split.bytes for split in splits.values())
    described = {"file": source.resolve().name, "bytes": size}
    skipped = plural(len(others), "file")
    warnings = [f"{skipped} named as no split's shard, as {name}: skipped." for name in others[:1]]
    upright = dataset.holds_upright(source)
    return Collection((), splits, (), (described,), watch, tuple(warnings), upright=upright)


def check_links(collection: Collection, output: Path) -> None:
    """Raises InputError if a link leads into `output`: clearing that would remove the shards."""
    for path in (path for split in collection.splits.values() for path in split.files):
        if path.resolve().parent == Path(os.path.realpath(output)):
            raise InputError(
                f"{path} leads to {path.resolve()}, in --output {output}; give --source {output}, "
                "too, or another --output."
            )


def _check_complete(paths: list[Path]) -> None:
    counts = {match[2] for path in paths if (match := _SHARD.fullmatch(path.name))[2]}
    if len(counts) > 1 or (counts and int(min(counts)) != len(paths)):
        raise InputError(
            f"{paths[0].parent} holds {len(paths)} shards like {paths[0].name}, their names "
            f"promise {' or '.join(sorted(counts))}; copy the missing ones, or keep one set only."
        )


def adopt_all(
    collection: Collection, source: Path, output: Path, pool: Pool, show_progress: bool
) -> tuple[Collection, dict[str, list[Written]]]:
    """Reads every shard and links or copies it into `output`.

    Returns:
      The collection with its classes, and the shards by split.

    Raises:
      InputError: a record is damaged, or training cannot read it; it is named.
    """
    paths = [path for split in collection.splits.values() for path in split.files]
    jobs = [(path, output / path.name) for path in paths]
    size = sum(split.bytes for split in collection.splits.values())
    written: dict[str, list[Written]] = {}
    by_label: dict[int, labels.Label] = {}
    with progress.throughput("Reading", len(jobs), size, show_progress, "shards") as advance:
        results = pool.run(adopt, jobs)
        for name, split in collection.splits.items():
            written[name] = []
            for result, classes in itertools.islice(results, len(split.files)):
                written[name].append(result)
                for label, named in classes.items():
                    by_label.setdefault(label, named)
                advance(1, result.bytes)
    return dataclasses.replace(collection, classes=_classes(by_label, source)), written


def _classes(by_label: dict[int, labels.Label], source: Path) -> tuple[labels.Label, ...]:
    """Returns the classes 1..N, by the records, else by labels.txt, else by number."""
    if set(by_label) <= set(range(1, 1001)) and all(
        labels.imagenet()[number - 1].synset == label.synset for number, label in by_label.items()
    ):
        return labels.imagenet()
    texts: dict[int, str] = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        lines = (source / _LABELS).read_text("utf-8").splitlines()
        rows = [(int(m[1]), m[2]) for line in lines if (m := _LABEL_LINE.fullmatch(line))]
        texts = {number: printable(text) for number, text in rows if number <= _MAX_LABEL}
    classes = []
    for number in range(1, max(*by_label, *texts, 1) + 1):
        label = by_label.get(number, labels.Label("", ""))
        text = label.text or texts.get(number, "") or label.synset or f"class {number}"
        classes.append(labels.Label(label.synset or text, text))
    return tuple(classes)


def adopt(job: tuple[Path, Path]) -> tuple[Written, dict[int, labels.Label]]:
    """Reads a shard and links or copies it to its path; returns its classes by label, too."""
    source, path = job
    result, rows, classes = Written(path.name), [], {}
    offsets = tfrecord.offsets(source).tolist()
    with files.open_file(source) as file:
        result.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        for number, (start, end) in enumerate(itertools.pairwise(offsets)):
            payload = tfrecord.read(file.fileno(), start, end - start, str(source), number)
            label, named, name, data = _example(payload, str(source), number)
            rows.append((start, len(data), content_crc(data), label))
            classes.setdefault(label, named)
            result.names.append(name or f"{path.name}-{number}")
    result.table, result.bytes = np.array(rows, RECORD), offsets[-1]
    _link_or_copy(source, path, result.sha256)
    return result, classes


def _example(payload: bytes, shard: str, number: int) -> tuple[int, labels.Label, str, bytes]:
    """Returns (label, class, file name, image) of a record.

    Raises:
      InputError: training cannot read it.
    """
    features = example.decode_example(payload)
    texts = [_text(features, key) for key in (example.SYNSET, example.TEXT, example.FILENAME)]
    label = example.single(features, example.LABEL, int)
    data = example.single(features, example.ENCODED, bytes)
    fault = ""
    if label is None or data is None:
        fault = f"has no {example.LABEL} or no {example.ENCODED}"
    elif not 1 <= label <= _MAX_LABEL:
        fault = f"has the label {label}, but labels count from 1 to {_MAX_LABEL} at most; "
        fault += "convert the images themselves"
    elif not all(map(labels.is_text, texts)):
        fault = "has a name that is no text; convert the images themselves"
    else:
        try:
            images.check_trainable(data)
        except images.ImageError as error:
            fault = f"holds an image that {error}; convert the images themselves"
    if fault:
        raise InputError(f"{shard}: record {number} ({printable(texts[2])}) {fault}.")
    return label, labels.Label(texts[0], texts[1]), texts[2], data


def _text(features: dict, key: str) -> str:
    values = features.get(key, [])
    return values[0].decode("utf-8", "backslashreplace") if values else ""


def _link_or_copy(source: Path, path: Path, digest: str) -> None:
    if path.exists() and path.samefile(source):
        with commit.explained(path):
            files.flush(path)  # its writer may not have
        return
    work = path.parent / commit.WORK
    temporary = work / f"{path.name}.link.tmp"
    try:
        temporary.unlink(missing_ok=True)
        os.link(source.resolve(), temporary)  # Linux links a symbolic link, not its target
    except OSError:  # another file system, or one without links
        with commit.drafted(path, work) as copy, files.open_file(source) as file:
            while block := file.read(4 << 20):
                copy.write(block)
        if copy.sha256 != digest:
            raise RunAgain(
                f"{source} changed while it was read; run the same command again."
            ) from None
        temporary = copy.path
    commit.publish(temporary, path)
