"""Feeds damaged .sqz files to the C runtime, built with the sanitizers, in one process.

    python scripts/faults/fuzz_micro.py --cases 100000

Half of the files get the checksum of their damaged bytes. The runtime must give an error code, or,
with a right checksum, any answer without a fault; never an answer to a file that it should refuse.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from squeezenext.sqz import file as sqz
from tests import micro

PROGRAM = Path(__file__).parent.parent.parent / "tests" / "c" / "fuzz.c"


def fuzz(cases: int, seed: int, folder: Path) -> str:
    """Returns what the program counted; raises RuntimeError if it found a fault."""
    program = micro.build(folder, PROGRAM)
    found = []
    for number, name in enumerate(micro.CONFIGS):
        model, network, images = micro.network(name)
        (folder / "network.sqz").write_bytes(sqz.encode_whole(model, network).data)
        np.asarray(images[0]).tofile(folder / "pixels")
        arguments = [folder / "network.sqz", folder / "pixels", cases // len(micro.CONFIGS) + 1]
        call = [str(x) for x in (program, *arguments, 2 * (seed + number) + 1)]
        done = subprocess.run(call, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: exit code {done.returncode}. {done.stderr[:2000]}")
        found.append(f"{name}: {done.stdout}")
    return "".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=100_000, help="Number of damaged files.")
    parser.add_argument("--seed", type=int, default=1, help="Start of the random numbers.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(fuzz(arguments.cases, arguments.seed, Path(folder)), end="")


if __name__ == "__main__":
    main()
