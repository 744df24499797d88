"""Records made in the plainest way: the oracle of the converter, which writes them in parts."""

from collections.abc import Mapping, Sequence

import numpy as np

from squeezenext.records import example, tfrecord


def frame(payload: bytes) -> bytes:
    """Returns `payload` as one record of a TFRecord file, 16 bytes longer."""
    return b"".join(tfrecord.frame_parts([payload]))


def encode_example(features: Mapping[str, example.Feature]) -> bytes:
    """Returns the bytes of a `tf.train.Example`, its keys in order."""
    entries = example.encode_entries(features)
    return example.example_head(len(entries)) + entries


def example_features(image: example.ImageExample) -> dict[str, Sequence[bytes] | np.ndarray]:
    """Returns the TF-slim ImageNet schema, field for field."""
    return {
        example.ENCODED: [image.image],
        example.HEIGHT: [image.height],
        example.WIDTH: [image.width],
        example.COLORSPACE: [b"RGB"],
        example.CHANNELS: [3],
        example.FORMAT: [b"JPEG"],
        example.FILENAME: [image.filename.encode()],
        example.LABEL: [image.label],
        example.SYNSET: [image.synset.encode()],
        example.TEXT: [image.text.encode()],
        "image/object/bbox/xmin": image.boxes[:, 0],
        "image/object/bbox/ymin": image.boxes[:, 1],
        "image/object/bbox/xmax": image.boxes[:, 2],
        "image/object/bbox/ymax": image.boxes[:, 3],
        "image/object/bbox/label": np.full(len(image.boxes), image.label, np.int64),
    }
