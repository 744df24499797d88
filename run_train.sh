#!/usr/bin/env bash
# Trains a network. On a fresh machine it first makes .venv and installs the requirements.
#
#   bash run_train.sh                                    a small network on handwritten digits
#   DATA_DIR=/data/imagenet bash run_train.sh            1.0-SqNxt-23 on DATA_DIR/tf-records
#   DATA_DIR=... bash run_train.sh --configuration NAME [any flag of squeezenext.train]
#   bash run_train.sh --data_dir RECORDS [...]           other records, or two patterns of shards
#
# The run is stored in MODEL_DIR, or in runs/NAME if that is not set. After an interruption the same
# command goes on.
set -euo pipefail
unset CDPATH  # else cd may go elsewhere, and says where
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$repository/scripts/setup.sh"
squeezenext_setup

# value_of NAME ARGUMENTS... prints the value of the flag --NAME among the arguments, if any.
value_of() {
  local name="$1"
  shift
  while [[ $# -gt 0 ]]; do
    case "$1" in
      --"$name"=* | -"$name"=*) printf '%s\n' "${1#*=}" ;;
      --"$name" | -"$name") printf '%s\n' "${2:-}" ;;
    esac
    shift
  done
}

train_on_digits() {
  local digits=data/digits model_dir
  model_dir="$(value_of model_dir "$@")"
  model_dir="${model_dir:-${MODEL_DIR:-runs/quickstart}}"
  "$PYTHON" -m squeezenext.convert.digits --output "$digits/images"
  "$PYTHON" -m datasets.convert --layout folder --source "$digits/images" \
    --output "$digits/tf-records"
  "$PYTHON" -m squeezenext.train --configuration quickstart --data_dir "$digits/tf-records" \
    --model_dir "$model_dir" "$@"
  "$PYTHON" -m squeezenext.evaluate --model_dir "$model_dir" --data_dir "$digits/tf-records"
  echo
  echo "Now try:"
  printf '  %q %q %q --model_dir %q\n' "$PYTHON" "$repository/predict.py" \
    "$digits/images/7/0000.jpg" "$model_dir"
}

for argument in "$@"; do
  case "$argument" in --help | -h) exec "$PYTHON" -m squeezenext.train --help ;; esac
done
name="$(value_of configuration "$@")"
data=()
if [[ -n "$(value_of data_dir "$@")$(value_of training_file_pattern "$@")" ]]; then
  :  # The records of these flags replace those of DATA_DIR.
elif [[ -z ${DATA_DIR:-} ]]; then
  # Another configuration needs its own records. Perhaps DATA_DIR is set, but not exported.
  if [[ -n $name && $name != quickstart ]]; then
    echo "error: --configuration $name needs records: export DATA_DIR=..., or give --data_dir." >&2
    exit 2
  fi
  train_on_digits "$@"
  exit
elif [[ ! -d $DATA_DIR ]]; then
  echo "error: DATA_DIR is $DATA_DIR, which is no folder; it holds the archives and tf-records." >&2
  exit 2
else
  data=(--data_dir "$DATA_DIR/tf-records")
fi
name="${name:-v_1_0_SqNxt_23}"
model_dir="${MODEL_DIR:-runs/$(basename "$name" .py)}"
exec "$PYTHON" -m squeezenext.train --configuration "$name" ${data[@]+"${data[@]}"} \
  --model_dir "$model_dir" "$@"
