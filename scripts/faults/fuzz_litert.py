"""Feeds damaged .tflite files to prediction.

    python scripts/faults/fuzz_litert.py [--cases 600] [--seed 0]

A model directory's own file and an exported file of each precision get that many faults each, of
two networks of a few thousand weights: cut, with bits flipped, bytes replaced, moved, doubled or
inserted, numbers made huge, or random from the first byte. A file must be refused in a sentence
(InputError) before the interpreter sees it, or computed: in a process of its own, which may neither
crash nor take ten seconds. Exit code 0: no fault; 1: a fault; the first such file is kept.
"""

import dataclasses
import functools
import os
import signal
import sys
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.faults.damage import tally
from squeezenext import cli as command_line
from squeezenext.config import Config
from squeezenext.errors import InputError
from squeezenext.export import litert
from squeezenext.labels import Label
from squeezenext.litert import structure, writer
from squeezenext.litert.runner import Runner
from squeezenext.network import graph, rgb
from squeezenext.network.model import Model
from tests import tiny

SECONDS = 10
_REFUSED = 3  # exit code of a process in which LiteRT itself refuses a file


@dataclasses.dataclass(frozen=True)
class Case:
    """A whole file, and what it should hold."""

    name: str
    content: bytes
    graph: graph.Graph
    precision: str
    softmax: bool


def model(config: Config) -> Model:
    """Returns a network with random weights."""
    network, rng, weights = graph.of(config), np.random.default_rng(0), {}
    for node in network.weighted:
        shape = network.kernel_shape(node.name)
        kernel = rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
        weights[f"{node.name}/kernel"] = kernel.astype(np.float32)
        weights[f"{node.name}/bias"] = rng.normal(0, 0.1, shape[-1:]).astype(np.float32)
    classes = tuple(Label(f"n{i}", f"class {i}") for i in range(config.model.classes))
    return Model("fuzzed", config, classes, weights)


def cases() -> list[Case]:
    """Returns all kinds of files of both networks."""
    found = []
    for config in (tiny.SQUEEZENEXT, tiny.SQUEEZENET):
        known, name = model(config), type(config.model).__name__
        own = writer.write(known.graph, known.weights)
        found.append(Case(f"{name}, its own", own, known.graph, "float32", False))
        size = config.images.size
        images = [np.random.default_rng(1).integers(0, 256, (size, size, 3), np.uint8)]
        for precision in litert.FORMAT.precisions:
            content = litert.litert_file(known, precision, images)
            network = rgb.graph_of_rgb(known.graph)
            found.append(Case(f"{name}, {precision}", content, network, precision, True))
    return found


def outcome(case: Case, content: bytes) -> str:
    """Tries a file; returns "refused" or "computed".

    Raises:
      RuntimeError: something else happened.
    """
    try:
        structure.check_own(content, case.graph, "file", case.precision, softmax=case.softmax)
    except InputError:
        return "refused"
    child = os.fork()
    if not child:
        _compute(case, content)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        raise RuntimeError(f"The process ended by {signal.Signals(-status).name}.")
    if status not in (0, _REFUSED):
        raise RuntimeError("The file was neither refused nor computed.")
    return "refused" if status == _REFUSED else "computed"


def _compute(case: Case, content: bytes) -> None:
    """Computes an image in this child and ends it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        runner = Runner(content, 1, "file")
        runner.run(np.zeros(case.graph.nodes[0].shape, np.float32))
    except InputError:
        os._exit(_REFUSED)
    except BaseException:
        os._exit(1)
    os._exit(0)


def fuzz(count: int, seed: int, kept: Path) -> list[tuple[str, int, int]]:
    """Returns (kind of file, refused, computed) counts.

    Raises:
      SomeInputsFailed: a file crashed LiteRT; it is kept at `kept`.
    """

    def keep(content: bytes) -> Path:
        kept.write_bytes(content)
        return kept

    rows = []
    for case in cases():
        attempt = functools.partial(outcome, case)
        outcomes = tally(case.name, case.content, count, seed, attempt, keep)
        rows.append((case.name, outcomes["refused"], outcomes["computed"]))
    return rows


def main(argv=None) -> int:
    values = flags.FlagValues()
    flags.DEFINE_integer("cases", 600, "Damaged files of each kind.", 1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of the damage.", flag_values=values)

    def command(values, _):
        rows = fuzz(values["cases"].value, values["seed"].value, Path("fuzz-failure"))
        for name, refused, computed in rows:
            print(f"{name:40} {refused:8,} refused {computed:8,} computed")
        print(f"{sum(refused + computed for _, refused, computed in rows):,} files.")

    return command_line.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
