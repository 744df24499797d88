"""Measures the HTTP server: requests a second, latency, memory, and whether an answer is lost.

    python scripts/benchmarks/serve.py [--model_dir squeezenet_v1_1] [--clients 8] [--seconds 60]

Starts the server in a process of its own. Each client sends one image after the other over one
connection: JPEGs of 320 x 240 pixels. The clients share the cores with the server. Each answer is
compared with the predictor's; one that does not come, or differs, is lost. Memory is the largest
that the server's process held.
"""

import http.client
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli
from squeezenext.errors import InputError, SomeInputsFailed
from squeezenext.predict.predictor import Predictor

IMAGES, WARM_UP = 32, 3.0  # seconds that do not count


def images() -> list[bytes]:
    """Returns JPEGs of soft shapes, about as large as photographs of this size."""
    rng, found = np.random.default_rng(0), []
    for _ in range(IMAGES):
        file = io.BytesIO()
        shapes = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        shapes.resize((320, 240), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        found.append(file.getvalue())
    return found


def client(port: int, bodies: list[bytes], known: list[dict], first: int, end: float):
    """Returns the start and the seconds of each answer until `end`, and the number of lost ones."""
    times, lost = [], 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while (started := time.perf_counter()) < end:
        at = (first + len(times) + lost) % IMAGES
        try:
            connection.request("POST", "/predict", bodies[at])
            right = json.loads(connection.getresponse().read()) == known[at]
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()  # the next request connects again
            right = False
        if right:
            times.append((started, time.perf_counter() - started))
        else:
            lost += 1
    return times, lost


def measure(process: subprocess.Popen, bodies, known, clients: int, seconds: float) -> int:
    """Prints the figures of a server and returns the number of lost answers."""
    found = re.search(r":(\d+)/predict", process.stderr.readline())
    if not found:
        raise InputError("The server does not start.")
    begin = time.perf_counter() + WARM_UP
    with ThreadPoolExecutor(clients) as threads:
        works = [
            threads.submit(client, int(found[1]), bodies, known, first, begin + seconds)
            for first in range(clients)
        ]
        results = [work.result() for work in works]
    waits = [wait for times, _ in results for started, wait in times if started >= begin]
    lost = sum(missed for _, missed in results)
    middle, high = np.percentile(waits, [50, 99]) * 1000 if waits else (np.nan, np.nan)
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1000
    cli.say(f"{len(waits) / seconds:.0f} requests/s, p50 {middle:.0f} ms, p99 {high:.0f} ms, "
            f"{lost} lost, {peak:.0f} MB")  # fmt: skip
    return lost


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", "squeezenet_v1_1", "Model to ask.", flag_values=values)
    flags.DEFINE_integer("clients", 8, "Clients at once.", 1, flag_values=values)
    flags.DEFINE_float("seconds", 60.0, "Seconds that count.", 1.0, flag_values=values)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        model, bodies = values["model_dir"].value, images()
        predictor = Predictor(model)
        known = [json.loads(json.dumps(predictor.answer(body, "image").document()))
                 for body in bodies]  # fmt: skip
        line = [sys.executable, "-m", "squeezenext.serve", "--model_dir", model, "--port", "0"]
        with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            try:
                lost = measure(
                    process, bodies, known, values["clients"].value, values["seconds"].value
                )
            finally:
                process.terminate()
        if lost or process.returncode:
            raise SomeInputsFailed(f"{cli.plural(lost, 'answer')} lost.")

    return cli.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
