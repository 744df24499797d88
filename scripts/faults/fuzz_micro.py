"""Feeds damaged .sqz files to the C runtime, built with the sanitizers, in one process.

    python scripts/faults/fuzz_micro.py --cases 100000

Half of the files get the checksum of their damaged bytes. The runtime must give an error code, or,
with a right checksum, any answer without a fault; never an answer to a file that it should refuse.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from squeezenext import cli as command_line
from squeezenext.errors import SomeInputsFailed
from squeezenext.sqz import file as sqz
from tests import micro

PROGRAM = Path(__file__).parent.parent.parent / "tests" / "c" / "fuzz.c"


def fuzz(cases: int, seed: int, folder: Path) -> str:
    """Returns what the program counted; raises SomeInputsFailed if it found a fault."""
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
            raise SomeInputsFailed(f"{name}: exit code {done.returncode}. {done.stderr[:2000]}")
        found.append(f"{name}: {done.stdout}")
    return "".join(found)


def main(argv=None) -> int:
    values = flags.FlagValues()
    flags.DEFINE_integer("cases", 100_000, "Damaged files.", 1, flag_values=values)
    flags.DEFINE_integer("seed", 1, "Start of the random numbers.", flag_values=values)

    def command(values, _):
        with tempfile.TemporaryDirectory() as folder:
            print(fuzz(values["cases"].value, values["seed"].value, Path(folder)), end="")

    return command_line.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
