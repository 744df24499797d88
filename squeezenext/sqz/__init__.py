"""The .sqz file: header, layout of a kernel, contexts, coder."""
