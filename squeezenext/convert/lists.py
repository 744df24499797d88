"""The lists beside the records, named and filled as the PyTorch SqueezeNet's preparation did.

`labels.txt` (as TF-slim reads it), `categories.csv` (id,label), `train.csv` and `val.csv`
(image,class), where an id counts from 0; and `rgb_val.json`, the training split's mean colour.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from squeezenext import labels
from squeezenext.convert import commit
from squeezenext.convert.shards import Written

LABELS, CATEGORIES, MEAN = "labels.txt", "categories.csv", "rgb_val.json"
LISTS = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
FILES = (LABELS, CATEGORIES, MEAN, *LISTS.values())

_EXACT_BYTES = 256 << 20  # images whose mean colours take some 5 s; beyond, a sample will do


def mean_sample(examples: int, size: int) -> int:
    """Returns how many of so many training images the mean colour is taken of.

    All of up to 256 MB; else 400 and a hundredth of all. Mean colours of photographs have a
    deviation of 35 in 0..255, so the standard error is 0.3 of ImageNet's 13,211 and at most 1.7
    of smaller sets: a fiftieth of the 58 by which pixels deviate. Each costs 2 ms, as much as
    converting fifteen.
    """
    return examples if size <= _EXACT_BYTES else min(examples, 400 + examples // 100)


def rgb_mean(results: Sequence[Written]) -> tuple[list[float] | None, int]:
    """Returns the mean of the images' mean colours, red first, and how many images it is of."""
    count = sum(result.rgb_images for result in results)
    total = np.sum([result.rgb_sum for result in results], axis=0)
    return ([round(float(value), 3) for value in total / count] if count else None), count


def write_labels(output: Path, classes: Sequence[labels.Label]) -> None:
    """Writes labels.txt."""
    with commit.written(output / LABELS, output / commit.WORK) as file:
        for number, label in enumerate(classes, 1):
            file.write(f"{number}:{label.text}\n".encode())


def write(
    output: Path,
    classes: Sequence[labels.Label],
    written: dict[str, list[Written]],
    mean: list[float] | None,
) -> None:
    """Writes all the lists but labels.txt, which may be the source's."""
    work = output / commit.WORK
    rows = ((number, label.text) for number, label in enumerate(classes))
    _write_csv(output / CATEGORIES, ("id", "label"), rows)
    for name, results in written.items():
        pairs = (
            (image, label - 1)
            for result in results
            for image, label in zip(result.names, result.table["label"].tolist(), strict=True)
        )
        _write_csv(output / LISTS[name], ("image", "class"), pairs)
    if mean:
        with commit.written(output / MEAN, work) as file:
            file.write(json.dumps(dict(zip("RGB", mean, strict=True))).encode() + b"\n")


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple]) -> None:
    with commit.written(path, path.parent / commit.WORK) as file:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(row)
            if text.tell() > 1 << 20:
                file.write(text.getvalue().encode())
                text.seek(0)
                text.truncate()
        file.write(text.getvalue().encode())
