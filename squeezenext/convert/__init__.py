"""Converts archives or folders of images into a data directory of TFRecord shards."""

from squeezenext.convert.command import convert, main
from squeezenext.convert.options import ConvertOptions

__all__ = ["ConvertOptions", "convert", "main"]
