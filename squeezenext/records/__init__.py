"""A data directory: its manifest, its shards, and where each record lies."""

from squeezenext.records.example import RecordError, decode_example, encode_example
from squeezenext.records.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    Shard,
    Split,
    check_shards,
    load_manifest,
)
from squeezenext.records.places import INDEX_DTYPE, index, split_from_files
from squeezenext.records.schema import NO_BOXES, ImageExample, example_features, example_parts
from squeezenext.records.tfrecord import FRAMING_BYTES, frame, frame_parts, offsets, read

__all__ = [
    "FORMAT_VERSION",
    "FRAMING_BYTES",
    "INDEX_DTYPE",
    "ImageExample",
    "MANIFEST",
    "NO_BOXES",
    "Manifest",
    "RecordError",
    "Shard",
    "Split",
    "check_shards",
    "decode_example",
    "encode_example",
    "example_features",
    "example_parts",
    "frame",
    "frame_parts",
    "index",
    "load_manifest",
    "offsets",
    "read",
    "split_from_files",
]
