"""TFRecords: their format, manifest and index, reading by number, batches in a pure order."""
