"""Batches for training and evaluation, from records read at random.

The order of an epoch is a permutation of all its examples, a function of (seed, epoch); training
reads the endless row of epochs from any example on. So there is no shuffle buffer, a checkpoint
holds one integer, and every example comes exactly once an epoch over any number of workers, which
share each batch out among them.
"""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from squeezenext import augmentation, records, tfrecord
from squeezenext.bad_records import BadRecords
from squeezenext.config import Images
from squeezenext.errors import InputError
from squeezenext.example import RecordError
from squeezenext.manifest import Split

_SCHEMA = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "image/height": tf.io.FixedLenFeature([], tf.int64, 0),
    "image/width": tf.io.FixedLenFeature([], tf.int64, 0),
}


@dataclasses.dataclass(frozen=True)
class Share:
    """One worker's part of every batch: `replicas` of the `total`, from number `first` on."""

    first: int = 0
    replicas: int = 1
    total: int = 1


class Reader:
    """Reads records of a split by number, with their checksums.

    `bad`: None, and a damaged record is an error; or what remembers those that are left out. The
    next whole record of the split takes the place of one, so what is read is still a function of
    the number alone: batches are full, a resumed run is exact, and any worker reads the same.
    """

    def __init__(self, split: Split):
        self.split = split
        self.index = records.index(split)
        self._names = [str(shard.path) for shard in split.shards]
        self._first = np.cumsum([0, *(shard.examples for shard in split.shards)])
        self.bad: BadRecords | None = None
        self.fault: InputError | None = None  # TensorFlow passes on only its text

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the serialised examples of these record numbers, [n] objects of bytes."""
        payloads = np.empty(len(numbers), object)
        try:
            for place, number in enumerate(numbers):
                payloads[place] = self._read(int(number)) if number >= 0 else b""
        except InputError as error:
            self.fault = error
            raise
        return payloads

    def _read(self, number: int) -> bytes:
        if self.bad is None:
            return self._read_one(number)
        for place in range(number, number + self.split.examples):
            place %= self.split.examples
            if place not in self.bad:
                try:
                    return self._read_one(place)
                except RecordError as error:
                    self.bad.add(place, error)
        raise InputError(f"{self._names[0]} and its like hold no whole record; copy them again.")

    def _read_one(self, number: int) -> bytes:
        shard, offset, length = (int(value) for value in self.index[number])
        name = self._names[shard]
        try:
            descriptor = os.open(name, os.O_RDONLY)
        except OSError as error:
            raise InputError(
                f"{name} cannot be read ({error.strerror}); mend that and run the command again."
            ) from error
        try:
            return tfrecord.read(descriptor, offset, length, name, number - int(self._first[shard]))
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def faults_named(reader: Reader):
    """Turns TensorFlow's account of a bad record into the one sentence about it.

    Raises:
      InputError: a record is damaged, or its label is none of the network's.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if reader.fault:
            raise reader.fault from error
        if found := re.search(r"the label of a record is not in 1\.\.\d+", error.message):
            raise InputError(f"{reader.split.shards[0].path.parent}: {found[0]}.") from error
        raise


def open_split(splits: dict[str, Split], name: str, directory: Path) -> Reader:
    """Returns a reader of a split.

    Raises:
      InputError: the data has no such split, or it is empty.
    """
    if name not in splits or not splits[name].examples:
        raise InputError(f"{directory} has no {name} split; convert it with one.")
    return Reader(splits[name])


def order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Returns the numbers of an epoch's examples in the order of training, [examples] int64."""
    return np.random.default_rng([seed, epoch]).permutation(examples)


def training_numbers(
    examples: int, *, seed: int, start: int, micro_batch: int, share: Share
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields for ever (record numbers, epochs), [micro_batch] int64 each, replica after replica.

    Args:
      examples: in the split.
      start: how many examples have been trained on already, over all workers.
      micro_batch: images a replica takes at once.
      share: this worker's replicas.
    """
    epoch_of = functools.lru_cache(maxsize=2)(lambda epoch: order(seed, epoch, examples))
    while True:
        for replica in range(share.first, share.first + share.replicas):
            places = start + replica * micro_batch + np.arange(micro_batch)
            epochs = places // examples
            numbers = [epoch_of(int(e))[p] for e, p in zip(epochs, places % examples, strict=True)]
            yield np.array(numbers, np.int64), epochs
        start += micro_batch * share.total


def training(
    reader: Reader,
    images: Images,
    classes: int,
    *,
    seed: int,
    start: int,
    micro_batch: int,
    share: Share,
) -> tf.data.Dataset:
    """Returns an endless dataset of (images, labels), one element a replica and micro-batch.

    Images: [micro_batch, size, size, 3] uint8 RGB. Labels: [micro_batch] int64 in 0..classes - 1.
    Arguments as in `training_numbers`.
    """
    numbers = functools.partial(
        training_numbers,
        reader.split.examples,
        seed=seed,
        start=start,
        micro_batch=micro_batch,
        share=share,
    )
    vector = tf.TensorSpec([micro_batch], tf.int64)
    dataset = tf.data.Dataset.from_generator(numbers, output_signature=(vector, vector))
    dataset = dataset.map(lambda n, e: (_read(reader, n), n, e), num_parallel_calls=2).unbatch()

    def decode(payload, number, epoch):
        jpeg, height, width, label = _parse(payload, classes)
        # 64 places for the augmentation's own numbers.
        example_seed = tf.stack([(seed * 1_000_003 + epoch) * 64, number])
        return augmentation.augmented(jpeg, height, width, images, example_seed), label

    return _batched(dataset.map(decode, tf.data.AUTOTUNE, deterministic=True), micro_batch)


def evaluation(
    reader: Reader, images: Images, classes: int, *, batch: int, share: Share
) -> tuple[tf.data.Dataset, int]:
    """Returns every example once, in order, and the number of steps that takes.

    Elements, one a replica: images as in `training`, labels, and record numbers [batch] int64,
    in which -1 marks padding (a black image that must not be counted).
    """
    examples = reader.split.examples
    steps = -(-examples // (batch * share.total))
    padded = np.full(steps * batch * share.total, -1)
    padded[:examples] = np.arange(examples)
    mine = padded.reshape(steps, share.total, batch)[:, share.first : share.first + share.replicas]
    dataset = tf.data.Dataset.from_tensor_slices(mine.reshape(-1, batch))
    dataset = dataset.map(lambda n: (_read(reader, n), n), num_parallel_calls=2).unbatch()

    def decode(payload, number):
        black = tf.zeros([images.size, images.size, 3], tf.uint8)
        image, label = tf.cond(
            number < 0,
            lambda: (black, tf.constant(0, tf.int64)),
            lambda: _centre(payload, images, classes),
        )
        return image, label, number

    return _batched(dataset.map(decode, tf.data.AUTOTUNE, deterministic=True), batch), steps


def _read(reader: Reader, numbers: tf.Tensor) -> tf.Tensor:
    payloads = tf.numpy_function(reader.read, [numbers], tf.string, stateful=False)
    return tf.ensure_shape(payloads, numbers.shape)


def _centre(payload, images: Images, classes: int):
    jpeg, height, width, label = _parse(payload, classes)
    return augmentation.centre(jpeg, height, width, images), label


def _parse(payload, classes: int):
    """Returns (jpeg, height, width, label in 0..classes - 1) of a serialised example."""
    example = tf.io.parse_single_example(payload, _SCHEMA)
    label = example["image/class/label"]
    tf.debugging.Assert(
        (label >= 1) & (label <= classes),
        [f"the label of a record is not in 1..{classes}", label],
    )
    jpeg = example["image/encoded"]
    height, width = example["image/height"], example["image/width"]
    # Foreign records may lack the size; extract_jpeg_shape decodes a progressive file to tell it.
    sides = tf.cond(
        (height > 0) & (width > 0),
        lambda: tf.stack([height, width]),
        lambda: tf.io.extract_jpeg_shape(jpeg, tf.int64)[:2],
    )
    return jpeg, sides[0], sides[1], label - 1


def _batched(dataset: tf.data.Dataset, batch: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # The examples' order is exact; only the work on them is parallel.
    options.deterministic = True
    dataset = dataset.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return dataset.with_options(options)
