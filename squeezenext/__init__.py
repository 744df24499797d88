"""The Squeeze family (SqueezeNet, SqueezeNext) in TensorFlow: train, adapt and ship."""
