"""Images of a data directory, decoded and cropped without TensorFlow."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from squeezenext.config.images import Images
from squeezenext.errors import InputError
from squeezenext.images import decoding, geometry
from squeezenext.labels import Label
from squeezenext.records import dataset, example, tfrecord
from squeezenext.records.example import image_and_class

# Splits for accuracy: the first that the data has, never the one that was trained on.
TESTED = ("validation", "test")


def read(
    data_dir: str | Path,
    splits: tuple[str, ...],
    limit: int,
    images: Images,
    known: tuple[Label, ...],
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields up to `limit` images spread evenly over a split, and their classes.

    Args:
      data_dir: records with a manifest.
      splits: names of splits, of which the first that the data has is read.
      limit: largest number of images.
      images: size and kind of the centre crop.
      known: the classes of the model, which the data must have.

    Yields:
      [size, size, 3] uint8, RGB: the centre crop, and the index of its class in `known`.

    Raises:
      InputError: there is no such data, its classes are others, or a record is damaged or of
        another class.
    """
    found = dataset.find_dataset(data_dir, None, None)
    dataset.check_classes(found, known, Path(data_dir))
    name = _first(found, splits)
    if name is None:
        raise InputError(f"{data_dir} has no {' or '.join(splits)} split; convert it with one.")
    split = found.splits[name]
    index = dataset.index(split)
    first = np.cumsum([0, *(shard.examples for shard in split.shards)])
    for number in np.linspace(0, len(index) - 1, min(limit, len(index))).round().astype(int):
        shard, offset, length = (int(value) for value in index[number])
        path = split.shards[shard].path
        payload = _payload(path, offset, length, int(number - first[shard]))
        name = f"record {number} of {path}"
        encoded, label = example.image_and_class(payload, len(known), name)
        yield geometry.centre_pixels(decoding.read_image(encoded, name), images), label


def first_split(data_dir: str | Path, splits: tuple[str, ...]) -> str | None:
    """Returns the first of `splits` that the data has, None where it has none of them."""
    return _first(dataset.find_dataset(data_dir, None, None), splits)


def _first(found: dataset.Dataset, splits: tuple[str, ...]) -> str | None:
    held = (name for name in splits if name in found.splits and found.splits[name].examples)
    return next(held, None)


def _payload(path: Path, offset: int, length: int, number: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return tfrecord.read(descriptor, offset, length, str(path), number)
    finally:
        os.close(descriptor)


def read_examples(reader, number: int, classes: int) -> tuple[Image.Image, int]:
    """Returns example `number` of a `reader.Reader`: an RGB image and its label in 0..classes - 1.

    Raises:
      InputError: the record is damaged, or its label is none of the network's.
    """
    payload = reader.read(np.array([number]))[0]
    name = f"{reader.split.shards[0].path.parent}: record {number} of {reader.split.name}"
    encoded, label = image_and_class(payload, classes, name)
    return decoding.read_image(encoded, name), label
