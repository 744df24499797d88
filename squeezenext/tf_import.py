"""Imports TensorFlow without its usual log lines, and chooses whether it uses oneDNN.

TF_CPP_MIN_LOG_LEVEL does not apply to lines that TensorFlow's libraries write before their logging
is set up (TensorFlow 2.21: oneDNN, cudart, XNNPACK). Those are removed from standard error by their
text; everything else is passed on. If TF_CPP_MIN_LOG_LEVEL is 0, as with --debug, nothing is
removed.
"""

import contextlib
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# Standard error is one for all threads. A fork waits for the lock: its child would else keep what
# another thread had put in the place of standard error.
_REDIRECTING = threading.RLock()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_REDIRECTING.acquire,
        after_in_parent=_REDIRECTING.release,
        after_in_child=_REDIRECTING.release,
    )
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"  # read when TensorFlow is imported
NOISE = re.compile(
    rb"All log messages before absl::InitializeLog"
    rb"|oneDNN custom operations are on"
    rb"|Could not find cuda drivers on your machine"
    rb"|This TensorFlow binary is optimized to use available CPU instructions"
    rb"|^To enable the following instructions:"
    rb"|Created TensorFlow Lite XNNPACK delegate"
    rb"|Ignored (output_format|drop_control_dependency)"
    rb"|MLIR V1 optimization pass is not enabled"
    rb"|(un)?initialize TfrtCpuClient|lite/python/|mlir_graph_optimization_pass"
)

_LITERT = re.compile(rb"^(INFO|WARNING|ERROR): \S")


def settle(debug: bool) -> None:
    """Sets TensorFlow's log level; call before it is imported.

    With a GPU's driver, warnings are kept: they say why a GPU is not used.
    """
    level = "0" if debug else "1" if has_gpu_driver() else "3"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", level)
    os.environ.setdefault("GRPC_VERBOSITY", "INFO" if debug else "NONE")


def has_gpu_driver() -> bool:
    """Returns whether a GPU's driver is here, and GPUs are not hidden by CUDA_VISIBLE_DEVICES.

    Windows' subsystem for Linux has no /proc/driver/nvidia; a GPU is /dev/dxg there.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    signs = "/proc/driver/nvidia", "/dev/dxg"
    return any(map(os.path.exists, signs)) or shutil.which("nvidia-smi") is not None


@contextlib.contextmanager
def native() -> Iterator[None]:
    """Removes `NOISE` from what native code writes to standard error inside the block."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in (None, "0"):
        yield
        return
    with _without(NOISE):
        yield


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Removes what LiteRT writes to standard error inside the block.

    Its C++ logger has no switch in Python; its errors come as exceptions.
    """
    with _without(_LITERT):
        yield


@contextlib.contextmanager
def _without(noise: re.Pattern[bytes]) -> Iterator[None]:
    """Holds back standard error inside the block; afterwards passes on the lines without `noise`.

    Among these are the lines that other threads write meanwhile.
    """
    with _memory() as output:
        try:
            _flush()
            with _standard_error_to(output):
                try:
                    yield
                finally:
                    _flush()
        finally:
            output.seek(0)
            with contextlib.suppress(OSError):  # nobody reads standard error any more
                for line in output:
                    if not noise.search(line):
                        os.write(2, line)


def _memory() -> IO[bytes]:
    """Returns a new file without a name, in memory where there may be no folder to write to."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("standard error"), "w+b")
    return tempfile.TemporaryFile()


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


@contextlib.contextmanager
def _standard_error_to(file: IO[bytes]) -> Iterator[None]:
    with _REDIRECTING:
        try:
            kept = os.dup(2)
        except OSError:  # standard error is closed
            yield
            return
        try:
            os.dup2(file.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def prefer_onednn() -> None:
    """Makes TensorFlow use oneDNN on x86, unless `ONEDNN` is set; call before it is imported.

    TensorFlow 2.21 does so by itself only where the CPU has AVX-512 VNNI, AVX-VNNI or AMX
    (core/util/port.cc). On older ones its own kernels train at half the speed (docs/benchmarks.md).
    """
    if platform.machine() in ("x86_64", "AMD64") and not os.environ.get(ONEDNN):
        os.environ[ONEDNN] = "1"


def without_onednn() -> None:
    """Makes TensorFlow use only its own kernels; call before it is imported."""
    if "tensorflow" not in sys.modules:
        os.environ[ONEDNN] = "0"


def onednn() -> bool:
    """Returns whether TensorFlow uses oneDNN on the CPU; imports TensorFlow, which alone knows.

    TensorFlow decides at its import: by `ONEDNN`, also spelt "false", else by the CPU.
    """
    import_tensorflow()
    from tensorflow.python.util import _pywrap_util_port  # there is no public function

    return _pywrap_util_port.IsMklEnabled()  # what the kernels use, not how TensorFlow was built


def onednn_by_default() -> bool:
    """Returns whether TensorFlow would use oneDNN on this CPU if nobody chose.

    These are the features that TensorFlow 2.21 asks for (core/util/port.cc).
    """
    amx = {"amx_tile", "amx_int8", "amx_bf16"}
    return bool(cpu_features() & ({"avx512_vnni", "avx512_bf16", "avx_vnni"} | amx))


def cpu_features() -> set[str]:
    """Returns the CPU's features by the kernel's names; none where /proc/cpuinfo is absent."""
    try:
        text = Path("/proc/cpuinfo").read_text("ascii", "replace")
    except OSError:  # not Linux
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def check_installed() -> None:
    """Raises ModuleNotFoundError if TensorFlow is missing, before work that would be in vain."""
    import importlib.util

    if importlib.util.find_spec("tensorflow") is None:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")


def import_tensorflow() -> None:
    """Imports TensorFlow, which takes 8 s of CPU time on the authors' machine.

    Called from Python, too, its log level is that of the commands, unless the environment has one.
    """
    if "tensorflow" not in sys.modules:
        settle(debug=False)
        with native():
            import tensorflow  # noqa: F401
