"""Writes the TFLite metadata that MediaPipe Tasks and Android Studio read from a LiteRT file.

The metadata is a flatbuffer of metadata_schema.fbs (github.com/google-ai-edge/mediapipe,
mediapipe/tasks/metadata) in the model; the files that it names are appended as a zip. The package
for it, tflite-support, no longer installs; the field numbers below are the schema's.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence

import flatbuffers

import squeezenext

NAME = "TFLITE_METADATA"  # name of the buffer
LABELS = "labels.txt"
_TENSOR_AXIS_LABELS = 2
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 2  # union ContentProperties
_NORMALIZATION_OPTIONS = 1  # union ProcessUnitOptions
_RGB = 1


def metadata(
    *,
    name: str,
    description: str,
    size: int,
    mean: float,
    std: float,
    known: bool,
    files: Sequence[str],
) -> bytes:
    """Returns the flatbuffer of an image classifier.

    Args:
      name: name of the model.
      description: text for people.
      size: side of the input in pixels.
      mean: number subtracted from every pixel; MediaPipe takes one for all channels.
      std: divisor of every pixel, likewise.
      known: whether there is a second output, `known`.
      files: names of the appended files, beside `LABELS`.
    """
    builder = flatbuffers.Builder(1024)
    text = builder.CreateString
    given = _table(
        builder,
        {
            0: text("image"),
            1: text(f"RGB, {size} x {size}: (pixel - {mean:g}) / {std:g}, pixels in 0..255."),
            3: _content(builder, _IMAGE_PROPERTIES, _image(builder, size)),
            4: _tables(builder, [_normalization(builder, mean, std)]),
            5: _stats(builder, (0 - mean) / std, (255 - mean) / std),
        },
    )
    found = _table(
        builder,
        {
            0: text("probability"),
            1: text("Probability of each class, in the order of the labels."),
            3: _content(builder, _FEATURE_PROPERTIES, _table(builder, {})),
            5: _stats(builder, 0.0, 1.0),
            6: _tables(builder, [_file(builder, LABELS, _TENSOR_AXIS_LABELS)]),
        },
    )
    outputs = [found, _known(builder)] if known else [found]
    graph = _table(builder, {2: _tables(builder, [given]), 3: _tables(builder, outputs)})
    root = _table(
        builder,
        {
            0: text(name),
            1: text(description),
            2: text(squeezenext.__version__),
            3: _tables(builder, [graph]),
            6: _tables(builder, [_file(builder, file, 0) for file in files]),
            7: text("1.0.0"),  # min_parser_version of the fields used here
        },
    )
    builder.Finish(root, file_identifier=b"M001")
    return bytes(builder.Output())


def _known(builder) -> int:
    told = "0 to 1: below 0.5 the image is like none that the network was trained on."
    return _table(
        builder,
        {
            0: builder.CreateString("known"),
            1: builder.CreateString(told),
            3: _content(builder, _FEATURE_PROPERTIES, _table(builder, {})),
            5: _stats(builder, 0.0, 1.0),
        },
    )


def with_files(content: bytes, files: Mapping[str, bytes]) -> bytes:
    """Returns a model with appended files, uncompressed, as MediaPipe requires."""
    out = io.BytesIO(content)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # dated 1980: equal files, equal bytes
    return out.getvalue()


def _table(
    builder, offsets: Mapping[int, int], numbers: Mapping[int, tuple[str, int]] | None = None
):
    """Adds a table: `offsets` are its fields that are objects, `numbers` its scalars and types."""
    builder.StartObject(16)  # fields of the largest table; unused trailing ones take no bytes
    for slot, value in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    for slot, (kind, value) in (numbers or {}).items():
        getattr(builder, f"Prepend{kind}Slot")(slot, value, 0)
    return builder.EndObject()


def _tables(builder, tables: Sequence[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return builder.EndVector()


def _floats(builder, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return builder.EndVector()


def _content(builder, kind: int, properties: int) -> int:
    return _table(builder, {1: properties}, {0: ("Uint8", kind)})


def _image(builder, size: int) -> int:
    sides = _table(builder, {}, {0: ("Uint32", size), 1: ("Uint32", size)})
    return _table(builder, {1: sides}, {0: ("Int8", _RGB)})


def _normalization(builder, mean: float, std: float) -> int:
    options = _table(builder, {0: _floats(builder, [mean]), 1: _floats(builder, [std])})
    return _table(builder, {1: options}, {0: ("Uint8", _NORMALIZATION_OPTIONS)})


def _stats(builder, low: float, high: float) -> int:
    return _table(builder, {0: _floats(builder, [high]), 1: _floats(builder, [low])})


def _file(builder, name: str, kind: int) -> int:
    return _table(builder, {0: builder.CreateString(name)}, {2: ("Int8", kind)})
