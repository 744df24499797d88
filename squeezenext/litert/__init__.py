"""LiteRT files, without TensorFlow: written, quantised, described, read and run."""
