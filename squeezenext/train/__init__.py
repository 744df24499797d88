"""Trains a configuration: the engine, with its command at the door."""

from squeezenext.train.command import main, train
from squeezenext.train.options import Options

__all__ = ["Options", "main", "train"]
