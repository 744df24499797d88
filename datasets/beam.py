"""Writes the shards as an Apache Beam pipeline, where one machine is not enough.

One element is one shard, written by the function that writes it here too, beside its place and
then renamed: an element that is retried, or done twice at once, is harmless. No image passes
through the pipeline: a worker reads its ranges of the source and writes its shard, so source
and output must lie on a file system that all workers mount under the same path.
"""

from collections.abc import Sequence

from squeezenext.errors import InputError, RunAgain

from . import shards


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
        with apache_beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
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


def _write(job: shards.Job) -> str:
    return shards.write(job).file
