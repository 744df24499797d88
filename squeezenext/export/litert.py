"""A trained network as a LiteRT file that MediaPipe Tasks loads as it is.

It takes RGB and gives probabilities, in float32; model.tflite of a model directory, which
predict.py reads, takes what `preprocessing.normalize` makes and gives logits.
"""

import json
from collections.abc import Callable, Sequence

import numpy as np

import squeezenext
from squeezenext.config import io as config_io
from squeezenext.errors import InputError
from squeezenext.export import rgb
from squeezenext.litert import int8, metadata, writer
from squeezenext.litert.runner import Runner
from squeezenext.model.loading import DESCRIPTION, PHONES, PIXELS, Trained

PRECISIONS = ("float32", "float16", "dynamic", "int8")


def convert(model: Trained, precision: str, calibration: Sequence[np.ndarray] = ()) -> bytes:
    """Writes the file, with metadata and labels.

    Args:
      precision: one of `PRECISIONS`.
      calibration: for int8, images as `photographs.read` yields them.

    Raises:
      InputError: int8 without images.
    """
    # Half precision on a phone's GPU has its digits around 0.
    mean, std = PIXELS if precision == "int8" else PHONES
    network, weights = rgb.take_rgb(model.graph, model.weights, model.config.images, mean, std)
    return metadata.with_files(
        writer.write(
            network,
            weights,
            numbers=_numbers(precision, network, weights, calibration),
            softmax=1 / model.temperature,
            description=f"{model.name}, {precision}",
            metadata={metadata.NAME: _metadata(model, precision, mean, std)},
        ),
        {
            metadata.LABELS: "".join(f"{x.text}\n" for x in model.labels).encode(),
            DESCRIPTION: describe(model, precision).encode(),
        },
    )


def _numbers(precision: str, network, weights, calibration: Sequence[np.ndarray]):
    if precision == "int8":
        if not len(calibration):
            raise InputError("--precision int8 needs real images for its ranges: give --data_dir.")
        return int8.calibrated(network, weights, calibration)
    kinds = {
        "float32": writer.Float32,
        "float16": writer.Float16,
        "dynamic": writer.DynamicRange,
    }
    return kinds[precision]()


def _metadata(model: Trained, precision: str, mean: float, std: float) -> bytes:
    images = model.config.images
    shown = f"the centre of an image resized to {images.resize} ({images.resize_mode})"
    return metadata.metadata(
        name=f"{model.name} ({precision})",
        description=f"{type(model.config.model).__name__} for {len(model.labels)} classes. Give it "
        f"{shown}, as {DESCRIPTION} says.",
        version=squeezenext.__version__,
        size=images.size,
        mean=mean,
        std=std,
        files=[DESCRIPTION],
    )


def describe(model: Trained, precision: str) -> str:
    """Returns what every exported file carries, as JSON: version, configuration, classes, and the
    split that its temperature was fitted to, if any."""
    document = {
        "squeezenext": squeezenext.__version__,
        "model": model.name,
        "precision": precision,
        "configuration": json.loads(config_io.to_json(model.config)),
        "synsets": [label.synset for label in model.labels],
        "labels": [label.text for label in model.labels],
        "fitted_to": model.fitted_to,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"


def runner(content: bytes, precision: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what runs a file: from [size, size, 3] uint8, RGB, to probabilities."""
    found = Runner(content, 1, "the exported file")
    if precision == "int8":
        return lambda image: found.run(image.astype(np.float32))[0]
    mean, std = np.float32(PHONES)
    return lambda image: found.run((image.astype(np.float32) - mean) / std)[0]
