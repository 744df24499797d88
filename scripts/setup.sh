#!/usr/bin/env bash
# Makes the environment and prints how to enter it: bash scripts/setup.sh [requirements-onnx.txt]
# The argument names a further requirements file. Uses the active virtual environment, or makes
# .venv in the repository. Installs only if the requirements have changed since the last time.
# Needs Python 3.11 to 3.13 (Keras 3.15 needs 3.11) with pip.
#
# Other scripts source this file: `squeezenext_setup` sets PYTHON to the environment's interpreter.

squeezenext_setup() {
  local repository extra="${1:-}" venv stamp wanted base
  repository="$(unset CDPATH && cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  if [[ $repository == *:* ]]; then
    echo "error: $repository has a colon in it, which PYTHONPATH cannot hold; move the folder." >&2
    return 2
  fi
  venv="${VIRTUAL_ENV:-$repository/.venv}"
  base="$(command -v python3 || command -v python)" || {
    echo "error: Python is missing; install Python 3.11 to 3.13." >&2
    return 2
  }
  if [[ ! -x $venv/bin/python ]]; then
    squeezenext_environment "$base" "$venv" || return
  fi
  PYTHON="$venv/bin/python"
  wanted="$(cd "$repository" && cat requirements*.lock constraints.txt ${extra:+"$extra"} | cksum | tr ' ' '-')$(squeezenext_gpu)"
  stamp="$venv/.squeezenext-${extra:-requirements.txt}"
  if [[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]]; then
    squeezenext_install "$repository" "$extra" || return
    printf '%s\n' "$wanted" >"$stamp"
  fi
  export PYTHON
  export PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}"
  # Without a GPU, TensorFlow's C++ code logs only that it has found none, as an error.
  if [[ -z $(squeezenext_gpu) ]]; then
    export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
  fi
}

# squeezenext_environment PYTHON FOLDER makes a virtual environment. It removes nothing that stood
# there before.
squeezenext_environment() {
  local base="$1" venv="$2" made=""
  if [[ -n ${VIRTUAL_ENV:-} ]]; then
    echo "error: VIRTUAL_ENV is $venv, which has no bin/python; deactivate it." >&2
    return 2
  fi
  "$base" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "error: $("$base" --version) is not supported; install Python 3.11 to 3.13." >&2
    return 2
  }
  echo "Making the environment $venv ..." >&2
  mkdir "$venv" 2>/dev/null && made=1
  "$base" -m venv "$venv" || {  # Debian without python3-venv makes an environment without pip
    [[ -n $made ]] && rm -rf -- "$venv"
    echo "error: $venv cannot be made; on Debian and Ubuntu: apt-get install python3-venv." >&2
    return 2
  }
}

squeezenext_gpu() {
  if nvidia-smi >/dev/null 2>&1; then echo "-gpu"; fi
}

# squeezenext_install REPOSITORY EXTRA installs the locked packages, whose hashes pip checks, and
# what else a machine or a further requirements file asks for.
squeezenext_install() {
  local repository="$1" extra="$2" lock=requirements.lock others=()
  case "$extra" in
    "") ;;
    requirements-dev.txt) lock=requirements-dev.lock ;;
    *) others+=(-r "$repository/$extra") ;;
  esac
  [[ -n $(squeezenext_gpu) ]] && others+=(-r "$repository/requirements-cuda.txt")
  echo "Installing $repository/$lock (some minutes, without output) ..." >&2
  local pip=("$PYTHON" -m pip install --quiet --disable-pip-version-check)
  "${pip[@]}" --require-hashes -r "$repository/$lock" || return
  [[ ${#others[@]} -eq 0 ]] || "${pip[@]}" "${others[@]}" -c "$repository/constraints.txt"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  squeezenext_setup "$@" || exit
  activate="${PYTHON%/python}/activate"
  printf 'Enter it with: source %q\n' "${activate#"$PWD"/}"
fi
