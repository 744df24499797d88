#!/usr/bin/env bash
# Lints, checks types and runs the tests: bash scripts/test.sh [arguments of pytest]
# First makes the environment, if need be.
set -euo pipefail
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
squeezenext_setup requirements-dev.txt
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# Two processes, each with one file at a time: TensorFlow builds its graphs on one core.
exec "$PYTHON" -m pytest -n 2 --dist loadfile "$@"
