"""Tests for `squeezenext/tf_import.py`."""

import os
import platform
import subprocess
import sys

import pytest

from squeezenext import tf_import
from tests import tiny

# Only oneDNN has a gradient of the grouped convolution on a CPU (TensorFlow 2.21).
TRUTH = """
from squeezenext import tf_import
import tensorflow as tf
ones = tf.ones((1, 4, 4, 4))
try:
    tf.raw_ops.Conv2DBackpropInput(input_sizes=(1, 4, 4, 4), filter=tf.ones((1, 1, 2, 4)),
                                   out_backprop=ones, strides=[1] * 4, padding="SAME")
    print(tf_import.onednn(), True)
except tf.errors.InvalidArgumentError:
    print(tf_import.onednn(), False)
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86's kernels")
@pytest.mark.parametrize(
    ("setting", "before", "expected"),
    [("", "", ["True"]), ("false", "", ["False"]), ("1", "", ["True"]),
     ("", "import tensorflow", ["True", "False"])],  # then the CPU decides
)  # fmt: skip
def test_onednn_is_on_unless_told_otherwise_and_told_truly(setting, before, expected):
    done = subprocess.run(
        [sys.executable, "-c", before + TRUTH], env=tiny.environment(TF_ENABLE_ONEDNN_OPTS=setting),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said, truth = done.stdout.split()
    assert said == truth and said in expected


@pytest.mark.parametrize(
    ("machine", "setting", "expected"),
    [("x86_64", None, "1"), ("AMD64", "", "1"), ("x86_64", "0", "0"), ("x86_64", "false", "false"),
     ("aarch64", None, None), ("arm64", "1", "1")],
)  # fmt: skip
def test_onednn_is_chosen_on_every_x86_and_nothing_where_the_user_has(
    machine, setting, expected, monkeypatch
):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setenv(tf_import.ONEDNN, setting or "")
    if setting is None:
        monkeypatch.delenv(tf_import.ONEDNN)
    tf_import.prefer_onednn()
    assert os.environ.get(tf_import.ONEDNN) == expected


KEPT = """
from squeezenext.errors import InputError
from squeezenext.train import devices
print(devices.precision("auto"))
try:
    devices.precision("mixed_bfloat16")
except InputError as error:
    print(error)
"""


def test_no_bfloat16_where_onednn_is_kept_from_it():
    done = subprocess.run(
        [sys.executable, "-c", KEPT], env=tiny.environment(ONEDNN_MAX_CPU_ISA="AVX2"),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    precision, *refused = done.stdout.splitlines()
    assert precision == "float32"
    assert not refused or "ONEDNN_MAX_CPU_ISA" in refused[0]  # refused where the CPU has AVX-512


def test_called_from_python_it_is_as_quiet_as_from_a_command():
    environment = tiny.environment()
    del environment["TF_CPP_MIN_LOG_LEVEL"]
    code = "from squeezenext import tf_import; tf_import.import_tensorflow(); import keras"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert not done.stderr


def test_what_others_write_while_litert_is_silenced_is_kept(capfd):
    lines = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nINFO:     mine\nmine\n"
    with tf_import.silent():
        os.write(2, lines)
    assert capfd.readouterr().err == "INFO:     mine\nmine\n"


FORKED = """
import os, threading, time
from squeezenext import tf_import

redirected = threading.Event()

def create():
    with tf_import.silent():
        redirected.set()
        time.sleep(0.2)

thread = threading.Thread(target=create)
thread.start()
redirected.wait()
if child := os.fork():
    os.waitpid(child, 0)
    thread.join()
else:
    with tf_import.silent():
        os.write(2, b"INFO: LiteRT's\\n")
    os.write(2, b"kept")
"""


def test_a_child_forked_while_another_thread_redirects_has_its_standard_error():
    done = subprocess.run(
        [sys.executable, "-c", FORKED], env=tiny.environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stderr == "kept"
