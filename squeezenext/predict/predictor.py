"""Prediction with LiteRT, Pillow and numpy alone, without TensorFlow.

predictor = Predictor("squeezenet_v1_0")
predictor.predict("photo.jpg")
"""

import collections
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from PIL import Image

from squeezenext.arguments import checked
from squeezenext.cli import cores
from squeezenext.errors import InputError
from squeezenext.images import decoding, geometry, jpeg
from squeezenext.images.decoding import Opened
from squeezenext.litert.runner import RunnerPool
from squeezenext.model import loading
from squeezenext.predict import sources
from squeezenext.predict.answers import Answer, Prediction, View, softmax

if TYPE_CHECKING:
    from squeezenext.litert.class_maps import Tapped

_LARGE_PIXELS = 12_000_000  # 12 million pixels take up to 100 MB on their way to RGB
# By process: a fork may copy a lock that is held.
_ONE_LARGE: dict[int, threading.RLock] = {}

Source = Image.Image | np.ndarray | bytes | str | Path
Channels = Literal["RGB", "BGR"]


T = TypeVar("T")
R = TypeVar("R")
Explain = Callable[[int, str, Image.Image, View, Prediction], Path]
Draw = Callable[[Image.Image, View, Prediction], Path] | None


class Predictor:
    """Predicts the classes of images, in any number of threads and after a fork.

    As many images are computed at once as there are cores; each of these takes a copy of the
    network's memory, 10 to 40 MB, from its first image on. Further threads wait.

    An image is a path or URL, the bytes of a file, a Pillow image, or an array
    [height, width, 3] uint8 of 0..255. Arrays are RGB; `channels="BGR"` takes OpenCV's.

    Args:
      model: a model directory, a published model's name, or an exported file.
      inside: also compute `features` and class maps.
      allow_url: download images whose path is an https URL of a public host.

    Photographs are turned upright as EXIF says if the model was trained so; arrays never are.

    Raises:
      InputError: there is no such model.
    """

    @checked()
    def __init__(self, model: str | Path, *, inside: bool = False, allow_url: bool = False):
        self._allow_url = allow_url
        self._model = loading.load_runnable(model)
        self.config = self._model.config
        self.labels = self._model.labels
        self._upright = self.config.images.orientation == "exif"
        content = loading.litert(self._model)
        self._runners = RunnerPool(content, self._model.name)
        with self._runners.lend() as runner:  # which fails if the file is damaged
            if runner.size != self.config.images.size:
                raise InputError(
                    f"{self._model.name} reads {runner.size} pixels a side, its configuration "
                    f"says {self.config.images.size}."
                )
        self._tapped = self._tap(content) if inside else None

    def _tap(self, content: bytes) -> "Tapped":
        from squeezenext.litert import class_maps

        tapped = class_maps.tap(content, self._model.name)
        self._runners = RunnerPool(tapped.content, self._model.name)
        return tapped

    def _outputs(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Returns what the network gives for pixels, [size, size, 3] uint8."""
        if (network := self._model.integer) is not None:
            outputs = network.outputs(pixels)
            if self._model.known:
                features = outputs[1].mean((0, 1))
                outputs.append(np.array([self._model.known.value(features, outputs[0])]))
            return outputs
        floats = pixels.astype(np.float32)
        with self._runners.lend() as runner:
            if self._model.rgb is None:
                return runner.run(geometry.normalize(floats, self.config.images))
            mean, deviation = self._model.rgb
            return runner.run((floats - np.float32(mean)) / np.float32(deviation))

    def predict(
        self,
        image: Source,
        top_k: int = 5,
        threshold: float = 0.0,
        *,
        channels: Channels = "RGB",
    ) -> list[Prediction]:
        """Returns the `top_k` most probable classes of an image, the best first.

        Classes whose probability is below `threshold` are skipped.

        Raises:
          InputError: the image cannot be read, or is none; or `top_k` is not positive.
        """
        _check_choice(top_k, threshold)
        return self.best(self.probabilities(image, channels=channels), top_k, threshold)

    def probabilities(self, image: Source, *, channels: Channels = "RGB") -> np.ndarray:
        """Returns the classes' probabilities for an image of any size, [classes] float32."""
        return self.view(image, channels=channels).probabilities

    def view(self, image: Source, *, channels: Channels = "RGB") -> View:
        """Returns the network's outputs for an image of any size."""
        rgb = _rgb(image, channels, self._allow_url, self._upright)
        outputs = self._outputs(geometry.centre_pixels(rgb, self.config.images))
        probabilities = outputs[0]
        if self._model.rgb is None:
            with np.errstate(all="ignore"):  # reported below
                probabilities = softmax(outputs[0] / np.float32(self._model.temperature))
        known = float(outputs[-1][0]) if self._model.known else None
        # Finite weights can overflow float32.
        if not np.isfinite([*probabilities, known or 0.0]).all():
            raise InputError(
                f"{self._model.name} gives no probabilities here: it is damaged; copy it again."
            )
        features = self._tapped.features(outputs) if self._tapped else None
        return View(probabilities, features, known, self._tapped, outputs)

    def best(self, probabilities: np.ndarray, top_k: int, threshold: float) -> list[Prediction]:
        """Returns the most probable classes of probabilities, [classes], the best first."""
        # Stable, so that of equally probable classes the lower index comes first, as in evaluation.
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        return [
            Prediction(int(i), self.labels[i].synset, self.labels[i].text, float(probabilities[i]))
            for i in best
            if probabilities[i] >= threshold
        ]

    def answers(
        self,
        paths: Iterable[str | Path],
        top_k: int = 5,
        threshold: float = 0.0,
        explain: Explain | None = None,
        *,
        threads: int | None = None,
    ) -> Iterator[Answer]:
        """Yields the answer for each source in order; a bad source does not stop the others.

        Args:
          paths: names of files, URLs, or "-"; see `sources.expand`.
          top_k: number of classes for each.
          threshold: probability below which classes are skipped.
          explain: a function that draws the best class's map and returns the file; it is called
            in any thread with the source's number and name, the image, its view and the class.
          threads: number of images that are read at once, by default one for each core.

        Raises:
          InputError: `paths` is no list of paths.
        """
        if isinstance(paths, str | bytes | os.PathLike) or not isinstance(paths, Iterable):
            raise InputError("answers() takes a list of paths; put a single one into [ ].")
        _check_choice(top_k, threshold)
        names = list(paths)
        if wrong := [type(path).__name__ for path in names if not isinstance(path, str | Path)]:
            raise InputError(f"answers() takes paths, not {wrong[0]}; see predict().")

        def answer(item: tuple[int, str]) -> Answer:
            number, path = item
            draw = functools.partial(explain, number, path) if explain else None
            try:
                data = sources.read(path, self._allow_url)
            except InputError as error:
                return Answer(path, [], str(error))
            return self.answer(data, path, top_k, threshold, draw)

        return map_in_threads(answer, list(enumerate(map(str, names), start=1)), threads)

    def answer(
        self, data: bytes, path: str, top_k: int = 5, threshold: float = 0.0, draw: Draw = None
    ) -> Answer:
        """Returns the answer for the bytes of an image file, as `answers` does for `path`."""
        try:
            with _opened(data, path, self._upright) as image:
                view = self.view(image)
                best = self.best(view.probabilities, top_k, threshold)
                top = self.best(view.probabilities, 1, 0.0)[0]
                drawn = draw(image, view, top) if draw else None
        except InputError as error:
            return Answer(path, [], str(error))
        return Answer(path, best, None, view.features, drawn, view.known)


def _check_choice(top_k: object, threshold: object) -> None:
    if not isinstance(top_k, int | np.integer) or top_k < 1:
        raise InputError(f"top_k is a number of classes, at least 1, not {top_k!r}.")
    if not isinstance(threshold, float | int | np.floating) or not 0 <= threshold <= 1:
        raise InputError(f"threshold is a probability of 0 to 1, not {threshold!r}.")


def _rgb(image: Source, channels: Channels, allow_url: bool, upright: bool) -> Image.Image:
    """Returns an image of any accepted kind as a Pillow image, RGB; arrays are taken as upright."""
    if channels != "RGB" and not isinstance(image, np.ndarray):
        raise InputError(f"channels={channels!r} is for arrays; this is {type(image).__name__}.")
    match image:
        case Image.Image():
            exif = (image.info.get("exif") or b"").removeprefix(b"Exif\0\0")
            held = jpeg.orientation(exif) if upright else 1
            with one_large_at_a_time(image), decoding.errors_naming("The image"):
                decoding.check_size(image.width, image.height)
                return decoding.decode(Opened(image, image.size, held, upright))
        case bytes():
            with decoding.errors_naming("The image"):
                opened = decoding.open_image(image, upright=upright)
                with one_large_at_a_time(opened.image):
                    return decoding.decode(opened)
        case str() | Path():
            return read(image, allow_url=allow_url, upright=upright)
        case np.ndarray():
            return _of_array(image, channels)
    raise InputError(
        "An image is a path, the bytes of a file, a Pillow image or an array; this is "
        f"{type(image).__name__}."
    )


def _of_array(array: np.ndarray, channels: Channels) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise InputError(
            "An array must be [height, width, 3] uint8 of 0..255; this one is "
            f"{list(array.shape)} {array.dtype}."
        )
    if channels not in ("RGB", "BGR"):
        raise InputError(f'channels is "RGB" or "BGR", not {channels!r}.')
    order = slice(None, None, -1 if channels == "BGR" else 1)
    return Image.fromarray(np.ascontiguousarray(array[..., order]))


def map_in_threads(
    work: Callable[[T], R], items: Sequence[T], threads: int | None = None
) -> Iterator[R]:
    """Yields work(item) for every item in order, in `threads`, by default one for each core.

    Each thread works at most two items ahead of the consumer.
    """
    import concurrent.futures

    workers = min(threads or cores(), len(items))
    if workers < 2:
        yield from map(work, items)
        return
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


@checked()
def read(path: str | Path, *, allow_url: bool = False, upright: bool = False) -> Image.Image:
    """Reads an image file, a URL or standard input ("-") as a Pillow image, RGB.

    If `upright`, it is turned as EXIF's orientation says.

    Raises:
      InputError: it cannot be read, is too large, or is no image.
    """
    opened = _open(sources.read(str(path), allow_url), str(path), upright)
    with one_large_at_a_time(opened.image), decoding.errors_naming(_shown(str(path))):
        return decoding.decode(opened)


@contextlib.contextmanager
def _opened(data: bytes, path: str, upright: bool) -> Iterator[Image.Image]:
    """Opens an image; its pixels are freed before another thread may decode a large one."""
    opened = _open(data, path, upright)
    with one_large_at_a_time(opened.image), contextlib.closing(opened.image):
        with decoding.errors_naming(_shown(path)):
            pixels = decoding.decode(opened)
        with contextlib.closing(pixels):
            yield pixels


def _shown(path: str) -> str:
    return "standard input" if path == "-" else path


def _open(data: bytes, path: str, upright: bool) -> Opened:
    """Returns an image of which only the headers are read."""
    try:
        with decoding.errors_naming(_shown(path)):
            return decoding.open_image(data, upright=upright)
    except InputError as error:
        from squeezenext.formats import kinds

        raise InputError(f"{error}{kinds.hint(data)}") from error


def one_large_at_a_time(image: Image.Image) -> contextlib.AbstractContextManager:
    """Waits until no other thread holds a large image, if this one is large.

    Two images of 89 million pixels would not fit into a gigabyte.
    """
    if image.width * image.height <= _LARGE_PIXELS:
        return contextlib.nullcontext()
    # The system gets blocks of this size back at once; smaller ones stay with the thread that
    # freed them. The peak over tests/hostile_images.py is 504 MB so, else 1,064 MB. Pillow has one
    # block size for the whole process.
    Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]  # Pillow's C module
    # `answers` holds it while it asks `view`, in one thread.
    return _ONE_LARGE.setdefault(os.getpid(), threading.RLock())
