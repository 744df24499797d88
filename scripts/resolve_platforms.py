"""Asks a resolver for which platforms and Pythons all packages have wheels; prints a table.

    pip install uv && python scripts/resolve_platforms.py [requirements-onnx.txt ...]

Without arguments it asks for each requirements file and lock. Nothing is installed: a row says that
an installer would find the packages, not that they run. Exit code 1: some have no wheel somewhere.
"""

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLATFORMS = {  # a column's title: uv's name, with the oldest glibc; macOS is 14, see `lacking`
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux aarch64": "aarch64-manylinux_2_35",
    "macOS arm64": "aarch64-apple-darwin",
    "Windows x86-64": "x86_64-pc-windows-msvc",
}
PYTHONS = ("3.11", "3.12", "3.13")


def lacking(file: str, platform: str, python: str) -> str:
    """Returns the packages without a wheel, or what else is wrong; "" if all have one."""
    line = ["uv", "pip", "compile", "--quiet", "--no-header", "--only-binary=:all:", file]
    line += ["-c", "constraints.txt", "--python-platform", platform, "--python-version", python]
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    if not done.returncode:
        return ""
    text = " ".join(done.stderr.replace("│", " ").split())
    found = re.findall(r"([\w.-]+?)(?:[=<>]\S+)? has no (?:usable )?wheels", text)
    return ", ".join(f"no {name}" for name in sorted(set(found))) or text[:200]


def cell(file: str, platform: str) -> str:
    """Returns what a row says of a platform: the Pythons, and what fails on which."""
    reasons = {python: lacking(file, platform, python) for python in PYTHONS}
    if not any(reasons.values()):
        return f"{PYTHONS[0]} to {PYTHONS[-1]}"
    if len(set(reasons.values())) == 1:
        return reasons[PYTHONS[0]]
    return "; ".join(f"{python}: {reason or 'all'}" for python, reason in reasons.items())


def main() -> int:
    if not shutil.which("uv"):
        print("error: uv is missing: pip install uv", file=sys.stderr)
        return 2
    names = sys.argv[1:] or sorted(x.name for x in ROOT.glob("requirements*") if x.suffix)
    print("| file |", " | ".join(PLATFORMS), "|\n|" + "---|" * (1 + len(PLATFORMS)))
    complete = True
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name in names:
            cells = list(pool.map(lambda p, n=name: cell(n, p), PLATFORMS.values()))
            complete &= set(cells) == {f"{PYTHONS[0]} to {PYTHONS[-1]}"}
            print(f"| `{name}` |", " | ".join(cells), "|", flush=True)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
