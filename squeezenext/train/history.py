"""What a run reports: for each epoch a log line and a row of history.csv, and curves."""

import csv
import functools
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from squeezenext import labels
from squeezenext.cli import cores, plural
from squeezenext.files import read_rows, write_text
from squeezenext.images import augment
from squeezenext.metrics import Evaluation
from squeezenext.model import directory as model_directory
from squeezenext.network import keras_model
from squeezenext.progress import Bar
from squeezenext.records import batches
from squeezenext.records.reader import Reader
from squeezenext.train import loggers, phases, tensorboard
from squeezenext.train.log import LOG, PROGRESS
from squeezenext.train.loop import Loop, Sums

COLUMNS = (
    *("epoch", "step", "examples_seen", "learning_rate", "loss", "top1", "top5"),
    *("validation_loss", "validation_top1", "validation_top5"),
    *("images_per_second", "seconds", "skipped"),
)
LINE_SECONDS = 60.0  # between two progress lines where there is no terminal
FIRST_IMAGES = 16  # training images shown in TensorBoard
DEAD_STEPS = 100  # without a gradient; fewer where an epoch, or the run, has fewer
NO_LOSS = 1e-3  # below it no gradient means that nothing is left to learn
LOW_SCALE = 128.0  # loss scale: 2^15 after eight skipped steps


class History:
    """Reports one run; the chief alone has one.

    Rows and curves are kept in memory until the checkpoint that they belong to is saved:
    `write_rows` comes before that checkpoint, since a resumed run drops rows of later steps, and
    `board.commit` after it.
    """

    def __init__(self, model_dir: Path, loop: Loop, log_to: Sequence[str] = ()):
        board = tensorboard.TensorBoard(model_dir / model_directory.TENSORBOARD)
        others = [loggers.LOGGERS[name](model_dir, loop.config) for name in log_to]
        self.board = loggers.Board([board, *others])
        self._path = model_dir / model_directory.HISTORY
        self._labels = model_dir / model_directory.LABELS
        self._loop = loop
        self._rows: list[dict[str, Any]] = []
        self._skipped = 0  # steps, at the last look
        self._warned = False
        self.death = ""  # a sentence, once the network has died

    def begin(self, step: int) -> None:
        """Continues history.csv after the row of `step`.

        Raises:
          InputError: the file is not a table.
        """
        self._rows = _read_rows(self._path)
        self._skipped = int(self._loop.update.skipped.numpy())
        self.rewind(step)

    def rewind(self, step: int) -> None:
        """Drops rows and curves after `step`, from which the run goes on."""
        self._rows = [row for row in self._rows if int(row["step"]) <= step]
        self.board.rewind(step)

    def input(self, reader: Reader) -> None:
        """Shows the first training images and the network's graph in TensorBoard."""
        config, classes = self._loop.config, self._loop.config.model.classes
        images = phases.resized(config.images, self._loop.phase.size)
        first = batches.training(
            reader,
            images,
            classes,
            seed=self._loop.seed,
            start=0,
            micro_batch=self._loop.micro_batch,  # mixing pairs images of one micro-batch
            share=batches.Share(),
            echo=config.training.echo,
        )
        pixels, known, numbers = next(iter(first))
        seen, _ = augment.augmented(pixels, known, numbers, images, classes)
        self.board.images(0, "train/images", tf.cast(seen[:FIRST_IMAGES] + 0.5, tf.uint8).numpy())
        self.board.histogram(0, "train/labels", known.numpy())
        with tf.device("CPU:0"):
            self.board.graph(0, keras_model.inference(keras_model.build_model(config)))

    def call(self, loss: float, rate: float, busy_cores: float) -> None:
        """Adds the curves of a compiled call: mean loss, images a second, busy CPU cores.

        Without a GPU all cores should be busy. With one, that means that the input is the limit.
        """
        busy = busy_cores / cores()
        curves = {"batch_loss": loss, "images_per_second": rate, "cpu_utilisation": busy}
        self.board.curves(self._loop.step, {f"train/{name}": x for name, x in curves.items()})
        self._watch_loss_scale()
        self._watch_gradient(loss)

    def _watch_gradient(self, loss: float) -> None:
        """Warns if no gradient reaches the classifier although there is much to learn."""
        loop, idle = self._loop, self._loop.idle_steps
        epoch = math.ceil(loop.update.examples_per_epoch / loop.config.training.batch_size)
        if idle >= min(DEAD_STEPS, epoch, loop.total_steps) and loss > NO_LOSS:
            self._warn_of_death(
                f"no gradient came to its classifier for {idle} steps, loss {loss:.4f}"
            )

    def _warn_of_death(self, sign: str) -> None:
        """Warns once that the network has died."""
        if self.death:
            return
        chance = math.log(self._loop.config.model.classes)
        self.death = (
            f"The network has died: by step {self._loop.step}, {sign}; the loss of blind guessing "
            f"is {chance:.4f}. It learns nothing from the images. Begin anew in another "
            "--model_dir with a lower training.learning_rate, training.clip_norm=1 or a longer "
            "training.warmup_epochs, or with --fine_tune_from a model."
        )
        LOG.warning("%s", self.death)

    def _watch_loss_scale(self) -> None:
        """Warns once if steps are still skipped although the loss scale is low already."""
        update, before = self._loop.update, self._skipped
        self._skipped = int(update.skipped.numpy())
        scale = float(update.loss_scale.numpy())
        if update.scaled and self._skipped > before and scale < LOW_SCALE and not self._warned:
            self._warned = True
            LOG.warning(
                "By step %d, %s skipped and the loss scale has fallen to %g: the "
                "gradients themselves grow. If the run ends here, go on with --precision float32 "
                "or a lower training.learning_rate.",
                *(self._loop.step, plural(self._skipped, "step was", "steps were"), scale),
            )

    def evaluation(self, result: Evaluation, reader: Reader) -> None:
        """Shows an evaluation of `reader`'s split in TensorBoard."""
        step = self._loop.step
        if result.is_constant:
            self._warn_of_death("it gave the same answer for every validation image")
        self.board.histogram(step, "validation/predicted_labels", result.predicted)
        self.board.histogram(step, "validation/labels", result.labels)
        if self._labels.is_file():
            images, classes = self._loop.config.images, labels.read(self._labels)
            tensorboard.add_evaluation(self.board, step, result, reader, images, classes)

    def epoch(
        self, sums: Sums, seconds: float, timed_images: int, scores: dict[str, Any] | None
    ) -> None:
        """Logs the epoch that has just ended and adds its row and curves.

        Args:
          sums: the sums over its steps.
          seconds: duration of its calls, without a process's first, which builds the graph.
          timed_images: images trained on in these seconds.
          scores: the evaluation's summary, if there was one.
        """
        loop, update = self._loop, self._loop.update
        rate = float(update.rate(tf.constant(loop.seen)))
        means = sums.means()
        validation = {k: v for k, v in (scores or {}).items() if k != "examples"}
        epoch, skipped = round(loop.epoch, 3), int(update.skipped.numpy())
        values = {"epoch": epoch, "examples_seen": loop.seen, "learning_rate": rate} | means
        values |= {f"validation_{name}": value for name, value in validation.items()}
        curves = {"learning_rate": rate} | {f"train/{k}": v for k, v in means.items()}
        curves |= {f"validation/{name}": value for name, value in validation.items()}
        after = "".join(f", validation {k}={v:.4f}" for k, v in validation.items())
        after += f", {plural(skipped, 'step')} skipped so far as not finite" if skipped else ""
        after += f", lr={rate:.5g}"
        if timed_images:
            speed = timed_images / seconds
            values |= {"images_per_second": round(speed, 1), "seconds": round(seconds, 1)}
            after += f", {speed:.0f} images/s"
        self.row(loop.step, skipped=skipped, **values)
        self.board.curves(loop.step, curves)
        LOG.info(
            "epoch=%g, step=%d, loss=%.4f, top1=%.4f, top5=%.4f%s",
            *(epoch, loop.step, *means.values(), after),
        )

    def row(self, step: int, **values: Any) -> None:
        """Adds a row to history.csv; it replaces an earlier one of the same step."""
        self._rows = [row for row in self._rows if int(row["step"]) != step]
        self._rows.append({"step": step, **values})

    def write_rows(self) -> None:
        """Writes history.csv."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._path, text.getvalue())

    def close(self) -> None:
        """Closes all loggers."""
        self.board.close()


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows that have a step; a person or another release may have changed the rest.

    Raises:
      InputError: the file is not a table.
    """
    if not path.exists():
        return []
    steps = re.compile(r"[0-9]{1,18}")
    return [row for row in read_rows(path) if steps.fullmatch(row.get("step") or "")]


class ProgressBar(Bar):
    """Progress of a training: a bar on a terminal, elsewhere a log line a minute."""

    def __init__(self, total: int, done: int):
        super().__init__(  # the first update comes after building the graph
            "Training", total, done=done, seconds=LINE_SECONDS, timed_from_first=True,
            log=functools.partial(LOG.log, PROGRESS, "%s"),
        )  # fmt: skip

    def show(self, step: int, total: int, epoch: float, rate: float, loss: float) -> None:
        """Shows the step, the epoch, the images a second and the loss."""
        self.total = total
        where = f"step {step} of {total}, epoch {epoch:.2f}"
        self.update(step, f"{where}, loss {loss:.4f}, {rate:.0f} images/s")
