"""Where each record of a split lies.

Records are read at random by (shard, offset, length): an exact global shuffle needs no
buffer. The offsets come from a sidecar beside the shards (`train.index`) or, without one,
from walking the shards.
"""

import concurrent.futures
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from squeezenext.errors import InputError
from squeezenext.records.example import RecordError
from squeezenext.records.manifest import Shard, Split
from squeezenext.records.tfrecord import offsets

INDEX_DTYPE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<i8")])


def split_from_files(name: str, paths: Iterable[Path]) -> Split:
    """Returns a split of TF-slim shards that have no manifest, by walking their headers.

    Raises:
      InputError: no file, or one that cannot be read.
      RecordError: a file is cut or no TFRecord.
    """
    paths = tuple(Path(path) for path in paths)
    if not paths:
        raise InputError(f"No file matches the pattern of the {name} records.")
    walked = _walk_all(paths)
    shards = tuple(
        Shard(path, len(places) - 1, int(places[-1]), "")
        for path, places in zip(paths, walked, strict=True)
    )
    return Split(name, shards, walked=walked)


def index(split: Split) -> np.ndarray:
    """Returns where every record of the split lies, in shard order.

    Returns:
      [examples] of `INDEX_DTYPE`: shard (place in `split.shards`), offset, and length with
      the framing, as `read` takes them.

    Raises:
      RecordError: a shard is damaged or holds another number of records than promised.
    """
    starts = None if split.walked else _from_sidecar(split)
    if starts is None:
        starts = split.walked or _walk_all([shard.path for shard in split.shards])
        for shard, places in zip(split.shards, starts, strict=True):
            if len(places) - 1 != shard.examples:
                raise RecordError(
                    f"{shard.path} holds {len(places) - 1} records, the manifest says "
                    f"{shard.examples}; copy or convert this shard again."
                )
    table = np.empty(split.examples, INDEX_DTYPE)
    table["shard"] = np.repeat(np.arange(len(starts)), [len(places) - 1 for places in starts])
    table["offset"] = np.concatenate([places[:-1] for places in starts] or [[]])
    table["length"] = np.concatenate([np.diff(places) for places in starts] or [[]])
    return table


def _walk_all(paths: Sequence[Path]) -> tuple[np.ndarray, ...]:
    # 16: enough to hide a network file system's latency; the work itself holds the GIL.
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return tuple(pool.map(offsets, paths))


def _from_sidecar(split: Split) -> tuple[np.ndarray, ...] | None:
    """Returns [examples + 1] offsets a shard from the sidecar, or None if it does not fit."""
    size = 8 * split.examples
    try:
        if not size or split.sidecar is None or split.sidecar.path.stat().st_size != size:
            return None
        data = split.sidecar.path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != split.sidecar.sha256:
        return None
    parts = np.split(
        np.frombuffer(data, "<i8"), np.cumsum([shard.examples for shard in split.shards])[:-1]
    )
    starts = tuple(
        np.append(part, shard.bytes) for part, shard in zip(parts, split.shards, strict=True)
    )
    fits = all(places[0] == 0 and (np.diff(places) >= 0).all() for places in starts)
    return starts if fits else None
