"""Prediction without TensorFlow: `Predictor("mine").predict(read("photo.jpg"))`."""

from squeezenext.predict.answers import Answer, Prediction, View, softmax
from squeezenext.predict.predictor import Predictor, read

__all__ = ["Answer", "Prediction", "Predictor", "View", "read", "softmax"]
