"""Deep Compression and beyond: fewer, shared, entropy-coded weights, and the `.sqz` file."""
