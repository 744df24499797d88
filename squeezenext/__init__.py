"""The Squeeze family (SqueezeNet, SqueezeNext) in TensorFlow: train, adapt and ship."""

import sys

from squeezenext import errors

sys.excepthook = errors.excepthook(sys.excepthook)  # before any import that fails or takes time

from squeezenext import tf_import  # noqa: E402

tf_import.prefer_onednn()  # here, for every module that imports TensorFlow imports this one first

__version__ = "0.1.0"
