"""The published networks with their recipes, one module each: `CONFIG`."""
