"""Data preparation: raw archives and folders in, a data directory of TFRecord shards out."""
