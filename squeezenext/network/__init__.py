"""SqueezeNet and SqueezeNext, described once; as a Keras model and as a folded graph."""
