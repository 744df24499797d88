#!/usr/bin/env bash
# Converts the ImageNet archives in DATA_DIR into DATA_DIR/tf-records without extracting them:
# ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and, if it exists,
# ILSVRC2012_bbox_train_v2.tar.gz. Writes 1024 + 128 shards; with --partial (a part of ImageNet)
# about one per 100 MB. After an interruption, the same command goes on.
#
#   bash datasets/process_downloaded_imagenet.sh DATA_DIR [flags of python -m datasets.convert]
set -euo pipefail
unset CDPATH  # else cd may go elsewhere, and says where
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ $# -lt 1 || $1 == -* ]]; then
  echo "error: DATA_DIR is missing: bash $0 DATA_DIR [--partial] [flags]" >&2
  exit 2
fi
if [[ ! -d $1 ]]; then
  echo "error: $1 is no folder; give the one that holds the ImageNet archives." >&2
  exit 2
fi
data_dir="$(cd "$1" && pwd)"
shift

# Converting needs no TensorFlow: an environment with these few packages will do.
needed='import absl, defusedxml, filelock, google_crc32c, numpy, PIL, rich'
PYTHON="${VIRTUAL_ENV:-$repository/.venv}/bin/python"
if ! "$PYTHON" -c "$needed" 2>/dev/null; then
  source "$repository/scripts/setup.sh"
  squeezenext_setup
fi
PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m datasets.convert \
  --layout imagenet --source "$data_dir" --output "$data_dir/tf-records" "$@"
