"""Finds faults in a folder of photographs before a network is trained on them."""

from squeezenext.doctor.command import examine, main

__all__ = ["examine", "main"]
