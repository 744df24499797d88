"""One module a variant, each with `CONFIG`; this folder imports nothing by itself."""

from squeezenext.config.io import load, names

__all__ = ["load", "names"]
