"""Names what is in images; no TensorFlow."""

from squeezenext.predict.command import main, predict

__all__ = ["main", "predict"]
