"""Fault benches: programs that kill, damage and fill, and check the recovery."""
