"""Writes the shards as an Apache Beam pipeline, where one machine is not enough.

One element is one shard, written by the function that writes it here too, beside its place and
then renamed: an element that is retried, or done twice at once, is harmless. One that outlives
its conversion sees so by the plan and puts nothing in place. No image passes through the
pipeline: a worker reads its ranges of the source and writes its shard, so source and output must
lie on a file system that all workers mount under the same path.
"""

import contextlib
from collections.abc import Iterator, Sequence

from squeezenext.convert import plan, shards
from squeezenext.errors import InputError, RunAgain


def write_all(jobs: Sequence[shards.Job], options: Sequence[str]) -> None:
    """Runs the pipeline to its end; what was written is found by the notes it leaves.

    Args:
      options: Beam's own, such as "--runner=FlinkRunner".

    Raises:
      InputError: Beam is not installed, or an option is wrong.
      RunAgain: the pipeline failed; finished shards stay.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise InputError(
            "--runner beam needs Apache Beam; install it with "
            "pip install -r requirements-beam.txt -c constraints.txt."
        ) from error
    try:
        pipeline = apache_beam.Pipeline(options=PipelineOptions(list(options)))
        with _cancelled(pipeline), pipeline:
            (
                pipeline
                | apache_beam.Create(jobs)
                | apache_beam.Reshuffle()  # else one worker is given all that Create makes
                | apache_beam.Map(_write)
            )
    except Exception as error:  # every runner has its own kinds
        told = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise RunAgain(
            f"The Beam pipeline failed ({told}); run the same command again to go on at the shards "
            "that are missing."
        ) from error


@contextlib.contextmanager
def _cancelled(pipeline) -> Iterator[None]:
    """Cancels the pipeline if nobody waits for it any more, as after Ctrl-C."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # it did not begin, has ended, or its runner cannot
            pipeline.result.cancel()
        raise


def _write(job: shards.Job) -> str:
    drafted, folder = shards.draft(job), job.path.parent
    try:
        plan.check(folder, job.plan)
    except RunAgain:
        shards.drop(folder, drafted)
        raise
    return shards.put(folder, drafted).file
