"""Writes, quantizes, describes, reads and runs LiteRT files, without TensorFlow."""
