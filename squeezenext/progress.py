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
def shown(
    title: str, images: int, size: int, wanted: bool = True, unit: str = "images"
) -> Iterator[Advance]:
    """Gives a function to call with the images and bytes just done.

    Args:
      images, size: all that is to be done; 0 if that is not known.
      wanted: False shows nothing.
    """
    console = rich.console.Console(stderr=True)
    if not wanted:
        yield lambda images, size: None
    elif console.is_terminal:
        with _bar(console) as bar:
            title = f"{title} {unit}"
            task = bar.add_task(title, total=size or None, images=0, all=images)
            done = _Counter()
            yield lambda images, size: bar.update(task, advance=size, images=done.add(images))
    else:
        yield _Lines(title, images, size, unit)


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
        rich.progress.TextColumn("{task.fields[images]:,} of {task.fields[all]:,}"),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )


class _Lines:
    """Prints a line every ten seconds, and one at the end."""

    def __init__(self, title: str, images: int, size: int, unit: str) -> None:
        self._title, self._all, self._size, self._unit = title, images, size, unit
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
        told = f", {left:.0f} s left" if self._size else ""  # of a pipe nobody knows the length
        return (
            f"{self._title}: {self._images} of {self._all or '?'} {self._unit}, "
            f"{self._images / seconds:.0f} {self._unit}/s, "
            f"{self._bytes / seconds / 1e6:.1f} MB/s{told}"
        )
