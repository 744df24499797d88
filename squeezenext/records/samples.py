"""Images of a data directory, decoded and cropped without TensorFlow."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from squeezenext.config.images import Images
from squeezenext.errors import InputError
from squeezenext.images import decoding, geometry
from squeezenext.labels import Label
from squeezenext.records import dataset, example
from squeezenext.records.reader import Reader

# Splits for accuracy: the first that the data has, never the one that was trained on.
TESTED = ("validation", "test")


def read(
    data_dir: str | Path,
    splits: tuple[str, ...],
    limit: int,
    images: Images,
    known: tuple[Label, ...],
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields up to `limit` images, spread evenly over a split, and their classes.

    The split is the first of `splits` that the data has. Its classes must be the `known` ones, the
    model's; `images` has size and kind of the centre crop.

    Yields:
      [size, size, 3] uint8, RGB: the centre crop, and the index of its class in `known`.

    Raises:
      InputError: there is no such data, its classes are others, or a record is damaged or of
        another class.
    """
    data = dataset.find_dataset(data_dir, None, None)
    dataset.check_classes(data, known)
    split = _first(data, splits)
    if split is None:
        raise InputError(f"{data_dir} has no {' or '.join(splits)} split; convert data with one.")
    records = Reader(data.splits[split])
    last = len(records.index) - 1
    numbers = np.linspace(0, last, min(limit, last + 1)).round().astype(int)
    records.bring(numbers)
    for number in numbers.tolist():
        name = f"record {number} of {records.location(number)[0]}"
        image, label = decoded(records.read_one(number), len(known), name)
        yield geometry.centre_pixels(image, images), label


def first_split(data_dir: str | Path, splits: tuple[str, ...]) -> str | None:
    """Returns the first of `splits` that the data has, None where it has none of them."""
    return _first(dataset.find_dataset(data_dir, None, None), splits)


def _first(data: dataset.Dataset, splits: tuple[str, ...]) -> str | None:
    held = (name for name in splits if name in data.splits and data.splits[name].examples)
    return next(held, None)


def decoded(payload: bytes, classes: int, name: str) -> tuple[Image.Image, int]:
    """Returns a record's RGB image and its label in 0..classes - 1.

    Raises:
      InputError: the record is damaged, or its label is none of the network's.
    """
    if file := example.file_name(payload):
        name = f"{name} ({file})"
    encoded, label = example.image_and_class(payload, classes, name)
    return decoding.read_image(encoded, name), label


def read_examples(reader: Reader, number: int, classes: int) -> tuple[Image.Image, int]:
    """Returns example `number` of a reader as `decoded`."""
    name = f"{reader.split.shards[0].path.parent}: record {number} of {reader.split.name}"
    return decoded(reader.payload(number), classes, name)
