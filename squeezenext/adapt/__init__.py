"""From a folder of photographs to a shipped classifier, in one command."""

from squeezenext.adapt.command import adapt, main
from squeezenext.adapt.shipping import Adapted

__all__ = ["Adapted", "adapt", "main"]
