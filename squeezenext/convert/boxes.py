"""Reads ILSVRC2012's bounding boxes: XML files in a tar.gz, with faults of every kind.

The cleaning follows process_bounding_boxes.py of tensorflow/models (research/inception): corners
are relative to the size that the XML file states, clamped and put in order; empty boxes and boxes
of another synset are dropped. The image is that of the XML file's name, since `<filename>` reads
"%s" in many.
"""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import ParseError

import defusedxml
import defusedxml.ElementTree
import numpy as np

from squeezenext.convert import tar
from squeezenext.convert.listing import Fault, add_faults
from squeezenext.convert.pool import Pool
from squeezenext.errors import InputError

_NAME = re.compile(r"(?:\./)?(?:[\w-]+/){0,3}(n\d{8}_\d+)\.xml")
_SYNSET = re.compile(r"n\d{8}")
MAX_XML_BYTES = 1 << 20
MAX_TAIL_BYTES = 16 << 20  # tar pads an archive to 10 KB
_BATCH = 2000  # files sent to a worker at once: then sending costs nothing
# Bytes of the archive for each one of the file: gzip reaches 1,030 on zeros, which took 40 s for
# 4 MB. ImageNet's has 28 to 42: 544,546 boxes of 1 to 1.5 kB, mostly padding, in 20 MB.
_MAX_RATIO = 200
_BATCH_BYTES = 8 << 20  # or fewer, if they are large: ImageNet's have 500 bytes each


def read(path: Path, stems: set[str], pool: Pool) -> tuple[dict[str, bytes], list[Fault]]:
    """Reads the boxes of the images with these stems.

    Returns:
      The boxes by stem, as the bytes of [boxes, 4] float32 xmin, ymin, xmax, ymax in 0..1 (an
      image without a box left has no entry), and the rejected files.

    Raises:
      InputError: the archive is damaged.
    """
    boxes: dict[str, bytes] = {}
    rejected: list[Fault] = []
    for parsed, faults in pool.run(_parse_all, _batches(path, stems, rejected)):
        boxes.update(parsed)
        add_faults(rejected, faults)
    return boxes, rejected


def _batches(path: Path, stems: set[str], rejected: list[Fault]) -> Iterator[list]:
    batch, seen, size = [], set(), 0
    with gzip.open(path, "rb") as file:
        stream = tar.Stream(file, str(path))
        most = (64 << 20) + _MAX_RATIO * path.stat().st_size
        for member in tar.members(stream.read_at, str(path)):
            if member.offset + member.size > most:
                raise InputError(f"{path} unpacks to over {_MAX_RATIO} times its size.")
            match = _NAME.fullmatch(member.name)
            fault = member.fault or ("" if match else "is no box file")
            if match and member.size > MAX_XML_BYTES:
                fault = f"is larger than {MAX_XML_BYTES >> 20} MB"
            if match and match[1] in seen:
                fault = "appears twice"
            if fault:
                add_faults(rejected, [Fault(f"{path.name}: {member.name}", fault)])
            elif match[1] in stems:
                seen.add(match[1])
                batch.append((match[1], stream.read_at(member.offset, member.size)))
                size += member.size
            if len(batch) == _BATCH or size > _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        stream.read_to_end(MAX_TAIL_BYTES)
    yield batch


def _parse_all(batch: list[tuple[str, bytes]]) -> tuple[dict[str, bytes], list[Fault]]:
    boxes, faults = {}, []
    for stem, text in batch:
        try:
            corners = parse_boxes(text, stem.split("_")[0])
        except (ParseError, defusedxml.DefusedXmlException, ValueError) as error:
            faults.append(Fault(f"{stem}.xml", f"cannot be read ({type(error).__name__}: {error})"))
            continue
        if len(corners):
            boxes[stem] = corners.tobytes()
    return boxes, faults


def parse_boxes(text: bytes, synset: str) -> np.ndarray:
    """Returns a file's boxes of the synset: [boxes, 4] float32 xmin, ymin, xmax, ymax in 0..1.

    Names that are no synsets, such as "Scottish_deerhound", stand for the file's own.

    Raises:
      ValueError: a number is missing or malformed.
      ParseError, DefusedXmlException: the XML is damaged, or declares entities.
    """
    root = defusedxml.ElementTree.fromstring(text)
    size = np.array([_number(root, f"size/{side}") for side in ("width", "height")] * 2)
    if not (size > 0).all():
        raise ValueError(f"the size is {size[0]} x {size[1]}")
    rows = [
        [_number(box, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        for box in root.iter("object")
        if (name := box.findtext("name") or "") == synset or not _SYNSET.fullmatch(name)
    ]
    corners = np.clip(np.array(rows, np.float64).reshape(-1, 4) / size, 0, 1)
    low, high = np.minimum(corners[:, :2], corners[:, 2:]), corners.reshape(-1, 2, 2).max(1)
    return np.hstack([low, high])[(low < high).all(1)].astype(np.float32)


def _number(element, path: str) -> float:
    number = float(element.findtext(path) or "nan")
    if not np.isfinite(number):
        raise ValueError(f"{path} is no number")
    return number
