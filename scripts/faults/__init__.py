"""Fault benches: programs that disturb the commands and compare the results."""
