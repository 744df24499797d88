"""What prediction gives: the outputs for an image, its most probable classes, or an error."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from squeezenext.arguments import checked

if TYPE_CHECKING:
    from squeezenext.litert.class_maps import Tapped


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One of the most probable classes of an image.

    Attributes:
      index: the class's place among the network's outputs, from 0.
      synset: WordNet's number, such as "n02123045", or the name of the class's folder.
      label: the name for people.
      probability: 0 to 1.
    """

    index: int
    synset: str
    label: str
    probability: float


@dataclasses.dataclass(frozen=True)
class View:
    """The network's outputs for one image.

    Attributes:
      probabilities: [classes] float32 that sum to 1.
      features: [channels] float32, the classifier's input averaged over height and width; None
        if the predictor was made without `inside`.
      known: 0 to 1, below 0.5 if the image is like none that the network was trained on; no
        probability, see network/known.py. None if the model has no such score.
    """

    probabilities: np.ndarray
    features: np.ndarray | None
    known: float | None
    _tapped: "Tapped | None"
    _outputs: list[np.ndarray]

    @property
    def logits(self) -> np.ndarray:
        """The network's first output: [classes] float32, probabilities of an exported file."""
        return self._outputs[0]

    @checked(index=0)
    def class_map(self, index: int) -> np.ndarray:
        """Returns what each pixel of the last map adds to a logit, [height, width] float32."""
        if self._tapped is None:
            raise ValueError("The predictor was made without `inside`, which class maps need.")
        return self._tapped.class_map(self._outputs, index)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result for one source: predictions, or an error that names the source.

    Attributes:
      path: the source, as it was given.
      predictions: the most probable classes, the best first; empty with an error.
      error: a sentence, or None.
      features: as in `View`.
      known: as in `View`; None with an error, too.
      explanation: the file that `explain` wrote, or None.
      frame: number of the frame of a video or camera, from 1; None for a photograph.
      seconds: its time.
    """

    path: str
    predictions: list[Prediction]
    error: str | None
    features: np.ndarray | None = None
    explanation: Path | None = None
    known: float | None = None
    frame: int | None = None
    seconds: float | None = None

    @property
    def more(self) -> dict[str, object]:
        """The fields that not every model and source gives."""
        given = {name: getattr(self, name) for name in ("frame", "seconds", "known")}
        return {name: value for name, value in given.items() if value is not None}

    def document(self) -> dict[str, object]:
        """Returns the JSON object of `--format json`."""
        rows = [vars(row) for row in self.predictions]
        drawn = {"explanation": str(self.explanation)} if self.explanation else {}
        found = {"path": self.path, "predictions": rows, "error": self.error}
        return found | self.more | drawn


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
