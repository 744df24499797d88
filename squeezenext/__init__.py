"""The Squeeze family (SqueezeNet, SqueezeNext) in TensorFlow: train, adapt and ship."""

from squeezenext import tf_import

tf_import.prefer_onednn()  # here, for every module that imports TensorFlow imports this one first

__version__ = "0.1.0"
