"""Exports a model: one module per format; each file is checked in its own runtime."""

from squeezenext.export.command import export, main

__all__ = ["export", "main"]
