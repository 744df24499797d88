#!/usr/bin/env bash
# Makes the environment, lints, and runs the tests: bash scripts/test.sh [pytest's arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
squeezenext_setup requirements-dev.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# Two processes, a file to each at a time: much of a test is TensorFlow building graphs on one core.
exec "$PYTHON" -m pytest -n 2 --dist loadfile "$@"
