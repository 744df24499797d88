"""A trained network as a LiteRT file that MediaPipe Tasks loads unchanged.

The file takes RGB pixels and gives probabilities, in float32. A model directory's model.tflite,
which predict.py reads, differs: it takes the pixels of `geometry.normalize` and gives logits.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import squeezenext
from squeezenext.config import io as config_io
from squeezenext.export.format import Format, Request, Run
from squeezenext.litert import int8, metadata, writer
from squeezenext.litert.runner import Runner
from squeezenext.model.loading import DESCRIPTION, PHONES, PIXELS
from squeezenext.network import rgb
from squeezenext.network.known import append
from squeezenext.network.model import Model

FULL = "full_integer"
_EIGHT_BITS = ("int8", FULL)
_NUMBERS = {
    "float32": writer.Float32(),
    "float16": writer.Float16(),
    "dynamic": writer.DynamicRange(),
}


def litert_file(model: Model, precision: str, calibration: Sequence[np.ndarray] = ()) -> bytes:
    """Returns the content of the file, with metadata and labels.

    Args:
      model: the network.
      precision: one of `FORMAT.precisions`.
      calibration: [size, size, 3] uint8, RGB, for int8 and full_integer.

    Raises:
      InputError: int8 is asked for without images.
    """
    if precision == FULL:  # the score of none of these is computed in float
        model = dataclasses.replace(model, known=None)
    # On a phone's GPU, where half precision is most exact around 0, pixels are centred.
    mean, std = PIXELS if precision in _EIGHT_BITS else PHONES
    network, weights = rgb.take_rgb(model.graph, model.weights, model.config.images, mean, std)
    if precision in _EIGHT_BITS:
        numbers = int8.calibrated(network, weights, calibration, precision == FULL)
    else:
        numbers = _NUMBERS[precision]
    network, weights = append(network, weights, model.known)
    images = model.config.images
    upright = ", turned upright as EXIF says," if images.orientation == "exif" else ""
    crop = f"the centre of an image{upright} resized to {images.resize} ({images.resize_mode})"
    described = metadata.metadata(
        name=f"{model.name} ({precision})",
        description=f"{type(model.config.model).__name__} for {len(model.labels)} classes. Give it "
        f"{crop}, as {DESCRIPTION} says.",
        size=images.size,
        mean=mean,
        std=std,
        known=model.known is not None,
        files=[DESCRIPTION],
    )
    content = writer.write(
        network,
        weights,
        numbers=numbers,
        softmax=1 / model.temperature,
        description=f"{model.name}, {precision}",
        metadata={metadata.NAME: described},
    )
    files = {
        metadata.LABELS: "".join(f"{_line(x.text)}\n" for x in model.labels).encode(),
        DESCRIPTION: describe(model, precision).encode(),
    }
    return metadata.with_files(content, files)


def _line(text: str) -> str:
    return " ".join(text.splitlines())


def describe(model: Model, precision: str) -> str:
    """Returns the JSON text that every exported file carries.

    It holds the program's version, the configuration, the classes and, if a temperature was fitted,
    the SHA-256 of the split that it was fitted to; and `known`, see network/known.py.
    """
    document = {
        "squeezenext": squeezenext.__version__,
        "model": model.name,
        "precision": precision,
        "configuration": json.loads(config_io.to_json(model.config)),
        "synsets": [label.synset for label in model.labels],
        "labels": [label.text for label in model.labels],
        "fitted_to": model.fitted_to,
    }
    document |= {"known": model.known.to_json()} if model.known else {}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"


def runner(content: bytes, precision: str) -> Run:
    """Returns a function that runs the content of a file."""
    found = Runner(content, 1, "the exported file")
    mean, std = np.float32(PIXELS if precision in _EIGHT_BITS else PHONES)
    # A probability of 0 stands for one below half a step.
    least = np.float32(1 / 512 if precision == FULL else 0)
    return lambda image: np.maximum(found.run((image.astype(np.float32) - mean) / std)[0], least)


def _write(request: Request, path: Path) -> list[tuple[str, Run]]:
    path.write_bytes(litert_file(request.model, request.precision, request.images))
    return [(request.precision, runner(path.read_bytes(), request.precision))]


FORMAT = Format(
    name="litert",
    precisions=(*_NUMBERS, *_EIGHT_BITS),
    write=_write,
    calibrated=_EIGHT_BITS,
    ending=".tflite",
    mark="TFL3",
)
