"""Scores every example of a split exactly once and writes a report."""

from squeezenext.evaluate.command import evaluate, main
from squeezenext.metrics import Evaluation

__all__ = ["Evaluation", "evaluate", "main"]
