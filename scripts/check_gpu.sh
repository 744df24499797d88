#!/usr/bin/env bash
# Checks one NVIDIA GPU in at most ten minutes: bash scripts/check_gpu.sh [--short]
#
# Right results come first, then speeds, then whole runs. What no longer fits into SECONDS_LEFT (570)
# is skipped and named. --short takes tiny sizes; without a GPU it tests this script alone. What each
# check wrote stays in the folder that the last line names. Exit code 1: a check failed.
set -uo pipefail
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
short=""
case "${1:-}" in
  "") ;;
  --short) short=1 ;;
  *) echo "error: $1 is no argument of check_gpu.sh; --short is." >&2; exit 2 ;;
esac
source scripts/setup.sh
squeezenext_setup || exit
gpu="$(squeezenext_gpu)"
if [[ -n $gpu ]]; then
  nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader
elif [[ -z $short ]]; then
  echo "error: nvidia-smi finds no GPU; --short tests this script on a CPU." >&2
  exit 2
fi
"$PYTHON" - <<'P' || [[ -n $short ]] || exit 1
import sys

from squeezenext import tf_import

tf_import.import_tensorflow()
import tensorflow as tf

found = tf.config.list_physical_devices("GPU")
print("TensorFlow", tf.__version__, "sees", len(found), "GPUs")
sys.exit(not found)
P

export PYTHONUNBUFFERED=1
SECONDS=0
limit="${SECONDS_LEFT:-570}"
out="$(mktemp -d)"
failed=0

# go SECONDS LABEL COMMAND... runs a command for at most so long, if so much time is left.
go() {
  local longest="$1" label="$2" code=0
  shift 2
  if ((SECONDS + longest > limit)); then
    echo "$label: skipped, it may take $longest s"
    return
  fi
  timeout -k 5 "$longest" "$@" >"$out/$label.out" 2>"$out/$label.err" || code=$?
  if ((code)); then
    failed=1
    echo "$label: FAILED with exit code $code: $(tail -n 1 "$out/$label.err")"
  else
    echo "$label: done at $SECONDS s"
  fi
  grep -hE "images/s|gradient|top-1|%" "$out/$label.out" | tail -n 6 | sed 's/^/  /'
}
check() { # SECONDS LABEL FLAGS...
  go "$1" "$2" "$PYTHON" scripts/benchmarks/gpu.py "${@:3}"
}
speed() { # SECONDS LABEL CONFIGURATION PRECISION BATCH FLAGS...
  local small=()
  if [[ -n $short ]]; then small=(--size 64 --batch_size 2 --steps 2); fi
  check "$1" "$2" --check speed --configuration "$3" --precision "$4" --batch_size "$5" "${@:6}" \
    ${small[@]+"${small[@]}"}
}
whole() { # SECONDS LABEL CONFIGURATION FLAGS...
  go "$1" "$2" "$PYTHON" -m squeezenext.train --configuration "$3" --data_dir "$out/records" \
    --model_dir "$out/$2" "${@:4}"
}
size=0 half=mixed_float16 epochs=12
if [[ -n $short ]]; then size=64 epochs=0.1; fi
if [[ -z $gpu ]]; then half=mixed_bfloat16; fi # a CPU has no float16

check 100 correct --check correct --configuration squeezenet_v1_1 --size "$size"
speed 80 plain-256 v_1_0_SqNxt_23 "$half" 256
if [[ -n $gpu ]]; then speed 150 xla-256 v_1_0_SqNxt_23 "$half" 256 --xla; fi
go 40 digits "$PYTHON" -m squeezenext.convert.digits --output "$out/images"
go 40 records "$PYTHON" -m datasets.convert --layout folder --source "$out/images" \
  --output "$out/records"
whole 90 learns quickstart --num_epochs "$epochs"
go 40 evaluates "$PYTHON" -m squeezenext.evaluate --model_dir "$out/learns" --data_dir "$out/records"
if [[ -z $short ]]; then
  whole 60 grouped-ends v_1_0_G_SqNxt_23 --num_epochs 0.03 --batch_size 32
  # tf_import.py sets it to 1.
  TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT=0 speed 80 not-persistent-256 v_1_0_SqNxt_23 "$half" 256
  speed 40 squeezenet-512 squeezenet_v1_1 "$half" 512
  speed 80 bfloat16-256 v_1_0_SqNxt_23 mixed_bfloat16 256
  speed 150 xla-1024 v_1_0_SqNxt_23 "$half" 1024 --xla
fi
echo "Checked in $SECONDS s; $out has what each wrote."
exit "$failed"
