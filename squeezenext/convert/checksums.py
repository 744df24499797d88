"""The official archives' checksums: is this the file that everybody else has?

MD5: torchvision's squeezenext/convert/imagenet.py, and for the boxes five public READMEs that quote
image-net.org. SHA-256: tensorflow-datasets 4.9.10, imagenet2012/checksums.tsv.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from squeezenext import progress
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError

OFFICIAL = {
    "ILSVRC2012_img_train.tar": {
        "md5": "1d675b47d978889d74fa0da5fadfb00e",
        "sha256": "b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb",
    },
    "ILSVRC2012_img_val.tar": {
        "md5": "29b22e2961454d5413ddabcf34fc5622",
        "sha256": "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
    },
    "ILSVRC2012_bbox_train_v2.tar.gz": {"md5": "9271167e2176350e65cfe4e546f14b17"},
}


def check(files: Mapping[str, Path], official: bool, pool: Pool, show: bool) -> list[dict]:
    """Reads the archives through and returns what the manifest tells of each.

    Args:
      files: path by official name.
      official: they must be the official ones; otherwise their SHA-256 is only recorded.

    Raises:
      InputError: an archive is another file; it is named.
    """
    wanted = {name: OFFICIAL.get(name, {}) if official else {} for name in files}
    jobs = [(path, _kinds(wanted[name])) for name, path in files.items()]
    rows = []
    size = sum(path.stat().st_size for path in files.values())
    with progress.throughput("Checksums", len(files), size, show, "files") as advance:
        for (name, path), found in zip(files.items(), pool.run(_digests, jobs), strict=True):
            compare(path, wanted[name], found)
            rows.append({"file": name, "bytes": path.stat().st_size, **found})
            advance(1, path.stat().st_size)
    return rows


def _kinds(known: dict[str, str]) -> list[str]:
    """SHA-256 where it is known, or nothing is; it is the faster one, too."""
    return ["md5"] if set(known) == {"md5"} else ["sha256"]


def compare(path: Path, known: dict[str, str], found: dict[str, str]) -> None:
    """Raises InputError if a digest that is known of a file is another one."""
    for kind in set(known) & set(found):
        if found[kind] != known[kind]:
            raise InputError(
                f"{path} has the {kind.upper()} {found[kind]}, the official archive "
                f"{known[kind]}; download it again, or give --partial if it is another on purpose."
            )


def _digests(job: tuple[Path, list[str]]) -> dict[str, str]:
    path, kinds = job
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for digest in digests.values():
                digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in digests.items()}
