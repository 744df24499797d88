"""What is said and done when a gradient is not finite and no loss scale is to blame.

No weight has been harmed then: such a step changes none. `stop` ends the run. `rollback` takes up
the last checkpoint and goes on with the examples behind the bad batch, so that those from the
checkpoint to that batch are left out once; steps, epochs and the learning rate count as before.
(PaLM went past its spikes in the same way: arXiv:2204.02311, section 5.1.) An image that is bad in
every epoch uses the rollbacks up: the names tell which to mend.
"""

import contextlib
from pathlib import Path

from squeezenext.files import write_text
from squeezenext.records import batches, example
from squeezenext.records.example import FILENAME
from squeezenext.records.reader import Reader
from squeezenext.train.loop import Loop

MAX_ROLLBACKS = 5  # in a run; more is not bad luck but a bad recipe
_SHOWN = 3


def keys(reader: Reader, *, seed: int, start: int, count: int, echo: int) -> list[str]:
    """Returns the file names, as the records hold them, of a part of the order of training.

    Args:
      reader: of the training split.
      seed: of the order.
      start: the place of the first example.
      count: how many.
      echo: as `data.training_numbers`.
    """
    numbers = batches.training_numbers(
        reader.split.examples,
        seed=seed,
        start=start,
        micro_batch=count,
        share=batches.Share(),
        echo=echo,
    )
    payloads = reader.read(next(numbers)[0])
    return [_key(payload, place) for place, payload in enumerate(payloads, start)]


def _key(payload: bytes, place: int) -> str:
    values = example.decode_example(payload).get(FILENAME)
    return values[0].decode("utf-8", "replace") if values else f"example {place}"


def batch_names(loop: Loop, reader: Reader) -> list[str]:
    """Returns the file names of the last batch that a loop was trained on."""
    training = loop.config.training
    behind = loop.update.seen + loop.passed_over
    start, count = behind - training.batch_size, training.batch_size
    return keys(reader, seed=loop.seed, start=start, count=count, echo=training.echo)


def report(directory: Path, step: int, names: list[str]) -> str:
    """Returns a sentence that names the batch, after writing all of its examples to a file.

    Args:
      names: of its examples; empty for a worker that leaves them to the chief.
    """
    path = directory / f"not-finite-{step:08d}.txt"
    if not names:
        return f"The gradient of step {step} is not finite; the chief names the batch in {path}."
    text = "".join(f"{name}\n" for name in names)
    with contextlib.suppress(OSError):  # a full disk: the sentence still tells some
        write_text(path, text)
    more = f" and {len(names) - _SHOWN} more, all in {path}" if len(names) > _SHOWN else ""
    return (
        f"The gradient of step {step} is not finite; the batch was "
        f"{', '.join(names[:_SHOWN])}{more}."
    )


def verdict(sentence: str, last: str, rollbacks: int, precision: str) -> str:
    """Returns what a run ends with: `report`'s sentence, the last checkpoint, what one can do."""
    times = f" after {rollbacks} rollbacks" if rollbacks else ""
    ways = [] if rollbacks >= MAX_ROLLBACKS else ["go on with --on_nan rollback"]
    ways += [] if precision == "float32" else ["go on with --precision float32"]
    ways.append("begin anew in another --model_dir with a lower training.learning_rate")
    return (
        f"{sentence} No weight has been harmed; the last checkpoint is {last}{times}. What can be "
        f"done: {', or '.join(ways)}."
    )
