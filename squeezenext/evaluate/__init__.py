"""Scores every example of a split exactly once and writes a report."""

from squeezenext.evaluate.command import evaluate, main

__all__ = ["evaluate", "main"]
