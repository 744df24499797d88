"""Measures training beside the same network in stock Keras 3 under `fit`, and in PyTorch.

    python scripts/benchmarks/train.py [--rounds 5] [--torch_python VENV/bin/python] [--json]

Each contestant is a process that has taken its first step before the measurement. In each round,
each in turn trains for some four seconds on a batch in memory. Results are medians over the rounds,
ratios are medians of the rounds' ratios. The machine's peak, to which results are compared, is that
of a 4096 x 4096 matmul of the same precision in the same run.
"""

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.benchmarks.peers.contestant import Contestant, check_imports
from squeezenext import cli as command_line
from squeezenext.config import io as config_io

BATCH = 32
SECONDS = 4.0  # of a turn
NETWORKS = ("v_1_0_SqNxt_23", "v_1_0_G_SqNxt_23", "squeezenet_v1_1")
PEAKS = ("matmul float32", "matmul bfloat16")
FLOPS_A_MAC = 6  # a multiply and an add, forward, for the inputs' and for the weights' gradient
KINDS = ("ours float32", "ours bfloat16", "Keras float32", "Keras bfloat16", "PyTorch eager",
         "PyTorch compiled")  # fmt: skip


def _ours(network: str, precision: str) -> Callable[[int], float]:
    from squeezenext.train import measure as train_measure

    return train_measure.trainer(config_io.load(network), precision, BATCH)


def _peak(precision: str) -> Callable[[int], float]:
    import time

    import tensorflow as tf

    matrix = tf.cast(tf.random.stateless_normal((4096, 4096), (0, 1)), precision)
    # One number of it: to copy all 64 MB would be timed, too.
    multiply = tf.function(lambda: tf.linalg.matmul(matrix, matrix)[0, 0])

    def work(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            multiply().numpy()
        return time.perf_counter() - started

    return work


def _peak_of(kind: str) -> str:
    return PEAKS["bfloat16" in kind]


def contestant(network: str, kind: str) -> Callable[[int], float]:
    """Returns the function that takes steps and says how long they took."""
    name, _, mode = kind.partition(" ")
    if name == "matmul":
        return _peak(mode)
    precision = {"float32": "float32", "bfloat16": "mixed_bfloat16"}.get(mode)
    if name == "ours":
        return _ours(network, precision)
    config = config_io.load(network)
    if name == "Keras":
        from scripts.benchmarks.peers import stock_keras

        return stock_keras.trainer(config, precision, BATCH)
    from scripts.benchmarks.peers import torch_train

    return torch_train.trainer(config, BATCH, compiled=mode == "compiled")


def serve(network: str, kind: str) -> None:
    """Warms up, then does a turn for each line of standard input: prints steps a second."""
    work = contestant(network, kind)
    work(1)
    work(1)
    steps = max(1, round(SECONDS / work(1)))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(steps / work(steps), flush=True)


def measure(network: str, kinds: list[str], rounds: int, torch_python: str | None) -> dict:
    """Returns each contestant's images (matmul: GFLOP) a second, a list over the rounds."""
    processes = []
    for kind in [*kinds, *dict.fromkeys(map(_peak_of, kinds))]:
        torch = kind.startswith("PyTorch")
        if not torch or torch_python:
            python = torch_python if torch else sys.executable
            processes.append(Contestant(python, __file__, kind, f"--network={network}"))
    rows: dict[str, list[float]] = {process.kind: [] for process in processes}
    for number in range(rounds):
        for process in processes:
            unit = 2 * 4096**3 / 1e9 if process.kind.startswith("matmul") else BATCH
            rows[process.kind].append(float(process.turn()) * unit)
        print(f"{network}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    for process in processes:
        process.end()
    return rows


def table(network: str, rows: dict[str, list[float]]) -> str:
    """Returns this machine's column of a network's table in docs/benchmarks.md, in Markdown."""
    from squeezenext import stats

    layers = stats.layers(config_io.load(network))
    stem = next(layer.macs for layer in layers if layer.macs)  # its input needs no gradient
    flops = FLOPS_A_MAC * stats.totals(layers)["macs"] - 2 * stem
    median = statistics.median
    kinds = [kind for kind in rows if kind not in PEAKS]
    cells = {f"{kind}, images/s": f"{median(rows[kind]):.1f}" for kind in kinds}
    for mine in (kind for kind in KINDS[:2] if kind in rows):
        for other in kinds:
            if (
                other != mine and (mine, other) != KINDS[:2]
            ):  # our own two, whose ratio is printed once
                ratio = median(a / b for a, b in zip(rows[mine], rows[other], strict=True))
                cells[f"{mine} / {other}"] = f"{ratio:.2f}"
    for kind in kinds:
        peak = median(rows[_peak_of(kind)]) * 1e9
        cells[f"{kind}, of peak"] = f"{median(rows[kind]) * flops / peak:.0%}"
    cells |= {f"{peak}, GFLOP/s": f"{median(rows[peak]):.0f}" for peak in PEAKS if peak in rows}
    lines = [f"| {network} | here |", "|---|---|"]
    return "\n".join(lines + [f"| {what} | {cell} |" for what, cell in cells.items()])


def main(argv=None) -> int:
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_integer("rounds", 5, "Number of rounds.", 1, **own)
    flags.DEFINE_multi_enum(
        "network", list(NETWORKS), config_io.configuration_names(), "Networks to train.", **own
    )
    flags.DEFINE_multi_string("kind", list(KINDS), "Contestants; default all.", **own)
    flags.DEFINE_string("torch_python", None, "An interpreter that has PyTorch.", **own)
    flags.DEFINE_bool("json", False, "Print JSON.", **own)
    flags.DEFINE_bool("serve", False, "Run as a contestant.", **own)

    def command(values, _):
        networks, kinds = values["network"].value, values["kind"].value
        if values["serve"].value:
            serve(networks[0], kinds[0])
            return
        rounds, python = values["rounds"].value, values["torch_python"].value
        if python and any(kind.startswith("PyTorch") for kind in kinds):
            modules = ("scripts.benchmarks.train", "scripts.benchmarks.peers.torch_train")
            check_imports("--torch_python", python, *modules)
        found = {}
        for name in networks:
            found[name] = measure(name, kinds, rounds, python)
            if not values["json"].value:
                print(table(name, found[name]) + "\n", flush=True)
        if values["json"].value:
            print(json.dumps(found))

    return command_line.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
