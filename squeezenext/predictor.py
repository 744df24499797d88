"""Prediction without TensorFlow: `Predictor("mine").predict(read("photo.jpg"))`."""

from squeezenext.predict.predictor import Answer, Prediction, Predictor, View, read, softmax

__all__ = ["Answer", "Prediction", "Predictor", "View", "read", "softmax"]
