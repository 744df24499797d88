"""Compresses a model to a .sqz file: pruning, quantization, retraining within a budget."""

from squeezenext.compress.command import compress, main
from squeezenext.compress.method import Method

__all__ = ["Method", "compress", "main"]
