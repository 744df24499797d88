"""LiteRT, ONNX, Keras, SavedModel and web artefacts."""
