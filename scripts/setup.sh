# Sourced by the other scripts: sets PYTHON to an interpreter that has what the product needs.
# Uses the active virtual environment, or makes .venv in the repository; installs only when the
# requirements have changed. An argument names a further requirements file, such as
# requirements-dev.txt. Needs Python >= 3.10 with pip.

squeezenext_setup() {
  local repository extra="${1:-}" venv stamp wanted base
  repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  venv="${VIRTUAL_ENV:-$repository/.venv}"
  base="$(command -v python3 || command -v python)" || {
    echo "error: Python is missing; install Python 3.10 to 3.13." >&2
    return 2
  }
  if [[ ! -x $venv/bin/python ]]; then
    "$base" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || {
      echo "error: $("$base" --version) is not supported; install Python 3.10 to 3.13." >&2
      return 2
    }
    echo "Making the environment $venv ..." >&2
    "$base" -m venv "$venv" || return
  fi
  PYTHON="$venv/bin/python"
  local files=(requirements.txt constraints.txt ${extra:+"$extra"})
  wanted="$(cd "$repository" && cat "${files[@]}" | cksum | tr ' ' '-')$(squeezenext_gpu)"
  stamp="$venv/.squeezenext-${extra:-requirements.txt}"
  if [[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]]; then
    squeezenext_install "$repository" "$extra" || return
    printf '%s\n' "$wanted" >"$stamp"
  fi
  export PYTHON
  export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}"
  # TensorFlow's own information lines; its warnings and errors stay.
  export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"
}

squeezenext_gpu() {
  if nvidia-smi >/dev/null 2>&1; then echo "-gpu"; fi
}

squeezenext_install() {
  local repository="$1" extra="$2" arguments=(-r "$1/requirements.txt")
  [[ -n $extra ]] && arguments+=(-r "$repository/$extra")
  [[ -n $(squeezenext_gpu) ]] && arguments+=("tensorflow[and-cuda]>=2.21,<2.22")
  # The exact versions exist for Python 3.11 and later; 3.10 takes the newest in range.
  if "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    arguments+=(-c "$repository/constraints.txt")
  fi
  echo "Installing what $repository/requirements.txt names (about two minutes) ..." >&2
  "$PYTHON" -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
}
