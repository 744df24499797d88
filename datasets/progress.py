"""How far the work is, on standard error: a bar on a terminal, else a line every 10 s."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

import rich.console
import rich.progress

_EVERY_SECONDS = 10.0


class Advance(Protocol):
    def __call__(self, images: int, size: int) -> None: ...


@contextlib.contextmanager
def shown(title: str, images: int, size: int, wanted: bool = True) -> Iterator[Advance]:
    """Gives a function to call with the images and bytes just done.

    Args:
      images, size: all that is to be done.
      wanted: False shows nothing.
    """
    console = rich.console.Console(stderr=True)
    if not wanted:
        yield lambda images, size: None
    elif console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(title, total=size, images=0, all=images)
            done = _Counter()
            yield lambda images, size: bar.update(task, advance=size, images=done.add(images))
    else:
        yield _Lines(title, images, size)


class _Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self, more: int) -> int:
        self.value += more
        return self.value


def _bar(console: rich.console.Console) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.fields[images]:,} of {task.fields[all]:,} images"),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )


class _Lines:
    """Prints a line every ten seconds, and one at the end."""

    def __init__(self, title: str, images: int, size: int) -> None:
        self._title, self._all, self._size = title, images, size
        self._images = self._bytes = 0
        self._start = self._last = time.monotonic()

    def __call__(self, images: int, size: int) -> None:
        self._images += images
        self._bytes += size
        now = time.monotonic()
        if now - self._last >= _EVERY_SECONDS or self._images == self._all:
            self._last = now
            print(self._line(max(now - self._start, 1e-3)), file=sys.stderr, flush=True)

    def _line(self, seconds: float) -> str:
        left = (self._size - self._bytes) * seconds / max(self._bytes, 1)
        return (
            f"{self._title}: {self._images} of {self._all} images, "
            f"{self._images / seconds:.0f} images/s, {self._bytes / seconds / 1e6:.1f} MB/s, "
            f"{left:.0f} s left"
        )
