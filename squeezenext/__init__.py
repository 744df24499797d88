"""The Squeeze family (SqueezeNet, SqueezeNext) in TensorFlow: train, adapt and ship."""

__version__ = "0.1.0"
