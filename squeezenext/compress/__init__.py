"""Compresses a model to a .sqz file: pruning, quantization, retraining within a budget."""

from squeezenext.compress.command import compress, main

__all__ = ["compress", "main"]
