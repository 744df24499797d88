"""Archives and folders of images in, a data directory of TFRecord shards out."""

from squeezenext.convert.command import convert, main
from squeezenext.convert.options import Options

__all__ = ["Options", "convert", "main"]
