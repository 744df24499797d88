"""The compressed network that a page offers: found beside its model, and compared with it."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from squeezenext import files
from squeezenext.cli import Say
from squeezenext.errors import InputError, NotKept
from squeezenext.exporting import checking
from squeezenext.model import loading
from squeezenext.model.loading import Trained

IMAGES = ("size", "resize", "resize_mode")  # what the page is told of a network's images


def beside(
    model: Trained, model_dir: str | Path, images: Sequence[np.ndarray], say: Say
) -> Trained | None:
    """Returns what `model.sqz` of a model directory holds, its own or `adapt`'s; None without.

    A file that is damaged, made of other weights or too far from the model is left out, and `say`
    is told; `images` are those on which the two are compared.
    """
    for folder in (Path(model_dir), Path(model_dir) / "exported"):
        path = folder / "model.sqz"
        if path.is_file():
            try:
                return _same(path, model, Path(model_dir), images)
            except InputError as error:
                say(f"The page goes without {path}: {error}")
    return None


def _same(path: Path, model: Trained, model_dir: Path, images: Sequence[np.ndarray]) -> Trained:
    """Reads a `.sqz` file of a model; InputError: it is damaged or of another network."""
    note = files.note(path)
    if note.exists() and _weights(note) != _weights(model_dir / "final.json"):
        raise InputError("it was made of other weights than the model's of now; compress it again.")
    found = loading.load(path)
    shown = [
        (x.labels, [getattr(x.config.images, word) for word in IMAGES]) for x in (found, model)
    ]
    if shown[0] != shown[1]:
        raise InputError("it has other classes or images than the model; compress it again.")
    tempered = dataclasses.replace(found, temperature=model.temperature)  # as the page does it
    try:
        checking.compare(checking.reference(tempered), checking.reference(model), images, "int8")
    except NotKept as error:
        raise InputError(
            "its answers are too far from the model's; compress it again, into more bytes."
        ) from error
    return found


def _weights(path: Path) -> object:
    """Returns the hash of the weights that a file speaks of, or what equals no other."""
    try:
        return json.loads(path.read_text("utf-8"))["weights_sha256"]
    except (OSError, ValueError, TypeError, KeyError):
        return object()
