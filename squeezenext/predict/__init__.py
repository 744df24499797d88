"""Predicts the classes of images, without TensorFlow."""

from squeezenext.predict.command import main, predict

__all__ = ["main", "predict"]
