"""Benchmarks of our code and of its peers, side by side."""
