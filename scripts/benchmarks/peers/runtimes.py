"""Starts the processes of scripts/benchmarks/inference.py, one a network and runtime."""

import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from squeezenext.export import checking
from squeezenext.images import geometry
from squeezenext.litert import writer
from squeezenext.litert.runner import Runner
from squeezenext.network.model import Model
from squeezenext.predict.answers import softmax

WORKER = Path(__file__).parents[1] / "inference_worker.py"
SAME = 1e-3  # of float32 logits in different runtimes


@dataclasses.dataclass(frozen=True)
class Row:
    """What a runtime loads, and the files that it then needs."""

    runtime: str
    precision: str
    path: Path
    files: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


class Worker:
    """A runtime with a network loaded, in a process that waits.

    Raises:
      OSError: the runtime is not there, or does not load the network.
    """

    def __init__(self, python: str, row: Row, threads: int):
        self.row, self.threads, self.medians = row, threads, []
        self._process = subprocess.Popen(
            [python, str(WORKER), row.runtime, str(row.path), str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.version = self._line().removeprefix("ready ")

    def _line(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            told = self._process.stderr.read().strip().splitlines() or ["it ended"]
            self._process.wait()
            raise OSError(told[-1])
        return line.strip()

    def _ask(self, *words: object) -> str:
        self._process.stdin.write("\t".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return self._line()

    def answers(self, images: Path) -> np.ndarray:
        """Returns the logits of the images of a file, [images, classes]."""
        found = images.with_name(f"{self.row.runtime}-{self.row.precision}-{self.threads}.npy")
        self._ask("answer", images, found)
        return np.load(found)

    def run(self, images: Path, count: int) -> None:
        self.medians.append(statistics.median(json.loads(self._ask("time", images, count))))

    def end(self) -> None:
        self._process.communicate(timeout=60)


def start(rows: list[Row], threads: list[int], pythons: dict[str, str]) -> list[Worker]:
    workers, missing = [], set()
    for row in rows:
        for count in threads:
            if row.runtime in missing:
                continue
            try:
                workers.append(Worker(pythons.get(row.runtime) or sys.executable, row, count))
            except OSError as error:
                print(f"{row.runtime} is left out: {error}", file=sys.stderr)
                missing.add(row.runtime)
    return workers


def right_ones(workers: list[Worker], model: Model, images: Path) -> list[Worker]:
    """Returns the workers that compute the network; the others are named, and end.

    Args:
      images: the file of [N, size, size, 3] uint8 to compare on.
    """
    found = []
    for worker in workers:
        if _is_right(worker, model, images):
            found.append(worker)
        else:
            worker.end()
    return found


def _is_right(worker: Worker, model: Model, images: Path) -> bool:
    """Says whether a worker computes the network, and on standard error where it does not."""
    shown = np.load(images, mmap_mode="r")[:4]
    network = Runner(writer.write(model.graph, model.weights), 1, model.name)
    wanted = np.stack(
        [
            network.run(geometry.normalize(x.astype(np.float32), model.config.images))[0]
            for x in shown
        ]
    )
    found = worker.answers(images)[: len(shown)]
    name = f"{worker.row.runtime} {worker.row.precision}"
    if worker.row.precision == "float32":
        off = np.abs(found - wanted).max()
        if not off <= SAME:
            print(f"{name} is left out: its logits are off by {off:.3g}.", file=sys.stderr)
        return bool(off <= SAME)
    pairs = zip(softmax(found), softmax(wanted), strict=True)
    both = [iter(side) for side in zip(*pairs, strict=True)]
    try:
        # Not "int8": other tools may round more coarsely than our own files do.
        checking.compare(lambda _: next(both[0]), lambda _: next(both[1]), shown, "8 bits")
    except RuntimeError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return False
    return True
