"""Single examples of a split, read with Pillow: for evaluation of shipped files and for reports."""

import numpy as np
from PIL import Image

from squeezenext.images import decoding
from squeezenext.records.example import image_and_class


def read(reader, number: int, classes: int) -> tuple[Image.Image, int]:
    """Returns example `number` of a `reader.Reader`: an RGB image and its label in 0..classes - 1.

    Raises:
      InputError: the record is damaged, or its label is none of the network's.
    """
    payload = reader.read(np.array([number]))[0]
    name = f"{reader.split.shards[0].path.parent}: record {number} of {reader.split.name}"
    encoded, label = image_and_class(payload, classes, name)
    return decoding.decode(decoding.open_image(encoded, name), name), label
