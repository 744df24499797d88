"""Predicts pictures that come one after the other, from a camera, a video or a watched folder.

OpenCV reads frames (requirements-camera.txt). `Predictor.view` sees each as it sees a photograph.
"""

import contextlib
import itertools
import math
import os
import queue
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from squeezenext.errors import InputError, RunAgain, SomeInputsFailed, needs
from squeezenext.files import is_leftover
from squeezenext.images.decoding import ENDINGS
from squeezenext.predict.answers import Answer
from squeezenext.predict.predictor import Predictor

TIMEOUT = 10.0  # seconds that a stream may keep us waiting for its start or its next frame
SHORT = (0.5, 0.05)  # a video may end early by as many seconds and by such a share of its length
POLL = 1.0  # seconds between two looks at a folder
QUIET = 1.0  # seconds for which a file has not changed before it is read
PATIENCE = 10.0  # the same, for a file that cannot be decoded, before it is an error
State = tuple[str, int, int]  # path, size and time of change of a file


class Frame(NamedTuple):
    """A frame of a video: its number from 1, its time in seconds, [height, width, 3] uint8 BGR."""

    number: int
    seconds: float
    pixels: np.ndarray


def is_stream(source: int | str) -> bool:
    """Returns whether a source is a camera or an address, which end only when they are stopped."""
    return isinstance(source, int) or "://" in source


def shown(source: int | str) -> str:
    """Returns a source's name for messages: of an address, scheme and host alone.

    Cameras take a password before the host, in the path (/user=me&password=...) or after "?". Where
    a further "@" leaves open what the host is, the scheme alone is shown.
    """
    if isinstance(source, int):
        return f"camera {source}"
    scheme, separator, rest = source.partition("://")
    if not separator:
        return source
    host = re.fullmatch(r"(?:[^/?#@]*@)?([\w.:-]+|\[[\w.:%]+\](?::\d+)?)(?:[/?#][^@]*)?", rest)
    return f"{scheme}://{host[1] if host else '...'}"


def frames(source: int | str, every: float = 0.0) -> Iterator[Frame]:
    """Yields the frames of a camera or video, at least `every` seconds apart.

    No frame of a file is left out but for `every`. A stream does not wait: of the frames that have
    come in the meantime the newest is taken.

    Args:
      source: number of a camera, a video file, or an address such as rtsp://...
      every: seconds.

    Raises:
      InputError: there is no such camera or video.
      SomeInputsFailed: a file is cut short.
      RunAgain: a camera or stream has ended.
    """
    capture = _opened(source)
    length = capture.get(_cv2().CAP_PROP_FRAME_COUNT)
    live = is_stream(source) and length <= 0  # a film at an address has a length
    found = _newest(capture, source) if live else _all(capture, source, length)
    due = -math.inf
    with contextlib.closing(found):
        for frame in found:
            if frame.seconds >= due:
                due = round(frame.seconds + every, 3)  # as the times are
                yield frame


def _cv2() -> Any:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet; read at a process's first video
    with needs("camera"):
        import cv2
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _opened(source: int | str) -> Any:
    """Returns a cv2.VideoCapture."""
    cv2 = _cv2()
    if isinstance(source, int):
        capture = cv2.VideoCapture(source)
        if not capture.isOpened():
            raise InputError(f"There is no camera {source} that can be read; the first is 0.")
        return capture
    if not is_stream(source) and not os.path.isfile(source):
        raise InputError(f"--video {source}: there is no such file; rtsp://HOST is a stream.")
    limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
    pairs = [number for limit in limits for number in (limit, int(1000 * TIMEOUT))]
    capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, pairs)
    if not capture.isOpened():
        raise InputError(f"{shown(source)} cannot be opened: it is no video, or it is damaged.")
    return capture


def _all(capture: Any, source: int | str, length: float) -> Iterator[Frame]:
    """Yields every frame of a file; a positive `length` is the number that its header gives."""
    cv2, number, seconds = _cv2(), 0, -math.inf
    step = 1 / max(1.0, capture.get(cv2.CAP_PROP_FPS))
    try:
        while (read := capture.read())[0]:
            told = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            seconds = round(told if told > seconds else seconds + step, 3)
            number += 1
            yield Frame(number, seconds, read[1])
    finally:
        capture.release()
    if not number:
        raise InputError(f"{shown(source)} has no frame that can be decoded; it is damaged.")
    missing = length * step - seconds - step
    if missing > max(SHORT[0], SHORT[1] * length * step):
        raise SomeInputsFailed(
            f"{shown(source)} ends after {seconds:.1f} of {length * step:.1f} s, frame {number}: "
            "it is cut short or damaged."
        )


def _newest(capture: Any, source: int | str) -> Iterator[Frame]:
    """Yields the newest frame of a stream each time; a thread reads, so that none is old."""
    waiting: queue.Queue[Frame | None] = queue.Queue(1)
    stopped, start = threading.Event(), time.monotonic()

    def put(frame: Frame | None) -> None:
        with contextlib.suppress(queue.Empty):
            waiting.get_nowait()
        waiting.put(frame)

    def read() -> None:
        try:
            for number in itertools.count(1):
                good, pixels = capture.read()
                if not good or stopped.is_set():
                    break
                put(Frame(number, round(time.monotonic() - start, 3), pixels))
        finally:
            put(None)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while frame := waiting.get():
            yield frame
    finally:
        stopped.set()
        thread.join(1.0)
        if not thread.is_alive():  # else it waits for the stream, and may not lose it meanwhile
            capture.release()
    raise RunAgain(f"{shown(source)} gives no more frames; run the same command again.")


def frame_answers(
    predictor: Predictor,
    source: int | str,
    every: float = 0.0,
    smoothing: float = 0.5,
    top_k: int = 5,
    threshold: float = 0.0,
) -> Iterator[Answer]:
    """Yields an answer for each of `frames(source, every)`.

    `smoothing` is the time constant, in seconds, of the exponential moving average of the
    probabilities and of `known`; 0: none.
    """
    mean, before = np.zeros(0), 0.0
    for frame in frames(source, every):
        view = predictor.view(frame.pixels, channels="BGR")
        values = np.append(view.probabilities, view.known or 0.0)
        new = -math.expm1((before - frame.seconds) / smoothing) if smoothing and len(mean) else 1.0
        mean, before = values if new == 1 else mean + new * (values - mean), frame.seconds
        best = predictor.best(mean[:-1], top_k, threshold)
        known = None if view.known is None else float(mean[-1])
        yield Answer(
            shown(source), best, None, known=known, frame=frame.number, seconds=frame.seconds
        )


def folder_answers(
    predictor: Predictor, folder: Path, top_k: int = 5, threshold: float = 0.0
) -> Iterator[Answer]:
    """Yields an answer for each image that is added to a folder or changed there.

    An image is read when it has not changed for `QUIET` seconds, since somebody may still write it.

    Raises:
      InputError: there is no such folder.
      RunAgain: the folder has gone.
    """
    if not folder.is_dir():
        raise InputError(f"--watch {folder}: there is no such folder.")
    done, since = _states(folder), dict[State, float]()
    while folder.is_dir():
        now, time_now = _states(folder), time.monotonic()
        done &= now
        since = {state: since.get(state, time_now) for state in now}
        for state in sorted(now - done):
            quiet = time_now - since[state]
            if quiet >= QUIET:
                [answer] = predictor.answers([state[0]], top_k, threshold)
                if not answer.error or quiet >= PATIENCE:
                    done.add(state)
                    yield answer
        time.sleep(POLL)
    raise RunAgain(f"The folder {folder} is gone; bring it back and run the same command again.")


def _states(folder: Path) -> set[State]:
    """Returns path, size and time of change of each image below a folder."""
    found = set()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_leftover(name)]
        for path in (Path(parent, name) for name in names if not is_leftover(name)):
            with contextlib.suppress(OSError):  # it has gone again
                if path.suffix.lower() in ENDINGS:
                    found.add((str(path), path.stat().st_size, path.stat().st_mtime_ns))
    return found
