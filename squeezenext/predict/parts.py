"""Predicts a long list of images in parts, each of which becomes one file.

The files have fixed names and are whole or absent, so the same command, given again after an
interruption, writes those that are missing. With Apache Beam, a part is one element.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import filelock

from squeezenext import files
from squeezenext.arguments import checked
from squeezenext.cli import check_folder, log, plural
from squeezenext.errors import InputError, RunAgain, needs
from squeezenext.model import loading
from squeezenext.predict import sources
from squeezenext.predict.predictor import Predictor

Job = TypeVar("Job")
FORMATS, RUNNERS = ("jsonl", "parquet"), ("local", "beam")
LOCK = ".predict.lock"
PLAN = "_predict.json"  # readers of a folder of Parquet files skip names that begin with "_"
_MAKING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class PartJob:
    """The images whose answers become one file."""

    path: Path
    images: list[str]  # names of files and URLs
    model: str
    allow_url: bool
    plan: dict[str, Any]  # what decides the answers in the folder: the content of its `PLAN`


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
      InputError: there is no such model or image, `output` holds something else, or a package is
        missing.
      RunAgain: another process writes into `output`, or the Beam pipeline failed; finished files
        are kept.
    """
    for flag, value, known in (("format", format, FORMATS), ("runner", runner, RUNNERS)):
        if value not in known:
            raise InputError(f"--{flag} {value!r} is not one of {', '.join(known)}.")
    if format == "parquet":
        _pyarrow()  # whose absence is to be known before the first image is read
    names = sources.expand(paths, allow_url)
    if "-" in names:
        raise InputError("--output does not take standard input; give the path of the image.")
    choice = {"format": format, "part_size": part_size, "top_k": top_k, "threshold": threshold}
    listed = hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()
    plan = choice | {"images_sha256": listed, "model_sha256": _model_sha256(model)}
    output = Path(os.path.abspath(files.expanded(output)))
    with _locked(output):
        _begin(output, plan)
        parts = _parts(names, output, str(model), allow_url, plan)
        missing = [part for part in parts if not part.path.exists()]
        if runner == "beam" and missing:
            run_in_beam(write, missing, beam_options)
        else:
            _write_here(missing, len(names))
        for left in output.glob(".part-*.tmp-*"):  # by a process that was killed
            left.unlink(missing_ok=True)
    log(f"{output}: {plural(len(names), 'image')} in {plural(len(parts), 'file')}.")
    return sum(_errors(part.path) for part in parts)


def _model_sha256(model: str | Path) -> str:
    """Returns a hash of all that decides a model's answers."""
    loaded = loading.load_runnable(model)
    described = repr((loaded.config, loaded.labels, loaded.temperature))
    return hashlib.sha256(loading.litert(loaded) + described.encode()).hexdigest()


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Makes the folder, if it may be ours, and locks it; RunAgain if another process has it."""
    names = [f"part-*-of-*.{ending}" for ending in FORMATS]
    check_folder("output", output, PLAN, *names)
    files.make_own_folder(output)
    os.close(files.open_own(output / LOCK))  # filelock would empty what a link leads to
    try:
        with filelock.FileLock(output / LOCK, timeout=0):
            yield
    except filelock.Timeout as error:
        raise RunAgain(
            f"Another process writes into {output}, which holds {LOCK}; wait or stop it."
        ) from error


def _begin(output: Path, plan: dict[str, Any]) -> None:
    """Writes the folder's plan; InputError if the folder holds answers of another one."""
    if not os.path.lexists(output / PLAN) and not any(output.glob("part-*")):
        files.write_json(output / PLAN, plan)
    elif not _is_of(output, plan):
        raise InputError(
            f"--output {output} holds the answers for other images, of another model or with other "
            "flags; choose another folder."
        )


def _parts(
    names: list[str], output: Path, model: str, allow_url: bool, plan: dict[str, Any]
) -> list[PartJob]:
    size, parts = plan["part_size"], []
    starts = range(0, len(names), size)
    for number, start in enumerate(starts):
        path = output / f"part-{number:05d}-of-{len(starts):05d}.{plan['format']}"
        parts.append(PartJob(path, names[start : start + size], model, allow_url, plan))
    return parts


def _is_of(folder: Path, plan: dict[str, Any]) -> bool:
    try:
        return files.read_document(folder / PLAN) == plan
    except ValueError:  # it is damaged, or gone
        return False


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
    """Predicts a part, `threads` images at once (None: one for each core), and writes its file.

    Raises:
      RunAgain: another command writes into the folder by now, or the model has changed.
    """
    plan = part.plan
    with _MAKING:  # a worker process of Beam may have several threads
        predictor = _predictor(part.model, part.allow_url, plan["model_sha256"])
    answers = predictor.answers(part.images, plan["top_k"], plan["threshold"], threads=threads)
    rows = [answer.document() for answer in answers]
    if not _is_of(part.path.parent, plan):  # this worker has outlived its command
        raise RunAgain(f"{part.path.parent} is no longer written by this command.")
    form = _write_parquet if plan["format"] == "parquet" else _write_lines
    files.write_file(part.path, lambda file: form(file, rows))


@functools.lru_cache(maxsize=1)
def _predictor(model: str, allow_url: bool, sha256: str) -> Predictor:
    if _model_sha256(model) != sha256:  # as after `adapt` in place
        raise RunAgain(f"{model} has changed since this command began; give a new --output.")
    return Predictor(model, allow_url=allow_url)


def _write_lines(file: Path, rows: Sequence[dict]) -> None:
    file.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode())


def _write_parquet(file: Path, rows: Sequence[dict]) -> None:
    arrow = _pyarrow()
    text, number = arrow.string(), arrow.float64()
    prediction = {"index": arrow.int64(), "synset": text, "label": text, "probability": number}
    listed = arrow.list_(arrow.struct(list(prediction.items())))
    columns = {"path": text, "predictions": listed, "error": text, "known": number}
    for row in rows:  # a name that is not UTF-8 becomes \udcff and its like
        for key in ("path", "error"):
            row[key] = row[key] and row[key].encode("utf-8", "backslashreplace").decode()
    table = arrow.Table.from_pylist(rows, arrow.schema(list(columns.items())))
    arrow.parquet.write_table(table, file)


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


def run_in_beam(
    function: Callable[[Job], object], jobs: Sequence[Job], options: Sequence[str]
) -> None:
    """Runs `function(job)` for each job as an Apache Beam pipeline, and waits for its end.

    One element of the pipeline is one job, which Beam may retry or run twice at once. Jobs and
    results are small: images are read and files written on a file system that all workers mount
    under the same path. `options` are Beam's own, such as "--runner=FlinkRunner".

    Raises:
      InputError: Beam is not installed, or an option is wrong.
      RunAgain: the pipeline failed; finished files stay.
    """
    with needs("beam"):
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    try:
        with contextlib.redirect_stderr(io.StringIO()) as usage:  # which argparse prints and exits
            chosen = PipelineOptions(list(options))
            chosen.get_all_options()  # else a wrong value is found only when the pipeline runs
        pipeline = apache_beam.Pipeline(options=chosen)
    except (SystemExit, Exception) as error:
        why = (usage.getvalue().strip() or str(error) or type(error).__name__).splitlines()[-1]
        raise InputError(f"--beam_options are wrong ({why}).") from error
    try:
        with _cancelled(pipeline), pipeline:
            (
                pipeline
                | apache_beam.Create(jobs)
                | apache_beam.Reshuffle()  # else one worker is given all that Create makes
                | apache_beam.Map(function)
            )
    except Exception as error:  # every runner has its own kinds
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise RunAgain(
            f"The Beam pipeline failed ({text}); run the same command again to write "
            "the files that are missing."
        ) from error


@contextlib.contextmanager
def _cancelled(pipeline: Any) -> Iterator[None]:
    """Cancels the pipeline if the block ends early, as by Ctrl-C."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # it did not begin, has ended, or its runner cannot
            pipeline.result.cancel()
        raise
