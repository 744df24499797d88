#!/usr/bin/env bash
# Checks one NVIDIA GPU in at most ten minutes: bash scripts/check_gpu.sh [--short]
#
# For a machine with JAX and PyTorch but without TensorFlow there are two halves. --prepare FOLDER
# writes passes of training here, without a GPU; --without_tensorflow FOLDER compiles and times them
# there by JAX's XLA, compares their gradients, and times PyTorch.
#
# Right results come first, then speeds, then whole runs. What no longer fits into SECONDS_LEFT (570)
# is skipped and named. --short takes tiny sizes; without a GPU it tests this script alone. What each
# check wrote stays in the folder that the last line names. Exit code 1: a check failed.
set -uo pipefail
unset CDPATH
short="" form="${1:-}" folder="${2:+$(realpath -m "${2:-}")}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "$form" in
  "") ;;
  --short) short=1 ;;
  --prepare | --without_tensorflow)
    [[ -n $folder ]] || { echo "error: $form needs a folder, e.g. $form passes" >&2; exit 2; } ;;
  *) echo "error: $1 is no argument of check_gpu.sh; --short is." >&2; exit 2 ;;
esac
source scripts/setup.sh
if [[ $form == --without_tensorflow ]]; then
  PYTHON="$(command -v python3)" PYTHONPATH="$PWD"
  export PYTHONPATH
else
  squeezenext_setup || exit
fi
gpu="$(squeezenext_gpu)"
if [[ -n $gpu ]]; then
  nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader
elif [[ -z $short$folder ]]; then
  echo "error: nvidia-smi finds no GPU; --short tests this script on a CPU." >&2
  exit 2
fi
[[ -n $folder ]] || "$PYTHON" - <<'P' || [[ -n $short ]] || exit 1
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
pass() { # CONFIGURATION PRECISION BATCH FLAGS...
  check 200 "$1-$2-$3" --check export --configuration "$1" --precision "$2" --batch_size "$3" \
    --output "$folder/$1-$2-$3" "${@:4}"
}
compiled() { # FILE
  go 150 "$(basename "$1")" "$PYTHON" scripts/benchmarks/peers/jax_pass.py "$1"
}
torch() { # SECONDS CONFIGURATION PRECISION BATCH MODE
  go "$1" "torch-$2-$3-$4-$5" "$PYTHON" scripts/benchmarks/peers/torch_gpu.py "${@:2}"
}
finish() {
  echo "Checked in $SECONDS s; $out has what each wrote."
  exit "$failed"
}
if [[ $form == --prepare ]]; then
  limit="${SECONDS_LEFT:-3600}" # on a CPU
  for precision in float32 mixed_float16 mixed_bfloat16; do
    pass squeezenet_v1_1 "$precision" 32 --compare
  done
  for precision in mixed_float16 mixed_bfloat16; do pass v_1_0_SqNxt_23 "$precision" 256; done
  pass v_1_0_G_SqNxt_23 mixed_float16 256
  finish
elif [[ $form == --without_tensorflow ]]; then
  for file in "$folder"/squeezenet*.mlir.gz; do compiled "$file"; done
  compiled "$folder/v_1_0_SqNxt_23-mixed_float16-256.mlir.gz"
  torch 40 v_1_0_SqNxt_23 float16 256 eager
  torch 90 v_1_0_SqNxt_23 float16 256 compiled
  compiled "$folder/v_1_0_SqNxt_23-mixed_bfloat16-256.mlir.gz"
  compiled "$folder/v_1_0_G_SqNxt_23-mixed_float16-256.mlir.gz"
  finish
fi
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
  # Should keep float16's layout in batch norm; NVIDIA warns of overflow.
  TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT=1 speed 80 persistent-256 v_1_0_SqNxt_23 "$half" 256
  speed 40 squeezenet-512 squeezenet_v1_1 "$half" 512
  speed 80 bfloat16-256 v_1_0_SqNxt_23 mixed_bfloat16 256
  speed 150 xla-1024 v_1_0_SqNxt_23 "$half" 1024 --xla
fi
finish
