"""Prediction with LiteRT, Pillow and numpy alone, without TensorFlow.

predictor = Predictor("squeezenet_v1_0")
predictor.predict(Image.open("photo.jpg"))
"""

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from squeezenext.errors import InputError
from squeezenext.images import decoding, geometry
from squeezenext.litert.runner import Runner, cores
from squeezenext.model import loading
from squeezenext.predict import sources

if TYPE_CHECKING:
    from squeezenext.litert.class_maps import Tapped

_LARGE_PIXELS = 12_000_000  # 12 million pixels take up to 100 MB on their way to RGB
_ONE_LARGE = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One of the most probable classes of an image."""

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
    """

    probabilities: np.ndarray
    features: np.ndarray | None
    _tapped: "Tapped | None"
    _outputs: list[np.ndarray]

    def class_map(self, index: int) -> np.ndarray:
        """Returns what each pixel of the last map adds to a logit, [height, width] float32."""
        if self._tapped is None:
            raise ValueError("The predictor was made without `inside`, which class maps need.")
        return self._tapped.class_map(self._outputs, index)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result for one source: predictions, or an error that names the source.

    Attributes:
      features: as in `View`.
      explanation: the file that `explain` wrote, or None.
    """

    path: str
    predictions: list[Prediction]
    error: str | None
    features: np.ndarray | None = None
    explanation: Path | None = None


T = TypeVar("T")
R = TypeVar("R")
Look = Callable[[Image.Image], View]
Explain = Callable[[int, str, Image.Image, View, Prediction], Path]


class Predictor:
    """Predicts the classes of images.

    Args:
      model: a model directory, a published model's name, or an exported file.
      inside: also compute `features` and class maps.

    Raises:
      InputError: there is no such model.
    """

    def __init__(self, model: str | Path, *, inside: bool = False):
        self._model = loading.load_runnable(model)
        self.config = self._model.config
        self.labels = self._model.labels
        self._content = loading.litert(self._model)
        self._runner = self._make_runner(cores())
        self._tapped = self._tap() if inside else None
        if self._runner.size != self.config.images.size:
            raise InputError(
                f"{self._model.name} reads {self._runner.size} pixels a side, its configuration "
                f"says {self.config.images.size}."
            )

    def _tap(self) -> "Tapped":
        from squeezenext.litert import class_maps

        content = self._content
        content = content if isinstance(content, bytes) else content.read_bytes()
        tapped = class_maps.tap(content, self._model.name)
        self._content = tapped.content
        self._runner = self._make_runner(cores())
        return tapped

    def _make_runner(self, threads: int) -> Runner:
        return Runner(self._content, threads, self._model.name)

    def predict(
        self, image: Image.Image, top_k: int = 5, threshold: float = 0.0
    ) -> list[Prediction]:
        """Returns the `top_k` most probable classes of an image, the best first.

        Classes whose probability is below `threshold` are skipped.
        """
        return self._best(self.probabilities(image), top_k, threshold)

    def probabilities(self, image: Image.Image) -> np.ndarray:
        """Returns the classes' probabilities for an image of any size, [classes] float32."""
        return self.view(image).probabilities

    def view(self, image: Image.Image) -> View:
        """Returns the network's outputs for an image of any size."""
        return self._view(image, self._runner)

    def _view(self, image: Image.Image, runner: Runner) -> View:
        image = decoding.to_rgb(image)
        pixels = geometry.centre_pixels(image, self.config.images).astype(np.float32)
        if self._model.rgb is None:
            outputs = runner.run(geometry.normalize(pixels, self.config.images))
            with np.errstate(all="ignore"):  # reported below
                probabilities = softmax(outputs[0] / np.float32(self._model.temperature))
        else:
            mean, deviation = self._model.rgb
            outputs = runner.run((pixels - np.float32(mean)) / np.float32(deviation))
            probabilities = outputs[0]
        if not np.isfinite(probabilities).all():  # finite weights can overflow float32
            raise InputError(f"{self._model.name} gives no probabilities here: it is damaged.")
        features = self._tapped.features(outputs) if self._tapped else None
        return View(probabilities, features, self._tapped, outputs)

    def _best(self, probabilities: np.ndarray, top_k: int, threshold: float) -> list[Prediction]:
        # Stable, so that of equally probable classes the lower index comes first, as in evaluation.
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        return [
            Prediction(int(i), self.labels[i].synset, self.labels[i].text, float(probabilities[i]))
            for i in best
            if probabilities[i] >= threshold
        ]

    def answers(
        self,
        paths: Iterable[str],
        top_k: int = 5,
        threshold: float = 0.0,
        explain: Explain | None = None,
    ) -> Iterator[Answer]:
        """Yields the answer for each source in order; a bad source does not stop the others.

        Each image is decoded and run in one thread, and as many threads as there are cores work at
        once: small networks gain little from several threads for one image.

        Args:
          paths: names of files, URLs, or "-"; see `sources.expand`.
          explain: a function that draws the best class's map and returns the file; it is called
            in any thread with the source's number and name, the image, its view and the class.
        """

        def answer(item: tuple[int, str], look: Look) -> Answer:
            number, path = item
            try:
                with _opened(path) as image:
                    view = look(image)
                    best = self._best(view.probabilities, top_k, threshold)
                    top = self._best(view.probabilities, 1, 0.0)[0]
                    drawn = explain(number, path, image, view, top) if explain else None
            except InputError as error:
                return Answer(path, [], str(error))
            return Answer(path, best, None, view.features, drawn)

        return self.each(list(enumerate(paths, start=1)), answer)

    def each(self, items: Sequence[T], work: Callable[[T, Look], R]) -> Iterator[R]:
        """Yields work(item, look) for every item in order, in as many threads as there are cores.

        `look(image)` does what `view` does, with an interpreter of the thread's own.
        """
        workers = min(cores(), len(items))
        if workers < 2:
            yield from (work(item, self.view) for item in items)
            return
        runners = _Runners([self._make_runner(1) for _ in range(workers)])

        def look(image: Image.Image) -> View:
            return self._view(image, runners.mine())

        yield from _in_order(lambda item: work(item, look), items, workers)


class _Runners:
    """Lends each thread a runner of its own."""

    def __init__(self, runners: list[Runner]):
        self._free = runners
        self._local = threading.local()

    def mine(self) -> Runner:
        if not hasattr(self._local, "runner"):
            self._local.runner = self._free.pop()
        return self._local.runner


def _in_order(work: Callable, items: Sequence, workers: int) -> Iterator:
    """Yields work(item) in order; each thread works at most two items ahead of the consumer."""
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def read(path: str | Path) -> Image.Image:
    """Reads an image file, a URL or standard input ("-") as RGB.

    Raises:
      InputError: it cannot be read, is too large, or is no image.
    """
    image, name = _open(str(path))
    with _turn(image), decoding.errors_naming(name):
        return decoding.decode(image)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """Opens an image; its pixels are freed before another thread may decode a large one."""
    image, name = _open(path)
    with _turn(image), contextlib.closing(image):
        with decoding.errors_naming(name):
            pixels = decoding.decode(image)
        with contextlib.closing(pixels):
            yield pixels


def _open(path: str) -> tuple[Image.Image, str]:
    """Returns an image of which only the headers are read, and its name in messages."""
    name = "standard input" if path == "-" else path
    with decoding.errors_naming(name):
        return decoding.open_image(sources.read(path)), name


def _turn(image: Image.Image) -> contextlib.AbstractContextManager:
    """Waits until no other thread holds a large image, if this one is large.

    Two images of 89 million pixels would not fit into a gigabyte.
    """
    if image.width * image.height <= _LARGE_PIXELS:
        return contextlib.nullcontext()
    # The system gets blocks of this size back at once; smaller ones stay with the thread that
    # freed them. The peak over tests/hostile_images.py is 504 MB so, else 1,064 MB.
    Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]  # Pillow's C module
    return _ONE_LARGE
