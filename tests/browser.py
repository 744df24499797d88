"""A headless Chromium for the tests of pages, which are skipped where it is absent."""

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest


def wanted() -> tuple[str, str]:
    """Returns the paths of Chromium and its driver; skips the test where there are none."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium and chromedriver are absent: apt-get install chromium-driver")
    pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    return binary, driver


@contextlib.contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator:
    """Lends a selenium WebDriver of the system's Chromium; console and requests are logged."""
    binary, driver = wanted()
    from selenium import webdriver as selenium

    options = selenium.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--disable-gpu",
                     "--disable-background-networking", "--no-first-run", "--disable-sync",
                     "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
                     f"--window-size={width},{height}"):  # fmt: skip
        options.add_argument(argument)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox refuses to run as root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    page = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    try:
        yield page
    finally:
        page.quit()


def narrow(page, width: int, height: int = 740) -> None:
    """Gives the page a phone's size, below what a window can have."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def console_errors(page) -> list[str]:
    """Returns what the console has shown as a warning or worse."""
    return [entry["message"] for entry in page.get_log("browser")]


def requests(page) -> list[str]:
    """Returns the URLs asked for since the last call, data: and blob: aside."""
    import json

    found = []
    for entry in page.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith(("data:", "blob:")):
                found.append(url)
    return found
