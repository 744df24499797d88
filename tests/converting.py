"""Conversions with their options as keywords."""

from pathlib import Path

from squeezenext.convert import command
from squeezenext.convert.options import ConvertOptions
from squeezenext.records.dataset import Manifest


def convert(source: Path, output: Path, **options) -> Manifest:
    return command.convert(source, output, ConvertOptions(**options))
