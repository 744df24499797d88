"""Fault benches: what is killed, damaged or full, and what must come of it."""
