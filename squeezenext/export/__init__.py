"""Exports a model: one module a format, each file checked in its own runtime."""

from squeezenext.export.command import export, main

__all__ = ["export", "main"]
