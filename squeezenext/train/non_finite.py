"""What happens when a loss or a gradient is not finite and no lower loss scale can help.

update.py has found it and skipped the step: no weight has changed. A loss scale above 1 was halved
there, and the run went on; this module is reached only where there is none. `--on_nan stop` then
ends the run. `--on_nan rollback` goes back to the last checkpoint and skips the examples from there
to the end of the bad batch, once; steps, epochs and the learning rate count as before. (PaLM
skipped its loss spikes in the same way: arXiv:2204.02311, section 5.1.) An image that is bad in
every epoch uses up all rollbacks; the file of names shows which image to mend.
"""

import contextlib
from pathlib import Path

from squeezenext.errors import NotFinite
from squeezenext.files import write_text
from squeezenext.records import batches, example
from squeezenext.records.reader import Reader
from squeezenext.train.checkpoints import Checkpoints, Progress
from squeezenext.train.log import LOG
from squeezenext.train.loop import Loop
from squeezenext.train.options import Options

MAX_ROLLBACKS = 5  # in a run; more mean that the recipe is bad, not the luck
_SHOWN = 3  # file names in the message


def recover(
    loop: Loop, reader: Reader, checkpoints: Checkpoints, progress: Progress, options: Options
) -> Progress:
    """Takes a run back from a bad step to its last checkpoint and past the batch; a collective.

    Returns:
      The progress to go on from; the loop is restored.

    Raises:
      NotFinite: the run stops at such a step, or has gone back too often.
    """
    step, position = loop.step, loop.seen + progress.skipped_examples
    names = _batch_names(loop, reader, position) if loop.is_chief else []
    sentence = _report(Path(options.model_dir), step, names)
    rollbacks = progress.rollbacks
    goes_back = options.on_nan == "rollback" and len(rollbacks) < MAX_ROLLBACKS
    found = checkpoints.resume() if goes_back else None
    if found is None:
        raise NotFinite(_verdict(sentence, checkpoints.last(), len(rollbacks), loop.precision))
    found.best = progress.best
    if found.epoch_ended:  # evaluated since, but the disk was too full to note it
        found.new_epoch()
    found.skipped_examples = position - loop.seen
    found.rollbacks = [*rollbacks, {"step": step, "to": loop.step}]
    LOG.warning(
        "%s Rollback %d of %d: back to step %d; training goes on with the examples after that "
        "batch.",
        *(sentence, len(found.rollbacks), MAX_ROLLBACKS, loop.step),
    )
    return found


def _batch_names(loop: Loop, reader: Reader, position: int) -> list[str]:
    """Returns the file names of the batch that ends at `position` in the order of training."""
    training = loop.config.training
    start = position - training.batch_size
    numbers = batches.training_numbers(
        reader.split.examples,
        seed=loop.seed,
        start=start,
        micro_batch=training.batch_size,
        share=batches.Share(),
        echo=training.echo,
    )
    payloads = reader.read(next(numbers)[0])
    return [_file_name(payload, place) for place, payload in enumerate(payloads, start)]


def _file_name(payload: bytes, place: int) -> str:
    return example.file_name(payload) or f"example {place}"


def _report(directory: Path, step: int, names: list[str]) -> str:
    """Writes the batch's file names, which the chief alone has; returns a sentence with a few."""
    path = directory / f"not-finite-{step:08d}.txt"
    if not names:
        return f"The gradient of step {step} is not finite; the chief names the batch in {path}."
    text = "".join(f"{name}\n" for name in names)
    with contextlib.suppress(OSError):  # a full disk: the sentence still names some
        write_text(path, text)
    more = f" and {len(names) - _SHOWN} more, all in {path}" if len(names) > _SHOWN else ""
    return (
        f"The gradient of step {step} is not finite; the batch was "
        f"{', '.join(names[:_SHOWN])}{more}."
    )


def _verdict(sentence: str, last: str, rollbacks: int, precision: str) -> str:
    """Returns the error that ends the run: what happened, the last checkpoint, the remedies."""
    times = f" after {rollbacks} rollbacks" if rollbacks else ""
    ways = [] if rollbacks >= MAX_ROLLBACKS else ["go on with --on_nan rollback"]
    ways += [] if precision == "float32" else ["go on with --precision float32"]
    ways.append("begin anew in another --model_dir with a lower training.learning_rate")
    return (
        f"{sentence} No weight has been harmed; the last checkpoint is {last}{times}. What can be "
        f"done: {', or '.join(ways)}."
    )
