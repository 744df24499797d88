#!/usr/bin/env bash
# Shows runs in the browser, on this machine only: bash scripts/tensorboard.sh MODEL_DIR
set -euo pipefail
unset CDPATH  # else cd may go elsewhere, and says where
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$repository/scripts/setup.sh"
squeezenext_setup
exec "$PYTHON" -m tensorboard.main --logdir "${1:?MODEL_DIR is missing}" --host 127.0.0.1 "${@:2}"
