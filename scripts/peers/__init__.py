"""How others would do it: what the benchmarks measure against."""
