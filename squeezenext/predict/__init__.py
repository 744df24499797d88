"""Predicts the classes of images, without TensorFlow."""

from squeezenext.predict.command import main, predict
from squeezenext.predict.parts import predict_to_folder

__all__ = ["main", "predict", "predict_to_folder"]
