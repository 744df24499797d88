"""TensorFlow without what it says each time, whatever happens.

TF_CPP_MIN_LOG_LEVEL does not reach the lines that its libraries write before their logging is set
up (TensorFlow 2.21: oneDNN, cudart, XNNPACK), so those are taken out of standard error by their
text. Everything else is passed on. Where TF_CPP_MIN_LOG_LEVEL is 0, as with --debug, nothing is
taken out.
"""

import contextlib
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator

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


def settle(debug: bool) -> None:
    """Sets how much TensorFlow may say; call before it is imported.

    A machine with an NVIDIA driver keeps warnings: they say why a GPU is not used.
    """
    gpu = os.path.exists("/proc/driver/nvidia")
    level = "0" if debug else "1" if gpu else "3"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", level)
    os.environ.setdefault("GRPC_VERBOSITY", "INFO" if debug else "NONE")


@contextlib.contextmanager
def native() -> Iterator[None]:
    """Takes `NOISE` out of what native code writes to standard error inside the block."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in (None, "0"):
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as told:
            os.dup2(told.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                told.seek(0)
                for line in told:
                    if not NOISE.search(line):
                        os.write(2, line)
    finally:
        os.close(kept)


def prefer_onednn() -> None:
    """Has TensorFlow use oneDNN on x86, unless the user has set `ONEDNN`; call before its import.

    TensorFlow 2.21 does so by itself only where the CPU has AVX-512 VNNI, AVX-VNNI or AMX
    (core/util/port.cc). On older ones its own kernels train at half the speed (docs/benchmarks.md).
    """
    if platform.machine() in ("x86_64", "AMD64") and not os.environ.get(ONEDNN):
        os.environ[ONEDNN] = "1"


def without_onednn() -> None:
    """Lets TensorFlow compute with its own kernels alone; call before it is imported."""
    if "tensorflow" not in sys.modules:
        os.environ[ONEDNN] = "0"


def onednn() -> bool:
    """Says whether TensorFlow uses oneDNN on the CPU; imports it, for only TensorFlow knows.

    It decides once, when it is imported: by `ONEDNN`, also spelt "false", else by the CPU.
    """
    import_tensorflow()
    from tensorflow.python.util import _pywrap_util_port  # nothing public tells it

    return _pywrap_util_port.IsMklEnabled()  # what the kernels ask, not how TensorFlow was built


def import_tensorflow() -> None:
    """Imports TensorFlow, which takes seconds: 8 of CPU time where this was written."""
    if "tensorflow" not in sys.modules:
        with native():
            import tensorflow  # noqa: F401
