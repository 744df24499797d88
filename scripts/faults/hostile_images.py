"""Opens some six hundred hostile images by the ways of prediction and conversion.

    python scripts/faults/hostile_images.py

Prints the slowest and the largest: seconds, and the peak of this process's memory (Linux).
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from squeezenext.convert import images
from squeezenext.errors import InputError
from squeezenext.predict import predictor
from tests import hostile_images


def cost(work: Callable[[], object]) -> tuple[float, int]:
    """Returns the seconds of `work`, and the peak memory meanwhile in MB; faults are answers."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    started = time.perf_counter()
    try:
        work()
    except (InputError, images.ImageError):
        pass
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text().splitlines()
    return seconds, int(next(row.split()[1] for row in status if row.startswith("VmHWM"))) // 1024


def main() -> None:
    """Prints the five slowest and the five largest."""
    rows, count = [], 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        for table in hostile_images.TABLES:
            for name, data in table():
                path.write_bytes(data)
                read = cost(lambda: predictor.read(path))
                normalised = cost(lambda content=data: images.normalise(content))
                rows.append((*read, f"predict {table.__name__}_{name}"))
                rows.append((*normalised, f"convert {table.__name__}_{name}"))
                count += 1
    print(f"{count} images")
    for column in (0, 1):
        for seconds, megabytes, name in sorted(rows, key=lambda row: -row[column])[:5]:
            print(f"{seconds:6.2f} s  {megabytes:5} MB  {name}")


if __name__ == "__main__":
    main()
