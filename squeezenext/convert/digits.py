"""Writes scikit-learn's handwritten digits as folders of JPEGs, a first data set to train on.

    python -m squeezenext.convert.digits --output DIR

1,797 real scans of 8 x 8 pixels (UCI, Optical Recognition of Handwritten Digits), part of the
scikit-learn package, enlarged to 64 x 64; a folder for each class.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image
from sklearn.datasets import load_digits

from squeezenext.cli import log, run

SIDE = 64


def write_digits(output: Path) -> int:
    """Writes output/<digit>/<number>.jpg unless it exists; returns the number of images."""
    digits = load_digits()
    counts = dict.fromkeys(range(10), 0)
    for scan, digit in zip(digits.images, digits.target, strict=True):
        path = output / str(digit) / f"{counts[digit]:04d}.jpg"
        counts[digit] += 1
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            grey = np.uint8(scan * (255 / 16))  # scans count the dark pixels of a 4 x 4 cell
            enlarged = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            enlarged.convert("RGB").save(path, quality=95)
    return sum(counts.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "Folder to write.", flag_values=values)

    def command(values, _):
        count = write_digits(Path(values["output"].value))
        log(f"{values['output'].value}: {count} images.")

    return run(command, values, __doc__, argv, required=("output",))


if __name__ == "__main__":
    sys.exit(main())
