"""Deep Compression and beyond: chooses what a .sqz file holds."""

from squeezenext.compress.command import compress, main

__all__ = ["compress", "main"]
