"""Progress on standard error: a bar on a terminal, elsewhere a line every few seconds."""

import contextlib
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress


def _print(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # full, or a pipe whose reader has ended: no reason to end the work
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # else Python fails once more at exit


class Bar:
    """The progress of one task; a context manager.

    Args:
      title: shown in front of the bar.
      total: size of the task, None if unknown; an attribute, which may change.
      done: how much of it is done already.
      seconds: time between two lines.
      log: receives the lines.
      timed_from_first: estimate the remaining time from the first update on, not from the start.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        done: int = 0,
        seconds: float = 10.0,
        log: Callable[[str], None] = _print,
        timed_from_first: bool = False,
    ):
        console = rich.console.Console(stderr=True)
        self.total, self._seconds, self._log = total, seconds, log
        self._last = time.monotonic()
        self._start = None if timed_from_first else (done, self._last)
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[text]}"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,  # rich would send it to its own console: standard error
            disable=not console.is_terminal or bool(os.environ.get("CI")),
        )
        self._task = self._bar.add_task(title, total=total, completed=done, text="")

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, text: str, last: bool = False) -> None:
        """Shows how much is done, in units of `total` and in words; `last` always logs a line."""
        if not self._bar.disable:
            self._bar.update(self._task, total=self.total, completed=done, text=text)
            return
        now = time.monotonic()
        self._start = self._start or (done, now)
        if last or now - self._last >= self._seconds:
            self._last = now
            self._log(text + self._remaining(done, now))

    def _remaining(self, done: int, now: float) -> str:
        first, began = self._start or (done, now)
        if self.total is None or done <= first:
            return ""
        seconds = (self.total - done) * (now - began) / (done - first)
        short = f"{seconds:.0f} s" if seconds < 100 else datetime.timedelta(seconds=round(seconds))
        return f", {short} left"


@contextlib.contextmanager
def throughput(
    title: str, count: int, size: int, visible: bool = True, unit: str = "images"
) -> Iterator[Callable[[int, int], None]]:
    """Shows a count of images and bytes, and their speed.

    Args:
      title: the activity, "Converting".
      count: number of images in total, 0 if unknown.
      size: number of bytes in total, 0 if unknown.
      visible: False shows nothing.
      unit: what is counted, if not images.

    Yields:
      A function to call with the numbers of images and bytes just processed.
    """
    start, images, position = time.monotonic(), 0, 0

    def advance(more: int, more_bytes: int) -> None:
        nonlocal images, position
        images += more
        position += more_bytes
        seconds = max(time.monotonic() - start, 1e-3)
        text = f"{images} of {count or '?'} {unit}, {images / seconds:.0f} {unit}/s"
        bar.update(position, f"{text}, {position / seconds / 1e6:.1f} MB/s", images == count)

    if not visible:
        yield lambda more, more_bytes: None
        return
    with Bar(f"{title} {unit}", size or None, log=lambda line: _print(f"{title}: {line}")) as bar:
        yield advance
