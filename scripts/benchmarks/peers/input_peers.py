"""Reads the same records in other ways: the peers of scripts/benchmarks/input.py.

Each function returns an iterator that yields the number of images in each prepared batch.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

SIZE = 227
WORKERS = 2


def predecessor(shards: list[str], batch: int) -> Iterator[int]:
    """SqueezeNext in TensorFlow 1.8: decode all, squash to 256, crop, flip, subtract, in float.

    github.com/Timen/squeezenext-tensorflow, dataloader.py and tools/; its `resize_images` had
    neither antialiasing nor half-pixel centres.
    """
    import tensorflow as tf

    def prepare(record):
        parsed = tf.io.parse_single_example(
            record, {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        )
        image = tf.cast(tf.io.decode_jpeg(parsed["image/encoded"], channels=3), tf.float32)
        image = tf.compat.v1.image.resize_images(image, [256, 256])
        image = tf.image.random_crop(image, [SIZE, SIZE, 3])
        return tf.image.random_flip_left_right(image) - [123.0, 117.0, 104.0]

    dataset = tf.data.TFRecordDataset(shards).shuffle(1024).repeat()
    dataset = dataset.map(prepare, tf.data.AUTOTUNE).batch(batch, drop_remainder=True)
    for images in dataset.prefetch(tf.data.AUTOTUNE):
        yield int(images.shape[0])


def decode(shards: list[str], batch: int) -> Iterator[int]:
    """The limit of every way that decodes whole images: nothing but that."""
    import tensorflow as tf

    def prepare(record):
        parsed = tf.io.parse_single_example(
            record, {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        )
        image = tf.io.decode_jpeg(parsed["image/encoded"], channels=3)
        return tf.shape(image)[0]

    dataset = tf.data.TFRecordDataset(shards).repeat().map(prepare, tf.data.AUTOTUNE)
    for sides in dataset.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE):
        yield int(sides.shape[0])


def _payloads(shard: str) -> Iterator[bytes]:
    """A TFRecord file's records: length, its checksum, the record, its checksum."""
    content, place = Path(shard).read_bytes(), 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        yield content[place + 12 : place + 12 + length]
        place += length + 16


def torchvision(shards: list[str], batch: int) -> Iterator[int]:
    """Torchvision's reference: Pillow, RandomResizedCrop, flip, float, Normalize; DataLoader.

    github.com/pytorch/vision, references/classification/presets.py.
    """
    import io

    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset, RandomSampler
    from torchvision import transforms

    from squeezenext.records import example

    class Records(Dataset):
        def __init__(self):
            payloads = (payload for shard in shards for payload in _payloads(shard))
            self.jpegs = [example.decode_example(p)["image/encoded"][0] for p in payloads]

        def __len__(self):
            return len(self.jpegs)

        def __getitem__(self, index):
            return change(Image.open(io.BytesIO(self.jpegs[index])).convert("RGB"))

    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    change = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(mean, deviation),
        ]
    )
    records = Records()
    # One long epoch: at an epoch's end its workers would idle, which a hundred images reach often.
    sampler = RandomSampler(records, replacement=True, num_samples=10_000_000)
    for images in DataLoader(records, batch, sampler=sampler, num_workers=WORKERS):
        yield images.shape[0]
