"""Other programs' weights, read and written as variables by name."""
