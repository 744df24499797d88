"""What prediction without TensorFlow needs below `predictor.py`."""
