"""What is told of a run while it goes on: the log's lines, history.csv's rows, TensorBoard."""

import math
import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from squeezenext import labels
from squeezenext.images import augment
from squeezenext.metrics import Evaluation
from squeezenext.model import directory as model_directory
from squeezenext.network import keras_model
from squeezenext.records import batches
from squeezenext.records.reader import Reader
from squeezenext.train import phases, tensorboard
from squeezenext.train.checkpoints import Progress
from squeezenext.train.history import LOG, History
from squeezenext.train.loop import Loop
from squeezenext.train.optimizers import learning_rate

SHOWN = 16  # images of training
LOW_SCALE = 128.0  # of the loss: eight steps left out, one soon after the other, from 2^15 down


class Journal:
    """Tells of one run, on the chief.

    Args:
      history: where it is written.
      loop: what runs.
      model_dir: with labels.json.
    """

    def __init__(self, history: History, loop: Loop, model_dir: Path):
        self.history = history
        self._loop = loop
        self._model_dir = model_dir
        self._skipped = int(loop.update.skipped.numpy())
        self._warned = False

    def input(self, reader: Reader) -> None:
        """Shows the first images that training sees, and the graph."""
        config = self._loop.config
        images = phases.resized(config.images, self._loop.phase.size)
        shown = batches.training(
            reader,
            images,
            config.model.classes,
            seed=self._loop.seed,
            start=0,
            micro_batch=self._loop.micro_batch,  # among whose images those to mix are drawn
            share=batches.Share(),
            echo=config.training.echo,
        )
        pixels, known, draws = next(iter(shown))
        seen, _ = augment.augmented(pixels, known, draws, images, config.model.classes)
        self.history.images("train/images", tf.cast(seen[:SHOWN] + 0.5, tf.uint8).numpy(), 0)
        self.history.histogram("train/labels", known.numpy(), 0)
        with tf.device("CPU:0"):
            self.history.graph(keras_model.inference(keras_model.build(config)))

    def call(self, step: int, loss: float, rate: float, cores: float) -> None:
        """Adds the curves of one call; `rate` in images a second, `cores` that were busy.

        Without a GPU all cores should be; with one, cores that are all busy say that the input is
        the limit.
        """
        curves = {"train/batch_loss": loss, "train/images_per_second": rate}
        curves["train/cpu_utilisation"] = cores / (os.cpu_count() or 1)
        self.history.point(step, curves)
        self._watch_scale(step)

    def _watch_scale(self, step: int) -> None:
        """Warns where steps are still left out although the loss scale is low already."""
        update, before = self._loop.update, self._skipped
        self._skipped = int(update.skipped.numpy())
        scale = float(update.loss_scale.numpy())
        if update.scaled and self._skipped > before and scale < LOW_SCALE and not self._warned:
            self._warned = True
            LOG.warning(
                "Up to step %d %d steps were left out, and the loss scale has fallen to %g: the "
                "gradients themselves grow; should it come to an end here, go on with --precision "
                "float32 or a lower training.learning_rate.",
                *(step, self._skipped, scale),
            )

    def evaluation(self, step: int, result: Evaluation, reader: Reader) -> None:
        """Shows the labels, the classes' scores, the confusion and the worst mistakes."""
        self.history.histogram("validation/predicted_labels", result.predicted, step)
        self.history.histogram("validation/labels", result.labels, step)
        names = self._model_dir / model_directory.LABELS
        if names.is_file():
            images, classes = self._loop.config.images, labels.read(names)
            tensorboard.show(self.history, result, reader, images, classes, step)

    def epoch(self, progress: Progress, scores: dict[str, Any] | None) -> None:
        """Tells of the epoch that has just ended; `scores`: of its evaluation, if there was one."""
        update = self._loop.update
        step, seen = int(update.step.numpy()), update.seen
        rate = float(learning_rate(self._loop.config.training, tf.constant(seen), update.examples))
        means = progress.epoch_sums.means()
        # A process's first call is not timed: it builds the graph.
        timed = progress.epoch_timed > 0
        speed = progress.epoch_timed / progress.epoch_seconds if timed else math.nan
        validation = {k: v for k, v in (scores or {}).items() if k != "examples"}
        epoch, skipped = round(seen / update.examples, 3), int(update.skipped.numpy())
        self.history.row(
            step,
            epoch=epoch,
            examples_seen=seen,
            learning_rate=rate,
            images_per_second=round(speed, 1) if timed else "",
            seconds=round(progress.epoch_seconds, 1) if timed else "",
            skipped=skipped,
            **means,
            **{f"validation_{name}": value for name, value in validation.items()},
        )
        curves = {"learning_rate": rate} | {f"train/{k}": v for k, v in means.items()}
        curves |= {f"validation/{name}": value for name, value in validation.items()}
        self.history.point(step, curves)
        after = "".join(f", validation {k}={v:.4f}" for k, v in validation.items())
        after += f", {skipped} steps left out so far as not finite" if skipped else ""
        after += f", lr={rate:.5g}" + (f", {speed:.0f} images/s" if timed else "")
        LOG.info(
            "epoch=%g, step=%d, loss=%.4f, top1=%.4f, top5=%.4f%s",
            *(epoch, step, *means.values(), after),
        )
