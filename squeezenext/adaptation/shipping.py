"""What `adapt` makes of a trained network: files to ship, their scores, the report and the card."""

import json
from collections.abc import Callable
from pathlib import Path

from squeezenext import atomic, card, compress, evaluate, export
from squeezenext.compression.allocation import BudgetTooSmall
from squeezenext.errors import InputError
from squeezenext.exporting.places import note
from squeezenext.records.dataset import Dataset
from squeezenext.reporting.metrics import Evaluation

FOLDER, REPORT = "exported", "report"
PRECISIONS = ("float32", "int8")
Say = Callable[[str], None]


def export_once(model_dir: Path, records: Path, sha256: str, say: Say) -> dict[str, Path]:
    """Writes the LiteRT files that are not there yet for weights of this hash; returns them."""
    folder = model_dir / FOLDER
    folder.mkdir(exist_ok=True)
    files = {name: folder / f"model-{name}.tflite" for name in PRECISIONS}
    for precision, path in files.items():
        if not _is_made(path, source := {"weights_sha256": sha256}):
            say(f"Exporting {precision}.")
            export.export(model_dir, "litert", path, precision, records)
            _remember(path, source)
    return files


def compress_once(
    model_dir: Path, records: Path, sha256: str, max_bytes: int, epochs: float, say: Say
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Writes the `.sqz` file, unless it is there already for weights of this hash.

    Returns:
      {"sqz": its path} and (), or {} and why there is none: the budget is too small, or what
      `compress` says; the rest of the work does not need this file.
    """
    path = model_dir / FOLDER / "model.sqz"
    if not _is_made(path, source := {"weights_sha256": sha256, "max_bytes": max_bytes}):
        _remove_of_others(path, sha256)  # else it would stand where none could be made
        method = compress.Method(max_bytes=max_bytes, epochs=epochs)
        try:
            compress.compress(model_dir, path, method, records, say=say)
        except BudgetTooSmall as error:
            return {}, (
                f"{path} was not made: {error} All else is done; more --minutes in another "
                "--model_dir may do it, or another --max_bytes (0 makes no such file).",
            )
        except InputError as error:
            return {}, (f"{path} was not made: {error} All else is done.",)
        _remember(path, source)
    return {"sqz": path}, ()


def _remove_of_others(path: Path, sha256: str) -> None:
    """Removes a file that was made of other weights; one for another budget may stay."""
    try:
        other = json.loads(note(path).read_text("utf-8"))["weights_sha256"] != sha256
    except (OSError, ValueError, KeyError, TypeError):
        other = True
    if other:
        path.unlink(missing_ok=True)
        note(path).unlink(missing_ok=True)


def _is_made(path: Path, source: dict) -> bool:
    """Says whether a file is there that was made of this very source."""
    try:
        return path.is_file() and json.loads(note(path).read_text("utf-8")) == source
    except (OSError, ValueError):
        return False


def _remember(path: Path, source: dict) -> None:
    text = json.dumps(source) + "\n"
    atomic.write_file(note(path), lambda file: file.write_text(text, "utf-8"))


def held_out(found: Dataset) -> str:
    """Returns the split to score on: "test" where there is one, else "validation"."""
    test = found.splits.get("test")
    return "test" if test and test.examples else "validation"


def score(
    model_dir: Path, records: Path, found: Dataset, files: dict[str, Path]
) -> dict[str, Evaluation]:
    """Scores "network" and the files on `held_out` images; writes report, scores.json and card."""
    split = held_out(found)
    models = {"network": model_dir, **files}
    results = {
        name: evaluate.evaluate(model_dir=model, data_dir=records, split=split)
        for name, model in models.items()
    }
    evaluate.write_report(model_dir / REPORT, model_dir, found, split, results["network"])
    document = {
        "split": split,
        "images": {name: part.examples for name, part in found.splits.items()},
        "network": results["network"].summary(),
        "files": {
            path.relative_to(model_dir).as_posix(): results[name].summary()
            for name, path in files.items()
        },
    }
    text = json.dumps(document, indent=1) + "\n"
    atomic.write_file(model_dir / card.SCORES, lambda file: file.write_text(text, "utf-8"))
    card.write(model_dir)
    return results
