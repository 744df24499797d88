"""Single examples of a split, read with Pillow: for evaluation of shipped files and for reports."""

import numpy as np
from PIL import Image

from squeezenext import preprocessing
from squeezenext.errors import InputError
from squeezenext.records.example import decode_example


def read(reader, number: int, classes: int) -> tuple[Image.Image, int]:
    """Returns example `number` of a `data.Reader`: an RGB image and its label in 0..classes - 1.

    Raises:
      InputError: the record is damaged, or its label is none of the network's.
    """
    features = decode_example(reader.read(np.array([number]))[0])
    name = f"{reader.split.shards[0].path.parent}: record {number} of {reader.split.name}"
    try:
        (encoded,), (label,) = features["image/encoded"], features["image/class/label"]
    except (KeyError, ValueError) as error:
        raise InputError(f"{name} has no image or no label.") from error
    if not 1 <= label <= classes:
        raise InputError(f"{name}: the label of a record is not in 1..{classes}.")
    return preprocessing.decode(preprocessing.open_image(encoded, name), name), int(label) - 1
