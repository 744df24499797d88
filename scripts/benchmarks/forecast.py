"""Compares the doctor's forecast at half of some photographs with the truth at all of them.

    python scripts/benchmarks/forecast.py PHOTOS [PHOTOS ...] [--most 1000] [--seeds 4]

The accuracy is cross-validated, that of the linear classifier that the doctor uses.
"""

import sys
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli
from squeezenext.convert import folder, review
from squeezenext.convert.options import ConvertOptions
from squeezenext.doctor import features, suspects
from squeezenext.doctor.forecast import MOST, forecast


def measured(photos: Path, most: int, seeds: int) -> str:
    """Returns a row: accuracy at half, its forecast for all with its range, accuracy at all."""
    found = folder.collect(photos, ConvertOptions("folder"), folder.ClassNames())
    listing = review.joined(found.splits)
    chosen = np.sort(np.random.default_rng(0).permutation(len(listing.names))[:most])
    extracted = features.extract(listing.take(chosen))
    labels = listing.table["label"][chosen][extracted.rows].astype(np.int64) - 1
    names = [label.text for label in found.classes]
    everything = extracted.values, labels, np.arange(len(labels))

    def accuracy(values: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
        answers = suspects.out_of_fold(values, labels, groups, len(names)).argmax(1)
        return float((answers == labels).mean())

    halves, forecasts = [], []
    for seed in range(seeds):
        half = np.random.default_rng(seed).permutation(len(labels))[: len(labels) // 2]
        part = tuple(array[half] for array in everything)
        halves.append(accuracy(*part))
        forecasts.append(forecast(*part, names).doubled)
    return (
        f"{photos.name}: {len(labels)} photographs; at half {np.mean(halves):.3f}, forecast "
        f"{np.mean(forecasts):.3f} ({min(forecasts):.3f} to {max(forecasts):.3f}), at all "
        f"{accuracy(*everything):.3f}"
    )


def main() -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_integer("most", MOST, "Most photographs of each folder.", 10, **at)
    flags.DEFINE_integer("seeds", 4, "Random halves.", 1, **at)

    def command(values: flags.FlagValues, folders: list[str]) -> None:
        for path in folders:
            cli.say(measured(Path(path), values["most"].value, values["seeds"].value))

    return cli.run(command, values, __doc__, sys.argv, positional=True)


if __name__ == "__main__":
    sys.exit(main())
