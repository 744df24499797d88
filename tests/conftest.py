"""What all tests share: quiet TensorFlow, four logical CPU devices, and `../shared`."""

import os
import signal
from pathlib import Path

import pytest

import squeezenext  # noqa: F401  it has TensorFlow use oneDNN, which no test has imported yet

# A shell ignores SIGINT for what it starts in the background, and every child inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the tests count on logical CPU devices

REPOSITORY = Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and published weights beside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED}/data is absent: it holds the real images and published weights.")
    return SHARED / "data"


@pytest.fixture(scope="session")
def caffe_1_1(tmp_path_factory) -> Path:
    """The model directory of `squeezenet_v1_1_caffe`, whose file the package index has."""
    from squeezenext.errors import InputError
    from squeezenext.model import published

    with pytest.MonkeyPatch.context() as patch:
        if not published.cache().is_dir():  # else the file is fetched once a machine
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        try:
            return published.resolve("squeezenet_v1_1_caffe")
        except InputError as error:
            pytest.skip(f"No published network can be had: {error}")


@pytest.fixture(scope="session", autouse=True)
def logical_devices() -> int:
    """Splits the CPU into four devices, once a process, before any test has used it."""
    import tensorflow as tf

    from squeezenext.train import devices

    devices._split_cpu(4)
    for count in (2, 4):  # groups of two sizes in one process need numbers of their own
        tf.distribute.MirroredStrategy._collective_key_base = count * 1_000_000
        devices.mirrored(tuple(f"CPU:{i}" for i in range(count)))
    tf.distribute.MirroredStrategy._collective_key_base = 0
    return len(tf.config.list_logical_devices("CPU"))


@pytest.fixture(scope="session")
def bfloat16(logical_devices) -> None:
    """Skips a test that computes in bfloat16 where oneDNN is kept from it."""
    from squeezenext.network import convolutions

    if not convolutions.bfloat16_sum():
        pytest.skip("oneDNN has no bfloat16 under this ONEDNN_MAX_CPU_ISA, but TensorFlow asks it.")
