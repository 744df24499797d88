"""Tests for `squeezenext/tf_import.py`."""

import platform
import subprocess
import sys

import pytest

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
