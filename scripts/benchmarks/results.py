"""Measures `adapt` for a table of results: each starting point, budget and seed on one set.

    python scripts/benchmarks/results.py PHOTOS [--configurations squeezenet_v1_1] [--seeds 3]
        [--minutes 15] [--max_bytes 250000,150000] [--output runs]

Prints a row for each starting point: the mean over the seeds and the range of top-1, of the network
in float32, of its int8 file and of a `.sqz` within each budget. A budget needs runs of its own; the
network and int8 are those of the first. Finished runs are kept in --output and not made again.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli
from squeezenext.errors import InputError


def text(values: Sequence[float]) -> str:
    """Returns the mean of some shares in per cent, with their range if there are several."""
    low, high = 100 * min(values), 100 * max(values)
    spread = f" ({low:.1f} to {high:.1f})" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{spread}"


def scores(photos: str, model_dir: Path, *arguments: str) -> tuple[float, float, float]:
    """Returns top-1 in float32, int8 and `.sqz`, after `adapt` in a process of its own."""
    line = [sys.executable, "-m", "squeezenext.adapt", photos, "--model_dir", str(model_dir)]
    path = model_dir / "scores.json"
    if not path.exists() and subprocess.run([*line, *arguments], cwd=ROOT).returncode not in (0, 1):
        raise InputError(f"{model_dir}: this run failed; what it printed says why.")
    found = json.loads(path.read_text(encoding="utf-8"))
    int8, sqz = (found["files"][f"exported/model{end}"] for end in ("-int8.tflite", ".sqz"))
    return found["network"]["top1"], int8["top1"], sqz["top1"]


def row(
    photos: str, output: Path, configuration: str, minutes: float, budgets: list[int], seeds: int
) -> str:
    """Runs `adapt` for each budget and seed, and returns a row of the table."""
    name = Path(photos).name
    columns = [
        zip(
            *(
                scores(
                    photos,
                    output / f"{name}-{configuration}-{minutes:g}-{budget}-{seed}",
                    f"--configuration={configuration}",
                    f"--minutes={minutes}",
                    f"--max_bytes={budget}",
                    f"--seed={seed}",
                )
                for seed in range(seeds)
            ),
            strict=True,
        )
        for budget in budgets
    ]
    (float32, int8, sqz), *others = columns
    cells = [text(values) for values in (float32, int8, sqz, *(more for _, _, more in others))]
    return f"| {name} | {configuration} | {minutes:g} | {' | '.join(cells)} |"


def main() -> int:
    """Runs the benchmark and returns its exit code."""
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_list("configurations", ["squeezenet_v1_1"], "Starting points.", **at)
    flags.DEFINE_list("max_bytes", ["250000"], "Budgets of the .sqz file.", **at)
    flags.DEFINE_integer("seeds", 3, "Runs of each.", 1, **at)
    flags.DEFINE_float("minutes", 15.0, "Minutes of each run.", **at)
    flags.DEFINE_string("output", "runs", "Folder of the runs.", **at)

    def command(values: flags.FlagValues, folders: list[str]) -> None:
        budgets = [*map(int, values["max_bytes"].value)]
        heads = ["set", "from", "minutes", "float32", "int8"]
        heads += [f"{size:,} bytes" for size in budgets]
        cli.say(f"| {' | '.join(heads)} |", "|---" * len(heads) + "|")
        for photos in folders:
            for name in values["configurations"].value:
                output, minutes = Path(values["output"].value), values["minutes"].value
                cli.say(row(photos, output, name, minutes, budgets, values["seeds"].value))

    return cli.run(command, values, __doc__, sys.argv, positional=True)


if __name__ == "__main__":
    sys.exit(main())
