"""Finds faults in a folder of photographs before a network is trained on them."""
