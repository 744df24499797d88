"""Measures prediction of a video: frames a second, and the growth of memory.

    python scripts/benchmarks/video.py PHOTOS [--model_dir squeezenet_v1_1] [--frames 300]

The photographs below PHOTOS become a video of 640 x 480 pixels, 25 frames a second, MPEG-4. The
command `predict.py --video FILE --format json` reads it in a process of its own, whose resident
memory is looked at after each line. Its frames must come once each, in order. The rate is that of
the frames after the first one; it leaves out the start. Exit code 1: a figure misses its bound.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli as command_line
from squeezenext.errors import InputError, SomeInputsFailed
from squeezenext.predict import predictor, sources

SIZE = (640, 480)
WARM = 50  # frames after which memory should have its lasting size
GROWTH = 2.0  # MB that the median of the last 50 frames may lie above that of the first, warm 50
RATE = 25.0  # frames a second


def film(photographs: Sequence[str], path: Path, frames: int) -> None:
    """Writes a video of the photographs, which are repeated."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, SIZE)
    for number in range(frames):
        image = predictor.read(photographs[number % len(photographs)]).resize(SIZE)
        writer.write(np.ascontiguousarray(np.asarray(image)[..., ::-1]))
    writer.release()


def measure(path: Path, model: str) -> tuple[list[int], list[float], list[float]]:
    """Returns the frames' numbers, seconds, and MB of resident memory, each frame after frame."""
    names = [f"--model_dir={model}", f"--video={path}", "--format=json"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "predict.py"), *names], stdout=subprocess.PIPE, text=True
    )
    numbers, seconds, memory = [], [], []
    for line in process.stdout:
        seconds.append(time.perf_counter())
        numbers.append(json.loads(line)["frame"])
        pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
        memory.append(int(pages) * 4096 / 1e6)
    if process.wait():
        raise SomeInputsFailed(f"predict.py ended with the exit code {process.returncode}.")
    return numbers, seconds, memory


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", "squeezenet_v1_1", "Model.", flag_values=values)
    flags.DEFINE_integer("frames", 300, "Number of frames.", 2 * WARM, flag_values=values)

    def command(values, words):
        if len(words) != 1:
            raise InputError("Name a folder of photographs.")
        count = values["frames"].value
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "film.mp4")
            film(sources.expand(words), path, count)
            numbers, seconds, memory = measure(path, values["model_dir"].value)
        rate = (count - 1) / (seconds[-1] - seconds[0])
        warm, last = (statistics.median(part) for part in (memory[WARM : 2 * WARM], memory[-WARM:]))
        command_line.say(
            f"{len(numbers)} frames, each once: {numbers == list(range(1, count + 1))}",
            f"{rate:.1f} frames/s; resident memory {warm:.1f} MB, at the end {last:.1f} MB",
        )
        if numbers != list(range(1, count + 1)) or rate < RATE or last - warm > GROWTH:
            raise SomeInputsFailed("A figure misses its bound.")

    return command_line.run(command, values, __doc__, argv, positional=True)


if __name__ == "__main__":
    sys.exit(main())
