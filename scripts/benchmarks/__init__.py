"""Benchmarks, each against the real peer."""
