"""From the bytes of a file to pixels, to crops, to augmented batches."""
