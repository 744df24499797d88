"""Compares the C runtime's logits with predict.py's on photographs, to the last bit.

    bash scripts/check_micro.sh --photographs FOLDER

All JPEG files below FOLDER are computed by SqueezeNet 1.1 and 1.0-SqNxt-23 of 10 classes, at 96,
128 and 227 pixels, by the runtime built with GCC and the sanitizers of addresses and undefined
behaviour. The weights are random, since equality needs no training; the scales come from the
photographs.
"""

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from squeezenext.images import decoding, geometry
from squeezenext.sqz import file as sqz
from tests import micro

NETWORKS, SIDES = ("squeezenet_v1_1", "v_1_0_SqNxt_23"), (96, 128, 227)
PROGRAM = Path(micro.REPOSITORY) / "tests" / "c" / "logits.c"
_CALIBRATED_ON = 32  # photographs


def different(photographs: Sequence[Path], name: str, side: int, folder: Path) -> int:
    """Returns on how many photographs a network's logits differ in `folder`'s program."""
    config = micro.published(name, side, 10)
    images = [
        geometry.centre_pixels(decoding.read_image(path.read_bytes(), str(path)), config.images)
        for path in photographs
    ]
    model, network, _ = micro.make(config, images=images[:_CALIBRATED_ON])
    data = sqz.encode_whole(model, network).data
    (folder / "network.sqz").write_bytes(data)
    (folder / "pixels").write_bytes(np.stack(images).tobytes())
    call = [str(folder / "logits"), str(folder / "network.sqz"), str(folder / "pixels")]
    done = subprocess.run(call, capture_output=True, check=True)
    found = np.frombuffer(done.stdout, np.int32).reshape(len(images), -1)
    read = sqz.decode(data, name).integer
    return sum(not np.array_equal(row, read.run(x)) for row, x in zip(found, images, strict=True))


def main(source: str) -> int:
    """Returns 1 if a logit differs, else 0."""
    photographs = sorted(
        x for x in Path(source).rglob("*") if x.suffix.lower() in (".jpg", ".jpeg")
    )
    if not photographs:
        print(f"There is no JPEG file in {source}.", file=sys.stderr)
        return 2
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        micro.build(Path(folder), PROGRAM, "-O2")
        for name, side in itertools.product(NETWORKS, SIDES):
            count = different(photographs, name, side, Path(folder))
            print(f"{name}, {side} pixels: {count} of {len(photographs)} photographs differ")
            wrong += count
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
