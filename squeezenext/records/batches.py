"""Batches for training and evaluation, from records read at random.

The order of an epoch is a permutation of all examples, a function of (seed, epoch). Training reads
the endless sequence of epochs from any example on. So there is no shuffle buffer, a checkpoint
holds one integer, and every example comes exactly once an epoch, over any number of workers, which
divide each batch among them.
"""

import contextlib
import copy
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from squeezenext.config.images import Images
from squeezenext.errors import InputError
from squeezenext.images import augment, crops, decoding, geometry
from squeezenext.images.jpeg import ImageError
from squeezenext.records import example
from squeezenext.records.reader import Reader

SCHEMA = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "image/height": tf.io.FixedLenFeature([], tf.int64, 0),
    "image/width": tf.io.FixedLenFeature([], tf.int64, 0),
}
# Records that are read and parsed together, and their bytes: each group costs 2 ms more.
_GROUP, _GROUP_BYTES = 256, 64 << 20


@dataclasses.dataclass(frozen=True)
class Share:
    """One worker's part of every batch: replicas `first` to `first + replicas - 1` of `total`."""

    first: int = 0
    replicas: int = 1
    total: int = 1


def order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """Returns the numbers of an epoch's examples in the order of training, [examples] int64."""
    return np.random.default_rng([seed, epoch]).permutation(examples)


def training_numbers(
    examples: int,
    *,
    seed: int,
    start: int,
    micro_batch: int,
    share: Share,
    echo: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields for ever (record numbers, epochs), [micro_batch] int64 each, replica after replica.

    Args:
      examples: number of examples in the split.
      seed: the order's.
      start: number of examples that all workers together have trained on.
      micro_batch: images of one replica in one step.
      share: this worker's replicas.
      echo: how often each record is repeated at once. One pass over the data then lasts `echo`
        epochs, so that each record is seen as often in all.
    """
    order_of = functools.lru_cache(maxsize=2)(lambda period: order(seed, period, examples))
    while True:
        for replica in range(share.first, share.first + share.replicas):
            positions = start + replica * micro_batch + np.arange(micro_batch)
            periods, inside = np.divmod(positions, examples * echo)
            numbers = np.empty(micro_batch, np.int64)
            for period in np.unique(periods):
                here = periods == period
                numbers[here] = order_of(int(period))[inside[here] // echo]
            yield numbers, periods * echo + inside % echo
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
    echo: int = 1,
) -> tf.data.Dataset:
    """Returns an endless dataset of (images, labels, random numbers), a micro-batch an element.

    Images: [micro_batch, size, size, 3] uint8 RGB. Labels: [micro_batch] int64 in 0..classes - 1.
    Random numbers: [micro_batch, count] float32 for `augment.augmented`, which runs the remaining
    steps on the device. Arguments as in `training_numbers`; `echo` divides `micro_batch`.
    """
    like = {"seed": seed, "micro_batch": micro_batch, "echo": echo}
    count = reader.split.examples
    pairs = functools.partial(training_numbers, count, start=start, share=share, **like)
    # Else several workers ask each other at each micro-batch whether all have one, in a collective.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return _augmented(reader, images, classes, pairs, **like).apply(endless)


def examples(
    reader: Reader, images: Images, classes: int, *, seed: int, numbers: np.ndarray, epoch: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the element that `training` makes of these records in an epoch."""
    pairs = [(numbers, np.full(len(numbers), epoch))]
    like = {"seed": seed, "micro_batch": len(numbers), "echo": 1}
    return next(iter(_augmented(reader, images, classes, lambda: pairs, **like)))


def _augmented(
    reader: Reader, images: Images, classes: int, pairs: Callable, *, seed, micro_batch, echo
) -> tf.data.Dataset:
    steps = images.augmentation
    different = micro_batch // echo

    def groups():
        following, together = iter(pairs()), max(1, _group(reader) // micro_batch)
        while some := list(itertools.islice(following, together)):
            numbers, epochs = map(np.concatenate, zip(*some, strict=True))
            values = augment.random_numbers(steps, seed, epochs, numbers)
            yield reader.places(numbers[::echo]), values

    def parse(places, values):
        # Many at once: a hundred operations, which for each image would cost a tenth more.
        jpegs, heights, widths, labels = _parse(payloads(reader, places), classes)
        sides = (tf.repeat(heights, echo), tf.repeat(widths, echo))
        windows = _cut(crops.windows(*sides, images, values), echo)
        how = crops.reading(windows, images.size)
        return jpegs, how, labels, _cut(values, echo)

    def decode(jpeg, how, label, values):
        return crops.crops(jpeg, how, images.size), tf.repeat(label, echo), values

    def join(*parts):
        pixels, labels, values = (_flat(part, micro_batch) for part in parts)
        return crops.moved(pixels, images, values), labels, values

    signature = (
        tf.TensorSpec([None, 4], tf.int64),
        tf.TensorSpec([None, augment.slices(steps)[-1].stop], tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(groups, output_signature=signature)
    dataset = dataset.map(parse, num_parallel_calls=2, deterministic=True).unbatch()
    dataset = dataset.map(decode, tf.data.AUTOTUNE, deterministic=True)
    return _batched(dataset, different, join)


def _group(reader: Reader) -> int:
    """Returns how many records are read together: fewer where they are large."""
    return max(1, min(_GROUP, _GROUP_BYTES // max(1, int(reader.index["length"].mean()))))


def _cut(values: tf.Tensor, size: int) -> tf.Tensor:
    return tf.reshape(values, [-1, size, *values.shape[1:]])


def _flat(values: tf.Tensor, count: int) -> tf.Tensor:
    return tf.reshape(values, [count, *values.shape[2:]])


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
    group = _group(reader)
    cuts = range(group, mine.size, group)
    dataset = tf.data.Dataset.from_generator(
        lambda: (reader.places(some) for some in np.split(mine.ravel(), cuts)),
        output_signature=tf.TensorSpec([None, 4], tf.int64),
    )
    dataset = dataset.map(lambda p: (payloads(reader, p), p[:, 0]), num_parallel_calls=2).unbatch()

    def decode(payload, number):
        black = tf.zeros([images.size, images.size, 3], tf.uint8)
        image, label = tf.cond(
            number < 0,
            lambda: (black, tf.constant(0, tf.int64)),
            lambda: _centre(payload, images, classes),
        )
        return image, label, number

    return _batched(dataset.map(decode, tf.data.AUTOTUNE, deterministic=True), batch), steps


def payloads(reader: Reader, places: tf.Tensor) -> tf.Tensor:
    """Returns the payloads of these records, [n] strings, read by TensorFlow's own threads.

    Python's would read at most 15,000 records/s, on any number of cores, as they share a lock. Only
    where TensorFlow fails to read one of the records does `reader` read them: it knows what
    replaces a damaged record, and how to report it.

    Args:
      places: [n, 4] int64, as `Reader.places` returns them.
    """
    paths = tf.constant(reader.paths)
    records = tf.data.Dataset.from_tensor_slices(places)
    # Two groups are read at once.
    calls = max(1, reader.reads // 2)
    records = records.map(functools.partial(_record, paths), calls, deterministic=True)
    # An empty string follows, as a data set without any element is an error.
    records = records.ignore_errors().concatenate(tf.data.Dataset.from_tensors(""))
    count = tf.shape(places, tf.int64)[0]
    found = records.batch(count + 1).get_single_element()[:-1]

    def anew():
        return tf.numpy_function(reader.read, [places[:, 0]], tf.string, stateful=False)

    whole = tf.cond(tf.size(found, tf.int64) == count, lambda: found, anew)
    return tf.ensure_shape(whole, places.shape[:1])


def _record(paths: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Returns the payload of one record, whose checksums TensorFlow compares."""
    _, shard, offset, length = tf.unstack(place)
    # The only operation that reads from the middle of a file; one read, as long as the record.
    shards = tf.raw_ops.TFRecordDatasetV2(
        filenames=[paths[shard]], compression_type="", buffer_size=length, byte_offsets=[offset]
    )
    following = tf.data.experimental.from_variant(shards, tf.TensorSpec([], tf.string))
    return following.take(1).get_single_element()


def _centre(payload, images: Images, classes: int):
    jpegs, _, _, labels = _parse(payload[tf.newaxis], classes)

    def centre(jpeg: bytes) -> np.ndarray:
        return geometry.centre_pixels(decoding.decode(decoding.open_image(jpeg)), images)

    # Prediction's own code. The same in TensorFlow's operations takes 1.8 times its CPU time.
    pixels = tf.numpy_function(centre, [jpegs[0]], tf.uint8, stateful=False)
    return tf.ensure_shape(pixels, [images.size, images.size, 3]), labels[0]


def _parse(payloads, classes: int):
    """Returns (jpegs, heights, widths, labels in 0..classes - 1) of serialised examples, [n]."""
    parsed = tf.io.parse_example(payloads, SCHEMA)
    labels = parsed["image/class/label"]
    tf.debugging.Assert(
        tf.reduce_all((labels >= 1) & (labels <= classes)),
        [f"the label of a record is not in 1..{classes}", labels],
    )
    jpegs = parsed["image/encoded"]
    sides = tf.stack([parsed["image/height"], parsed["image/width"]], -1)
    # Foreign records may lack the size. (extract_jpeg_shape decodes progressive files.)
    sides = tf.cond(
        tf.reduce_all(sides > 0),
        lambda: sides,
        lambda: tf.map_fn(
            lambda jpeg: tf.io.extract_jpeg_shape(jpeg, tf.int64)[:2],
            jpegs,
            fn_output_signature=tf.TensorSpec([2], tf.int64),
        ),
    )
    return jpegs, sides[:, 0], sides[:, 1], labels - 1


def _batched(dataset: tf.data.Dataset, batch: int, finish=None) -> tf.data.Dataset:
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # The examples' order is exact; only the work on them is parallel.
    options.deterministic = True
    dataset = dataset.batch(batch, drop_remainder=True)
    if finish:
        dataset = dataset.map(finish)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


@contextlib.contextmanager
def faults_named(*readers: Reader):
    """Turns TensorFlow's error about a bad record of one of the readers into one sentence.

    Raises:
      InputError: a record is damaged, its image cannot be decoded, or its label is none of the
        network's.
    """
    try:
        yield
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        fault = _explained(error, readers)
        if fault is None:
            raise
        try:
            raise fault from error
        finally:
            # Else this frame and the error hold each other, and with them an iterator that still
            # reads ahead. Python's collector may then run in the very thread that reads for it, and
            # TensorFlow waits there for that thread, for ever.
            del fault


def _explained(error: Exception, readers: Sequence[Reader]) -> Exception | None:
    """Returns what an error of TensorFlow says of a record, None if it is about another thing."""
    if faults := [reader.fault for reader in readers if reader.fault]:
        return copy.copy(faults[0])  # the reader shall not hold the trace
    if match := re.search(r"the label of a record is not in 1\.\.\d+", str(error)):
        return InputError(f"{readers[0].split.shards[0].path.parent}: {match[0]}.")
    # TensorFlow's error about a record that is no example cites its bytes, which are no text.
    if isinstance(error, (tf.errors.InvalidArgumentError, UnicodeDecodeError)):
        return next(filter(None, map(undecodable, readers)), None)
    return None


def undecodable(reader: Reader) -> InputError | None:
    """Looks for a record that TensorFlow cannot take among those that were read last."""
    for number in reader.latest():
        stand_in, payload = reader.whole(number)
        if reason := _fault_of(payload):
            path, own_number = reader.location(stand_in)
            file = example.file_name(payload)
            return InputError(
                f"{path}: record {own_number}{f' ({file})' if file else ''} cannot be used: "
                f"{reason}; write it anew."
            )
    return None


def _fault_of(payload: bytes) -> str:
    """Returns why an example cannot be trained or evaluated on; "" if it can."""
    try:
        parsed = tf.io.parse_single_example(payload, SCHEMA)
    except (tf.errors.OpError, UnicodeDecodeError):
        return "TensorFlow cannot parse it as an example"
    try:
        decoding.decode(decoding.open_image(parsed["image/encoded"].numpy()))
        real = tuple(tf.io.decode_jpeg(parsed["image/encoded"], channels=3).shape[:2])
    except ImageError as error:
        return f"its image {error}"
    except tf.errors.OpError as error:
        return re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*?\]", "", error.message.splitlines()[0])
    if not tf.io.is_jpeg(parsed["image/encoded"]):  # decode_jpeg takes others, too, crops do not
        return "its image is no JPEG"
    stated = int(parsed["image/height"]), int(parsed["image/width"])
    other = min(stated) > 0 and stated != real
    return f"its image is {real}, not {stated} pixels" if other else ""
