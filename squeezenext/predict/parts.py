"""Predicts a long list of images in parts, each of which becomes one file.

The files have fixed names and are whole or absent, so the same command, given again after an
interruption, writes those that are missing. With Apache Beam, a part is one element.
"""

import dataclasses
import functools
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from squeezenext import files
from squeezenext.arguments import checked
from squeezenext.cli import check_folder, log, plural
from squeezenext.errors import InputError, RunAgain, needs
from squeezenext.model import loading
from squeezenext.predict import sources
from squeezenext.predict.beam import RUNNERS, run_in_beam
from squeezenext.predict.predictor import Predictor

FORMATS = ("jsonl", "parquet")
PLAN = "_predict.json"  # readers of a folder of Parquet files skip names that begin with "_"
_MAKING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class PredictionPlan:
    """What decides the answers in a folder."""

    images: int  # number of images
    images_sha256: str  # of their names
    model_sha256: str
    format: str
    part_size: int  # images in each file
    top_k: int
    threshold: float

    def content(self) -> bytes:
        """Returns the content of the folder's `PLAN`."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n"


@dataclasses.dataclass(frozen=True)
class PartJob:
    """The images whose answers become one file."""

    path: Path
    images: list[str]  # names of files and URLs
    model: str
    allow_url: bool
    plan: PredictionPlan


@checked(part_size=1, top_k=1)
def predict_to_folder(
    paths: Sequence[str],
    model: str | Path,
    output: str | Path,
    *,
    format: str = "jsonl",
    part_size: int = 1000,
    top_k: int = 5,
    threshold: float = 0.0,
    allow_url: bool = False,
    runner: str = "local",
    beam_options: Sequence[str] = (),
) -> int:
    """Writes the answers for all images into a folder; returns the number of errors among them.

    Files that an earlier call with the same arguments has written are kept as they are.

    Args:
      paths: images, folders, patterns, lists (.txt), URLs.
      model: a model directory, a published model's name, or an exported file.
      output: the folder, for `part-00000-of-00010.jsonl` and its like.
      format: "jsonl", the lines of `predict.py --format json`, or "parquet".
      part_size: number of images in each file.
      top_k: number of classes for each image.
      threshold: probability below which classes are skipped.
      allow_url: download images whose path is an https URL of a public host.
      runner: "local", in threads of this process, or "beam".
      beam_options: Apache Beam's own, such as "--runner=FlinkRunner".

    Raises:
      InputError: there is no such model, a folder has no images, `output` holds other files, or a
        package is missing.
      RunAgain: the Beam pipeline failed; finished files are kept.
    """
    for flag, value, known in (("format", format, FORMATS), ("runner", runner, RUNNERS)):
        if value not in known:
            raise InputError(f"--{flag} {value!r} is not one of {', '.join(known)}.")
    if format == "parquet":
        _pyarrow()  # whose absence is to be known before the first image is read
    names = sources.expand(paths, allow_url)
    if "-" in names:
        raise InputError("--output reads no standard input; name the image's file.")
    output = Path(os.path.abspath(files.expanded(output)))
    listed = _sha256("\0".join(names).encode("utf-8", "surrogatepass"))
    plan = PredictionPlan(
        len(names), listed, _model_sha256(model), format, part_size, top_k, threshold
    )
    _begin(output, plan)
    parts = list(_parts(names, output, str(model), allow_url, plan))
    missing = [part for part in parts if not part.path.exists()]
    if runner == "beam" and missing:
        run_in_beam(write, missing, beam_options)
    else:
        _write_here(missing, len(names))
    for left in output.glob(".part-*.tmp-*"):  # by a process that was killed
        left.unlink(missing_ok=True)
    log(f"{output}: {plural(len(names), 'image')} in {plural(len(parts), 'file')}.")
    return sum(_errors(part.path) for part in parts)


def _sha256(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()


def _model_sha256(model: str | Path) -> str:
    """Returns a hash of all that decides a model's answers."""
    loaded = loading.load_runnable(model)
    described = repr((loaded.config, loaded.labels, loaded.temperature))
    return _sha256(loading.litert(loaded), described.encode())


def _begin(output: Path, plan: PredictionPlan) -> None:
    """Makes the folder and writes its plan, unless they are there.

    Raises:
      InputError: it holds other files, or answers of another plan.
    """
    check_folder("output", output, PLAN, *(f"part-*-of-*.{ending}" for ending in FORMATS))
    files.make_own_folder(output)
    if not os.path.lexists(output / PLAN):
        files.write_bytes(output / PLAN, plan.content())
    elif not _is_of(output, plan):
        raise InputError(
            f"--output {output} holds the answers for other images, of another model or with other "
            "flags; choose another folder."
        )


def _is_of(folder: Path, plan: PredictionPlan) -> bool:
    return files.read_bytes(folder / PLAN, files.MAX_TEXT, files.NO_LINK) == plan.content()


def _parts(
    names: list[str], output: Path, model: str, allow_url: bool, plan: PredictionPlan
) -> Iterator[PartJob]:
    starts = range(0, len(names), plan.part_size)
    for number, start in enumerate(starts):
        path = output / f"part-{number:05d}-of-{len(starts):05d}.{plan.format}"
        yield PartJob(path, names[start : start + plan.part_size], model, allow_url, plan)


def _write_here(parts: Sequence[PartJob], total: int) -> None:
    """Writes the parts in this process, and shows how many of `total` images are done."""
    from squeezenext.progress import Bar

    done = total - sum(len(part.images) for part in parts)
    with Bar("Predicting images", total, done=done) as bar:
        for part in parts:
            write(part, threads=None)
            done += len(part.images)
            bar.update(done, f"{done} of {total} images")


def write(part: PartJob, threads: int | None = 1) -> None:
    """Predicts the images of a part and writes its file; once more, the file is the same.

    Args:
      part: the part.
      threads: number of images at once; None: one for each core.

    Raises:
      RunAgain: another command writes into the folder by now, or the model has changed.
    """
    with _MAKING:  # a worker process of Beam may have several threads
        predictor = _predictor(part.model, part.allow_url, part.plan.model_sha256)
    plan = part.plan
    answers = predictor.answers(part.images, plan.top_k, plan.threshold, threads=threads)
    rows = [answer.document() for answer in answers]
    if not _is_of(part.path.parent, plan):  # a worker that outlived its command
        raise RunAgain(f"{part.path.parent} is no longer written by this command.")
    form = _write_parquet if plan.format == "parquet" else _write_lines
    files.write_file(part.path, lambda file: form(file, rows))


@functools.lru_cache(maxsize=1)
def _predictor(model: str, allow_url: bool, sha256: str) -> Predictor:
    if _model_sha256(model) != sha256:  # as after `adapt` in place
        raise RunAgain(f"{model} has changed since this command began.")
    return Predictor(model, allow_url=allow_url)


def _write_lines(file: Path, rows: Sequence[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _write_parquet(file: Path, rows: Sequence[dict]) -> None:
    arrow = _pyarrow()
    text, number = arrow.string(), arrow.float64()
    prediction = {"index": arrow.int64(), "synset": text, "label": text, "probability": number}
    listed = arrow.list_(arrow.struct(list(prediction.items())))
    columns = {"path": text, "predictions": listed, "error": text, "known": number}
    valid = [row | {key: _valid(row[key]) for key in ("path", "error")} for row in rows]
    table = arrow.Table.from_pylist(valid, arrow.schema(list(columns.items())))
    arrow.parquet.write_table(table, file)


def _valid(text: str | None) -> str | None:
    r"""Returns a text that UTF-8 can hold: \udcff for a byte of a name that is not UTF-8."""
    return text if text is None else text.encode("utf-8", "backslashreplace").decode()


def _pyarrow() -> Any:
    with needs("beam"):  # which brings it
        import pyarrow
        import pyarrow.parquet
    return pyarrow


def _errors(path: Path) -> int:
    """Returns how many answers in a file are errors."""
    if path.suffix == ".parquet":
        column = _pyarrow().parquet.read_table(path, columns=["error"])["error"]
        return len(column) - column.null_count
    with path.open(encoding="utf-8") as file:
        return sum(json.loads(line)["error"] is not None for line in file)
