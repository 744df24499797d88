"""Asks one Predictor from many threads, as web servers do, and compares every answer.

    python scripts/benchmarks/threads.py [--model_dir squeezenet_v1_1] [--predictions 10000]

Checks that 8 threads, an HTTP server with a thread for each request, and a forked process get the
bits of a single thread; then measures how many images a second one and two threads get, in turn.
"""

import concurrent.futures
import http.client
import http.server
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli
from squeezenext.errors import SomeInputsFailed
from squeezenext.predict.predictor import Predictor

THREADS, IMAGES, ROUNDS, SECONDS = 8, 16, 5, 3.0


def images() -> list[Image.Image]:
    """Returns images of several sizes and modes."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(IMAGES):
        height, width = rng.integers(64, 700, 2)
        noise = rng.integers(0, 256, (height, width, 3), np.uint8)
        found.append(Image.fromarray(noise).convert(("RGB", "L", "RGBA", "P")[number % 4]))
    return found


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Runs work(number) in that many threads at once; raises what one of them raises."""
    with concurrent.futures.ThreadPoolExecutor(count) as executor:
        for _ in executor.map(work, range(count)):
            pass


def wrong_in_threads(predictor: Predictor, pictures, known, predictions: int) -> int:
    """Returns the number of answers in `THREADS` threads that differ from `known`."""
    wrong = [0] * THREADS

    def ask(thread: int) -> None:
        for number in range(thread, predictions, THREADS):
            found = predictor.probabilities(pictures[number % IMAGES])
            wrong[thread] += not np.array_equal(found, known[number % IMAGES])

    in_threads(THREADS, ask)
    return sum(wrong)


def wrong_over_http(predictor: Predictor, pictures, known, requests: int) -> int:
    """Returns the number of wrong answers of a server with a thread for each request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            number = int(self.path[1:])
            body = predictor.probabilities(pictures[number]).tobytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    wrong = [0] * THREADS
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(thread: int) -> None:
            for request in range(thread, requests, THREADS):
                number = request % IMAGES
                connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
                connection.request("GET", f"/{number}")
                body = connection.getresponse().read()
                wrong[thread] += body != known[number].tobytes()
                connection.close()

        in_threads(THREADS, ask)
        server.shutdown()
    return sum(wrong)


def wrong_after_fork(predictor: Predictor, pictures, known) -> int:
    """Returns the number of wrong answers in a child process, made while threads predict."""
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            predictor.probabilities(pictures[0])

    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        threads = [executor.submit(busy) for _ in range(2)]
        child = os.fork()
        if not child:
            wrong = IMAGES  # if it raises
            try:
                answers = [predictor.probabilities(picture) for picture in pictures]
                pairs = zip(answers, known, strict=True)
                wrong = sum(not np.array_equal(*pair) for pair in pairs)
            finally:
                os._exit(wrong)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stop.set()
        for thread in threads:
            thread.result()  # raises what it has raised
    return code


def rate(predictor: Predictor, pictures, threads: int) -> float:
    """Returns the images a second of that many threads."""
    counts, end = [0] * threads, time.perf_counter() + SECONDS

    def ask(thread: int) -> None:
        while time.perf_counter() < end:
            predictor.probabilities(pictures[counts[thread] % IMAGES])
            counts[thread] += 1

    in_threads(threads, ask)
    return sum(counts) / SECONDS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", "squeezenet_v1_1", "Model to ask.", flag_values=values)
    flags.DEFINE_integer("predictions", 10_000, "Answers to compare.", 8, flag_values=values)

    def command(values: flags.FlagValues, _: list[str]) -> None:
        predictor, pictures = Predictor(values["model_dir"].value), images()
        known = [predictor.probabilities(picture) for picture in pictures]
        total = values["predictions"].value
        wrong = {
            f"{total} answers in {THREADS} threads": wrong_in_threads(
                predictor, pictures, known, total
            ),
            f"{total // 10} answers over HTTP": wrong_over_http(
                predictor, pictures, known, total // 10
            ),
            f"{IMAGES} answers after a fork": wrong_after_fork(predictor, pictures, known),
        }
        for name, count in wrong.items():
            cli.say(f"{name}: {count} wrong")
        if any(wrong.values()):
            raise SomeInputsFailed("Threads do not get the answers of one.")
        rates = [[rate(predictor, pictures, count) for count in (1, 2)] for _ in range(ROUNDS)]
        one, two = np.median(rates, 0)
        ratio = np.median([pair[1] / pair[0] for pair in rates])
        cli.say(f"one thread {one:.0f}, two {two:.0f} images/s: {ratio:.2f} times")

    return cli.run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
