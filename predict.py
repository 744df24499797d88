"""Names what is in images.

    python predict.py PATH... --model_dir DIR|NAME [--top_k 5] [--format text|json|csv]

PATH is an image, a folder of images, or - for an image on standard input. NAME is a published
model, such as squeezenet_v1_0. One bad file never stops the others; the exit code is then 1.
"""

import csv
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence

from absl import flags

from squeezenext import predictor, preprocessing
from squeezenext.errors import InputError, SomeInputsFailed
from squeezenext.flags import run
from squeezenext.predictor import Prediction, Predictor


def predict(
    paths: Sequence[str], model: str, top_k: int
) -> Iterator[tuple[str, list[Prediction], str | None]]:
    """Yields (path, predictions, error) of every image; exactly one of the last two says anything.

    Raises:
      InputError: there is no such model, or a folder without images.
    """
    files = predictor.find_images([path for path in paths if path != "-"])
    found = Predictor(model)
    for path in [*files, *(["-"] if "-" in paths else [])]:
        try:
            image = _standard_input() if path == "-" else predictor.read(path)
            yield str(path), found.predict(image, top_k), None
        except InputError as error:
            yield str(path), [], str(error)


def _standard_input():
    data = sys.stdin.buffer.read(predictor.MAX_BYTES + 1)
    if len(data) > predictor.MAX_BYTES:
        raise InputError(f"Standard input is larger than {predictor.MAX_BYTES >> 20} MB.")
    return preprocessing.read_image(data, "standard input")


def write_text(rows: Iterator) -> int:
    """Prints an indented list an image, errors to standard error; returns how many failed."""
    failed = 0
    for path, predictions, error in rows:
        if error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        print(path)
        for row in predictions:
            print(f"  {row.probability:7.2%}  {row.label}  ({row.synset})")
    return failed


def write_json(rows: Iterator) -> int:
    """Prints one JSON object a line and image; returns how many failed."""
    failed = 0
    for path, predictions, error in rows:
        listed = [dataclasses.asdict(row) for row in predictions]
        print(json.dumps({"path": path, "predictions": listed, "error": error}), flush=True)
        failed += error is not None
    return failed


def write_csv(rows: Iterator) -> int:
    """Prints a row an image and class, with an error column; returns how many failed."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "index", "synset", "label", "probability", "error"])
    failed = 0
    for path, predictions, error in rows:
        for rank, row in enumerate(predictions, start=1):
            writer.writerow([path, rank, *dataclasses.astuple(row), ""])
        if error:
            writer.writerow([path, "", "", "", "", "", error])
            failed += 1
    return failed


WRITERS = {"text": write_text, "json": write_json, "csv": write_csv}


def main(argv: Sequence[str] | None = None) -> int:
    values = flags.FlagValues()
    at = {"flag_values": values}
    flags.DEFINE_string("model_dir", None, "Model directory or published model's name.", **at)
    flags.DEFINE_integer("top_k", 5, "How many classes an image.", 1, **at)
    flags.DEFINE_enum("format", "text", list(WRITERS), "What to print.", **at)

    def command(values, paths):
        if not paths:
            raise InputError("Name at least one image or folder, or - for standard input.")
        if not values["model_dir"].value:
            raise InputError("--model_dir is missing: a model directory or a published model.")
        rows = predict(paths, values["model_dir"].value, values["top_k"].value)
        if failed := WRITERS[values["format"].value](rows):
            raise SomeInputsFailed(f"{failed} of the images could not be read.")

    return run(command, values, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
