"""One run from where it stands to its last epoch: epochs, checkpoints, evaluation, signals."""

import contextlib
import signal
import threading
import time
from pathlib import Path
from typing import Any

import tensorflow as tf

from squeezenext import checkpoint, data, labels, models, quiet
from squeezenext.errors import NotFinite, RunAgain
from squeezenext.optimization import learning_rate
from squeezenext.records import bad_records
from squeezenext.training import devices, mixing, model_directory, nan, pictures
from squeezenext.training.history import LOG, History, ProgressBar
from squeezenext.training.loop import Loop, Sums
from squeezenext.training.options import Options
from squeezenext.training.snapshots import Progress, Snapshots
from squeezenext.training.watchdog import Watchdog

CALL_SECONDS = 2.0  # between looks at the clock and at signals
SLOW_STEP_SECONDS = 10.0
RETRY_SECONDS = 60.0  # after a save that failed


class Run:
    """Trains `loop` in `options.model_dir`. Only the chief writes; all workers call all methods.

    Args:
      loop: as it starts.
      reader: of the training split.
      validation: of the validation split, or None.
      options: where and how.
      chief: whether this process writes.
      watchdog: of the other workers, where there are any.
    """

    def __init__(
        self,
        loop: Loop,
        reader: data.Reader,
        validation: data.Reader | None,
        options: Options,
        *,
        chief: bool = True,
        watchdog: Watchdog | None = None,
    ):
        self.loop = loop
        self.reader = reader
        self.validation = validation
        self.options = options
        self.model_dir = Path(options.model_dir)
        self.chief = chief
        self.watchdog = watchdog
        training = loop.config.training
        self.examples = reader.split.examples
        self.total_steps = max(1, round(training.epochs * self.examples / training.batch_size))
        self.progress = Progress()
        self.snapshots = Snapshots(
            loop,
            self.model_dir,
            examples=self.examples,
            chief=chief,
            keep=options.keep_checkpoints,
        )
        self.scores: dict[str, Any] | None = None  # of the weights as they are
        self.stopping = False
        self.calls = 0
        self.save_at = time.monotonic() + 60 * options.checkpoint_minutes
        self.history: History | None = None

    @property
    def step(self) -> int:
        return int(self.loop.update.step.numpy())

    @property
    def seen(self) -> int:
        return int(self.loop.update.examples_seen.numpy())

    def resume(self) -> bool:
        """Takes up the newest whole checkpoint; says whether there was one.

        Raises:
          InputError: none is whole, or it is of another network or recipe.
        """
        found = self.snapshots.resume()
        if found is None:
            return False
        self.progress = found
        if self.step < self.total_steps:
            LOG.info("Resuming at step %d of %d.", self.step, self.total_steps)
        return True

    def run(self) -> dict:
        """Trains to the end and returns what final.json holds.

        Raises:
          RunAgain: a signal came, and the run is saved; or it cannot be saved.
          NotFinite: a gradient is not finite; no weight has been harmed.
        """
        if finished := self._finished():
            return finished
        handlers = {kind: signal.signal(kind, self._stop) for kind in _signals()}
        try:
            self._share_bad_records()  # those that an earlier start has listed
            if self.chief:
                self.history = History(self.model_dir, self.step - self.progress.epoch_ended)
                for name in ("final.json", "model.tflite", "calibration.json", "scores.json"):
                    (self.model_dir / name).unlink(missing_ok=True)  # of an earlier end
                self._show_input()
            if self.options.on_nan == "rollback" and not self.step:
                self._save(must=True)  # else there is nothing to go back to
            self._epochs()
            return self._finish()
        finally:
            for kind, handler in handlers.items():
                signal.signal(kind, handler)
            if self.history:
                self.history.close()
            with contextlib.suppress(OSError):  # whatever has ended the run is told already
                self._list_bad_records()

    def _finished(self) -> dict | None:
        """Returns final.json where the run has come to its end already."""
        if self.step < self.total_steps or self.progress.epoch_ended:
            return None
        sha256 = checkpoint.weights_sha256(self.loop.state())
        document = model_directory.read_final(self.model_dir)
        ended = document is not None and document.get("weights_sha256") == sha256
        ended = ended and (self.model_dir / "model.tflite").is_file()
        if not devices.exchange(self.loop.strategy, [ended])[0, 0]:
            return None
        LOG.info(
            "%s holds a finished run of %d steps, top-1 %s; a larger --num_epochs goes on with it.",
            *(self.model_dir, self.step, document["top1"]),
        )
        self._part()
        return document

    def _stop(self, number, frame) -> None:
        """The first signal ends the run after the present call; the second at once."""
        del frame
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        LOG.info("%s: saving, then leaving.", signal.Signals(number).name)

    def _epochs(self) -> None:
        iterator = self.loop.batches(self.reader)
        call_steps = 1
        if self.progress.epoch_ended:
            self._end_epoch()
        with ProgressBar(self.total_steps, self.step) as bar:
            while self.step < self.total_steps:
                before, end = self.step, self._epoch_end()
                call_steps, hopeless = self._call(iterator, min(call_steps, end - before), bar)
                if hopeless:
                    self._not_finite()
                    iterator, call_steps = self.loop.batches(self.reader), 1
                    continue
                stop, save, call_steps = self._agree(call_steps)
                self.progress.epoch_ended = self.step == end
                if stop or save or self.step == end:
                    self._save(must=stop or self.step == self.total_steps)
                if stop:
                    self._part()
                    raise RunAgain(f"Stopped and saved at step {self.step}; run again to go on.")
                if self.step == end:
                    self._end_epoch()
                if self.step < self.total_steps and self.loop.phase_is_over:
                    iterator = self.loop.batches(self.reader)

    def _epoch_end(self) -> int:
        """The step at which the present epoch's last example has been seen."""
        batch = self.loop.config.training.batch_size
        epoch = self.seen // self.examples
        left = (epoch + 1) * self.examples - self.seen
        return min(self.step - (-left // batch), self.total_steps)

    def _call(self, iterator, steps: int, bar: ProgressBar) -> tuple[int, bool]:
        """Takes `steps` steps; returns how many would fill `CALL_SECONDS`, and `train`'s verdict.

        So a signal is heeded within about twice that, or one step where that takes longer.
        """
        started = time.monotonic()
        sums, hopeless = self.loop.train(iterator, steps)
        seconds = time.monotonic() - started
        self.progress.epoch_sums += sums
        self._progressed()
        images = sums.steps * self.loop.config.training.batch_size
        rate = images / seconds
        if self.calls:
            self.progress.epoch_seconds += seconds
            self.progress.epoch_timed += images
        self._report_start(seconds, seconds / max(sums.steps, 1), rate)
        loss = sums.means()["loss"]
        if self.history:
            curves = {"train/batch_loss": loss, "train/images_per_second": rate}
            self.history.point(self.step, curves)
        bar.update(self.step, self.seen / self.examples, rate, loss)
        fitting = min(int(sums.steps * CALL_SECONDS / seconds), 2 * steps, 1000)
        return max(1, fitting), hopeless

    def _report_start(self, seconds: float, step_seconds: float, rate: float) -> None:
        self.calls += 1
        if self.calls == 1:
            LOG.info("First step: %.1f s, with building the graph.", seconds)
        if self.calls == 2:
            LOG.info("Then %.3g s a step, %.0f images/s.", step_seconds, rate)
            if step_seconds > SLOW_STEP_SECONDS:
                LOG.info("A signal to stop is heeded between steps, so within that time.")

    def _progressed(self) -> None:
        if self.watchdog:
            self.watchdog.progress()

    def _part(self) -> None:
        """Call after the last collective."""
        if self.watchdog:
            self.watchdog.part()

    def _not_finite(self) -> None:
        """Ends the run, or takes it back to the last checkpoint and past the bad batch.

        Raises:
          NotFinite: there is no going back, or there has been too much of it.
        """
        step, training = self.step, self.loop.config.training
        batch = training.batch_size
        behind = self.seen + self.loop.passed_over
        names = nan.keys(
            self.reader,
            seed=self.loop.seed,
            start=behind - batch,
            count=batch,
            echo=training.echo,
        )
        sentence = nan.report(self.model_dir, step, names, write=self.chief)
        done = self.progress.rollbacks
        if self.options.on_nan == "stop" or len(done) >= nan.MAX_ROLLBACKS:
            times = f" after {len(done)} rollbacks" if done else ""
            raise NotFinite(
                f"{sentence} No weight has been harmed; the last checkpoint is "
                f"{self.snapshots.last()}{times}. Lower training.learning_rate, or choose "
                "--precision float32 or --on_nan rollback."
            )
        best = self.progress.best
        self.progress = self.snapshots.resume() or self.progress
        self.progress.best = best
        if self.progress.epoch_ended:  # evaluated since, but not noted: the disk was full
            self._new_epoch()
        self.loop.passed_over = self.progress.passed_over = behind - self.seen
        self.progress.rollbacks = [*done, {"step": step, "to": self.step}]
        if self.history:
            self.history.rewind(self.step)
        LOG.warning(
            "%s Rollback %d of %d: back to step %d, and on with the examples behind that batch.",
            *(sentence, len(self.progress.rollbacks), nan.MAX_ROLLBACKS, self.step),
        )

    def _agree(self, steps: int) -> tuple[bool, bool, int]:
        """Makes all workers stop, save and step alike: each has its own clock and signals."""
        mine = [self.stopping, self.chief and time.monotonic() >= self.save_at, steps]
        stop, save, steps = devices.exchange(self.loop.strategy, mine).T
        return bool(stop.any()), bool(save.any()), int(steps.min())

    def _end_epoch(self) -> None:
        """Evaluates, logs and remembers the epoch that has just ended, and is saved."""
        epoch = round(self.seen / self.examples, 3)
        every = self.options.evaluate_every_epochs
        due = every and round(epoch) % every == 0
        scores = None
        if self.validation and (due or self.step == self.total_steps):
            scores = self._evaluate()
        if scores and (not self.progress.best or scores["top1"] > self.progress.best["top1"]):
            self.progress.best = {"step": self.step, "top1": scores["top1"]}
        if self.history:
            self._record(epoch, scores)
        self._new_epoch()
        self._write(lambda: self.snapshots.amend(self.progress), must=False)

    def _new_epoch(self) -> None:
        self.progress.epoch_sums = Sums(0, 0, 0.0, 0.0, 0.0)
        self.progress.epoch_seconds, self.progress.epoch_timed = 0.0, 0
        self.progress.epoch_ended = False

    def _evaluate(self) -> dict[str, Any]:
        """Scores the validation split with the moving averages, where the recipe keeps any."""
        with self.loop.averaged():
            result = self.loop.evaluate(self.validation, self.loop.micro_batch, self._look_up)
        if self.history:
            self.history.histogram("validation/predicted_labels", result.predicted, self.step)
            self.history.histogram("validation/labels", result.labels, self.step)
            self._show_scores(result)
        self.scores = result.summary()
        return self.scores

    def _show_scores(self, result) -> None:
        """Puts the classes' scores, the confusion and the worst mistakes into TensorBoard."""
        names = self.model_dir / "labels.json"
        if names.is_file():
            images, classes = self.loop.config.images, labels.read(names)
            pictures.show(self.history, result, self.validation, images, classes, self.step)

    def _look_up(self) -> None:
        """Between two steps of an evaluation, before which the run has been saved.

        Raises:
          RunAgain: a signal came. Other workers are told by this one's watchdog.
        """
        self._progressed()
        if self.stopping:
            raise RunAgain(
                f"Stopped while evaluating step {self.step}, which is saved; run again to go on."
            )

    def _record(self, epoch: float, scores: dict[str, Any] | None) -> None:
        progress, step = self.progress, self.step
        means = progress.epoch_sums.means()
        training = self.loop.config.training
        rate = float(learning_rate(training, tf.constant(self.seen), self.examples))
        speed = progress.epoch_timed / max(progress.epoch_seconds, 1e-9)
        validation = {k: v for k, v in (scores or {}).items() if k != "examples"}
        self.history.row(
            step,
            epoch=epoch,
            examples_seen=self.seen,
            learning_rate=rate,
            images_per_second=round(speed, 1),
            seconds=round(progress.epoch_seconds, 1),
            **means,
            **{f"validation_{name}": value for name, value in validation.items()},
        )
        curves = {"learning_rate": rate} | {f"train/{k}": v for k, v in means.items()}
        curves |= {f"validation/{name}": value for name, value in validation.items()}
        self.history.point(step, curves)
        after = "".join(f", validation {k}={v:.4f}" for k, v in validation.items())
        LOG.info(
            "epoch=%g, step=%d, loss=%.4f, top1=%.4f, top5=%.4f%s, lr=%.5g, %.0f images/s",
            *(epoch, step, means["loss"], means["top1"], means["top5"], after, rate, speed),
        )

    def _save(self, must: bool) -> None:
        """Commits a checkpoint; where that fails, training goes on unless it `must` succeed.

        Raises:
          RunAgain: it had to.
        """
        self.save_at = time.monotonic() + 60 * self.options.checkpoint_minutes
        self._share_bad_records()
        state = self.loop.state()  # before anything can fail: the other workers take part

        def save() -> None:
            self._list_bad_records()
            self.snapshots.save(self.progress, state)

        self._write(save, must)
        self._progressed()

    def _share_bad_records(self) -> None:
        """Tells all workers what any of them has left out; all must call this together.

        Raises:
          InputError: together that is too much.
        """
        if (bad := self.reader.bad) is None:
            return
        mine, strategy = bad.numbers, self.loop.strategy
        most = devices.exchange(strategy, [len(mine)]).max()
        if most:
            rows = devices.exchange(strategy, mine + [-1] * (most - len(mine)))
            bad.merge(rows[rows >= 0].tolist())

    def _list_bad_records(self) -> None:
        if self.chief and self.reader.bad is not None:
            self.reader.bad.write(self.model_dir / bad_records.FILE)

    def _write(self, write, must: bool) -> None:
        try:
            if self.history:
                self.history.write_rows()
            write()
            if self.history:
                self.history.commit()
        except (OSError, tf.errors.OpError) as error:
            reason = getattr(error, "strerror", None) or error.message.splitlines()[0]
            sentence = f"Step {self.step} cannot be saved in {self.model_dir}: {reason}"
            if must:
                raise RunAgain(
                    f"{sentence}; the last checkpoint is {self.snapshots.last()}. Make room and "
                    "run again to go on from there."
                ) from error
            LOG.warning("%s. Training goes on; the next try is in a minute.", sentence)
            self.save_at = time.monotonic() + RETRY_SECONDS

    def _finish(self) -> dict:
        """Writes model.tflite and final.json from the weights that evaluation uses."""
        scores: dict[str, Any] = {"top1": None, "top5": None, "loss": None}
        if self.validation:
            scores = self.scores or self._evaluate()
        self._share_bad_records()
        state = self.loop.state()
        self._part()
        document = {
            "step": self.step,
            "epoch": round(self.seen / self.examples, 3),
            "examples_seen": self.seen,
            **{name: scores[name] for name in ("top1", "top5", "loss")},
            "weights_sha256": checkpoint.weights_sha256(state),
        }
        if self.options.fine_tune_from:
            document["fine_tuned_from"] = model_directory.origin(self.options.fine_tune_from)
        if self.reader.bad is not None:
            document["bad_records"] = len(self.reader.bad)
            self._write(self._list_bad_records, must=True)
        if self.chief:
            config = self.loop.config
            evaluated = model_directory.evaluated(state, config)
            with tf.device("CPU:0"), quiet.native():  # a GPU's precision is no reference
                model = models.build(config)
                model_directory.assign(model, evaluated, "the run")
                model_directory.write_litert(self.model_dir, model)
            model_directory.write_final(self.model_dir, document)
            LOG.info("Done: %s", document)
            LOG.info("The model is in %s.", self.model_dir)
        return document

    def _show_input(self) -> None:
        """Puts the first images that training sees, and the graph, into TensorBoard."""
        if self.step:
            return
        config = self.loop.config
        shown = data.training(
            self.reader,
            config.images,
            config.model.classes,
            seed=self.loop.seed,
            start=0,
            micro_batch=min(16, config.training.batch_size),
            share=data.Share(),
        )
        pixels, known, draws = next(iter(shown))
        seen, _ = mixing.augmented(pixels, known, draws, config.images, config.model.classes)
        self.history.images("train/images", tf.cast(seen + 0.5, tf.uint8).numpy(), 0)
        self.history.histogram("train/labels", known.numpy(), 0)
        with tf.device("CPU:0"):
            self.history.graph(models.inference(models.build(config)))


def _signals() -> tuple[signal.Signals, ...]:
    """Python lets only the main thread handle signals."""
    main = threading.current_thread() is threading.main_thread()
    return (signal.SIGTERM, signal.SIGINT) if main else ()
