"""Runs jobs as an Apache Beam pipeline, on a cluster or on this machine."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from squeezenext.errors import RunAgain, needs

Job = TypeVar("Job")
RUNNERS = ("local", "beam")


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
        pipeline = apache_beam.Pipeline(options=PipelineOptions(list(options)))
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
