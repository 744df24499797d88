"""The peers that benchmarks run against."""
