"""From a folder of photographs to a shipped classifier, in one command."""

from squeezenext.adapt.command import Adapted, adapt, main

__all__ = ["Adapted", "adapt", "main"]
