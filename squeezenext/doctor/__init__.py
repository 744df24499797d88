"""Finds faults in a folder of photographs before a network is trained on them."""

from squeezenext.doctor.command import examine, main
from squeezenext.doctor.findings import Diagnosis

__all__ = ["Diagnosis", "examine", "main"]
