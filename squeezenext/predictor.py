"""Prediction without TensorFlow: LiteRT, Pillow and numpy."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from squeezenext import config_io, labels, preprocessing, weights
from squeezenext.errors import InputError

MAX_BYTES = 64 << 20  # of an image file


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One of the most probable classes of an image."""

    index: int
    synset: str
    label: str
    probability: float


class Predictor:
    """Names what is in an image.

    Args:
      model: a model directory or a published model's name.

    Raises:
      InputError: there is no such model.
    """

    def __init__(self, model: str | Path):
        directory = weights.resolve(model)
        if not (directory / "config.json").is_file():
            raise InputError(f"{directory} is not a model directory: it has no config.json.")
        self.config = config_io.read(directory / "config.json")
        self.labels = labels.read(directory / "labels.json")
        if len(self.labels) != self.config.model.classes:
            raise InputError(
                f"{directory}/labels.json has {len(self.labels)} classes, the network "
                f"{self.config.model.classes}."
            )
        try:
            self._interpreter = Interpreter(model_content=_litert(directory))
        except ValueError as error:
            raise InputError(f"{directory}/model.tflite is damaged: {error}.") from error
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def predict(self, image: Image.Image, top_k: int = 5) -> list[Prediction]:
        """Returns the `top_k` most probable classes of an RGB image, the best first."""
        probabilities = self.probabilities(image)
        # Stable, so that of equal classes the lower comes first, as in evaluation.
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        return [
            Prediction(int(i), self.labels[i].synset, self.labels[i].text, float(probabilities[i]))
            for i in best
        ]

    def probabilities(self, image: Image.Image) -> np.ndarray:
        """Returns [classes] float32 that sum to 1 of an RGB image of any size."""
        pixels = preprocessing.centre_pixels(image, self.config.images)
        inputs = preprocessing.normalize(pixels.astype(np.float32), self.config.images)
        self._interpreter.set_tensor(self._input, inputs[np.newaxis])
        self._interpreter.invoke()
        return _softmax(self._interpreter.get_tensor(self._output)[0])


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def _litert(directory: Path) -> bytes:
    """Returns model.tflite; of a run that has not ended, one made of its newest checkpoint."""
    path = directory / "model.tflite"
    if path.is_file():
        return path.read_bytes()
    from squeezenext import litert, model_directory  # TensorFlow, only where it cannot be avoided

    return litert.convert(model_directory.load(directory)[0])


def read(path: Path) -> Image.Image:
    """Reads an image file to RGB.

    Raises:
      InputError: it cannot be read, is too large or no image.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MB.")
    return preprocessing.read_image(data, str(path))


def find_images(paths: Sequence[str]) -> list[Path]:
    """Returns the given files, and of each given folder all its files with an image's ending.

    An empty folder stands for itself, to be named when it is read.

    Raises:
      InputError: there is nothing but empty folders.
    """
    found: list[Path] = []
    empty: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _ENDINGS)
        found += inside
        empty += [] if inside else [path]
    if empty and not found:
        raise InputError(f"{empty[0]} holds no image ({', '.join(sorted(_ENDINGS))}).")
    return found + empty


_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
