"""Measures how soon the web page answers in a headless Chromium without a cache.

    python scripts/benchmarks/page.py SITE PHOTO [--rounds 5]

SITE is a folder made by `squeezenext.export --format web`, served on 127.0.0.1. Each round starts a
browser with an empty profile and measures the time from the request of the page until the last file
has arrived, and until the best classes of PHOTO, which is passed at once, are shown. Results are
medians and extremes in seconds. Needs Chromium, its driver, and selenium.
"""

import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from squeezenext import cli as command_line
from squeezenext import demo
from squeezenext.errors import InputError
from tests import browser

LIMIT = 60.0  # seconds until a page counts as dead


def visit(url: str, photo: Path) -> tuple[float, float]:
    """Returns the seconds until the last file has come and until the first result."""
    with browser.chromium() as page:
        page.get("about:blank")
        page.set_page_load_timeout(LIMIT)
        started = time.perf_counter()
        page.get(url)
        page.find_element("id", "files").send_keys(str(photo.resolve()))
        _until(page, "#classes button", started)
        answered = time.perf_counter() - started
        ends = "return performance.getEntriesByType('resource').map(entry => entry.responseEnd)"
        return max(page.execute_script(ends)) / 1000, answered


def _until(page, selector: str, started: float) -> None:
    while not page.find_elements("css selector", selector):
        if time.perf_counter() - started > LIMIT:
            raise InputError("The page gives no result: " + page.find_element("id", "status").text)
        time.sleep(0.01)


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    flags.DEFINE_integer("rounds", 5, "Number of browser starts.", 1, flag_values=values)

    def command(values, words):
        if len(words) != 2:
            raise InputError("Name a folder of the web export and a photograph.")
        site, photo = Path(words[0]), Path(words[1])
        with demo.server(site, 0) as serving:
            threading.Thread(target=serving.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{serving.server_port}/"
            rows = [visit(url, photo) for _ in range(values["rounds"].value)]
            serving.shutdown()
        for name, seconds in zip(
            ("all files fetched", "first result"), zip(*rows, strict=True), strict=True
        ):
            low, high = min(seconds), max(seconds)
            print(f"{name}: {statistics.median(seconds):.2f} s ({low:.2f} to {high:.2f})")

    return command_line.run(command, values, __doc__, argv, positional=True)


if __name__ == "__main__":
    sys.exit(main())
