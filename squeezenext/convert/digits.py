"""Writes scikit-learn's handwritten digits as a folder of JPEGs, a first data set to train on.

    python -m datasets.digits --output DIR

1,797 real scans of 8 x 8 pixels (UCI, Optical Recognition of Handwritten Digits), carried by the
scikit-learn package, enlarged to 64 x 64; a subfolder a class.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image
from sklearn.datasets import load_digits

from squeezenext.cli import run

SIDE = 64


def write(output: Path) -> int:
    """Writes output/<digit>/<number>.jpg where absent and returns how many there are."""
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
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "Folder to write.", flag_values=values)

    def command(values, _):
        count = write(Path(values["output"].value))
        print(f"{values['output'].value}: {count} images.", file=sys.stderr)

    return run(command, values, __doc__, argv, required=("output",))


if __name__ == "__main__":
    sys.exit(main())
