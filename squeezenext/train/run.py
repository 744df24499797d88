"""One run to its last epoch: calls of several steps, checkpoints, evaluations, signals."""

import time
from pathlib import Path
from typing import Any

from squeezenext.errors import NotFinite, RunAgain
from squeezenext.model import checkpoint
from squeezenext.model import directory as model_directory
from squeezenext.records.reader import Reader
from squeezenext.train import devices, exchange, non_finite
from squeezenext.train.checkpoints import Checkpoints, Progress
from squeezenext.train.history import History, ProgressBar
from squeezenext.train.log import LOG
from squeezenext.train.loop import Loop, Sums
from squeezenext.train.options import Course, Options
from squeezenext.train.stopping import StopSignals
from squeezenext.train.watchdog import Watchdog

# Steps a call: long enough to hide Python's overhead, short enough to stop within two seconds.
CALL_SECONDS = 2.0
MAX_CALL_STEPS = 1000
SLOW_STEP_SECONDS = 10.0  # the log says that stopping takes as long


def _nothing() -> None:
    """Stands for what a watchdog does where a process trains alone."""


class Run:
    """Trains `loop` in `options.model_dir`. All workers call all methods; only the chief writes.

    Args:
      loop: the network in training, at the first step.
      reader: reader of the training split.
      validation: reader of the validation split, if there is one.
      options: model directory, intervals, what to do at a gradient that is not finite.
      watchdog: observer of the other workers, if there are any.
      signals: receiver of signals to stop.
      course: chooses the number of epochs anew after each of them; for one process.
    """

    def __init__(
        self,
        loop: Loop,
        reader: Reader,
        validation: Reader | None,
        options: Options,
        *,
        watchdog: Watchdog | None = None,
        signals: StopSignals | None = None,
        course: Course | None = None,
    ):
        self.loop, self.reader, self.validation, self.options = loop, reader, validation, options
        self.model_dir = Path(options.model_dir)
        self.signals = signals or StopSignals()
        self.history = History(self.model_dir, loop, options.log_to) if loop.is_chief else None
        self.checkpoints = Checkpoints(loop, reader, options, self.history)
        self.progress = Progress()
        self._course = course
        self.total_steps = loop.total_steps
        self._report_progress = watchdog.progress if watchdog else _nothing
        # Call after the last collective: this worker may end before the others.
        self._leave_workers = watchdog.finish if watchdog else _nothing
        self._scores: dict[str, Any] | None = None  # the latest evaluation
        self._calls = 0
        self._call_steps = 1

    def resume(self) -> bool:
        """Restores the newest whole checkpoint and says whether there was one.

        Raises:
          InputError: no checkpoint is whole, or it belongs to another network or recipe.
        """
        found = self.checkpoints.resume()
        if found is None:
            return False
        self.progress = found
        if self.history:
            self.history.death = found.death
        if self.loop.step < self.total_steps:
            LOG.info("Resuming at step %d of %d.", self.loop.step, self.total_steps)
        return True

    def run(self) -> dict:
        """Trains to the last epoch and returns the content of final.json.

        Raises:
          RunAgain: a signal came and the run is saved, or the run cannot be saved.
          NotFinite: a gradient is not finite; no weight has been harmed.
        """
        self._follow(None)
        if finished := self._finished():
            return finished
        if self.history:
            self.history.begin(self.loop.step - self.progress.epoch_ended)
        try:
            self.checkpoints.share_bad_records()  # those that an earlier start has listed
            self._begin()
            self.checkpoints.start_clock()
            self._train()
            return self._finish()
        finally:
            if self.history:
                self.history.close()
            self.checkpoints.close()

    def _follow(self, rate: float | None) -> None:
        """Takes the number of epochs from the course, if there is one."""
        if self._course:
            epochs = self._course(self.loop.seen // self.loop.update.examples_per_epoch, rate)
            self.loop.set_epochs(epochs)
            self.total_steps = self.loop.total_steps

    def _finished(self) -> dict | None:
        """Returns final.json if an earlier start has finished the run."""
        if self.loop.step < self.total_steps or self.progress.epoch_ended:
            return None
        state = self.loop.state()
        states = state, checkpoint.without_averaged_statistics(state)
        document = model_directory.read_json(self.model_dir / model_directory.FINAL)
        finished = document.get("weights_sha256") in map(checkpoint.weights_sha256, states)
        finished = finished and (self.model_dir / model_directory.LITERT).is_file()
        if not devices.exchange(self.loop.strategy, [finished])[0, 0]:
            return None
        LOG.info(
            "%s holds a finished run of %d steps, top-1 %s: its %g epochs are done.",
            *(self.model_dir, self.loop.step, document.get("top1")),
            self.loop.config.training.epochs,
        )
        self._leave_workers()
        return document

    def _begin(self) -> None:
        if self.loop.is_chief:
            model_directory.remove_results(self.model_dir)
        if self.history and not self.loop.step:
            self.history.input(self.reader)
        if self.options.on_nan == "rollback" and not self.loop.step:
            self._save(must=True)  # else there is nothing to go back to
        self.signals.defer()

    def _batches(self):
        return self.loop.batches(self.reader, self.progress.skipped_examples)

    def _train(self) -> None:
        """Repeats until the last step: a call, a common decision, perhaps a save, an evaluation."""
        loop = self.loop
        LOG.info("Building the graph of a step; that may take a minute, with XLA some minutes.")
        if self.progress.epoch_ended:
            self._end_epoch()
        iterator = self._batches()
        with ProgressBar(self.total_steps, loop.step) as bar:
            while loop.step < self.total_steps:
                end = self._epoch_end()
                if self._call(iterator, min(self._call_steps, end - loop.step), bar):
                    self._recover()
                    iterator = self._batches()
                    continue
                stop, save = self._decide()
                self.progress.epoch_ended = loop.step == end
                if stop or save or loop.step == end:
                    self._save(must=stop or loop.step == self.total_steps)
                if stop:
                    self._leave_workers()
                    raise RunAgain(f"Stopped and saved at step {loop.step}; run again to go on.")
                if loop.step == end:
                    self._end_epoch()
                if loop.step < self.total_steps and loop.phase_is_over:
                    iterator = self._batches()
                    self._calls = 0  # the next one builds a graph, too

    def _epoch_end(self) -> int:
        """Returns the step after which the last example of the present epoch has been seen."""
        examples, batch = self.loop.update.examples_per_epoch, self.loop.config.training.batch_size
        left = examples - self.loop.seen % examples
        return min(self.loop.step - (-left // batch), self.total_steps)

    def _call(self, iterator, steps: int, bar: ProgressBar) -> bool:
        """Takes up to `steps` steps; says whether the last was not finite, see `Loop.train`."""
        started, computed = time.monotonic(), time.process_time()
        sums, not_finite = self.loop.train(iterator, steps)
        seconds = time.monotonic() - started
        cores = (time.process_time() - computed) / seconds
        self._report_progress()
        images = sums.steps * self.loop.config.training.batch_size
        self._pace(sums, seconds, images)
        loss, rate = sums.means()["loss"], images / seconds
        if self.history:
            self.history.call(loss, rate, cores)
            self.progress.death = self.history.death
        bar.show(self.loop.step, self.total_steps, self.loop.epoch, rate, loss)
        return not_finite

    def _pace(self, sums: Sums, seconds: float, images: int) -> None:
        """Adds a call to the epoch and chooses the steps of the next one from its duration."""
        self._calls += 1
        self.progress.epoch_sums += sums
        if self._calls > 1:  # the first call builds the graph
            self.progress.epoch_seconds += seconds
            self.progress.epoch_timed += images
        step_seconds = seconds / max(sums.steps, 1)
        if self._calls == 1:
            LOG.info("First step: %.1f s, with building the graph.", seconds)
        if self._calls == 2:
            LOG.info("Then %.3g s a step, %.0f images/s.", step_seconds, images / seconds)
            if step_seconds > SLOW_STEP_SECONDS:
                LOG.info("A signal to stop is heeded between steps, so within that time.")
        within = int(sums.steps * CALL_SECONDS / seconds)
        self._call_steps = max(1, min(within, 2 * sums.steps, MAX_CALL_STEPS))

    def _recover(self) -> None:
        """Goes back to the last checkpoint and past the bad batch, or ends the run."""
        try:
            self.progress = non_finite.recover(
                self.loop, self.reader, self.checkpoints, self.progress, self.options
            )
        except NotFinite:
            self._leave_workers()  # all of them stop for the same reason; nobody is to blame
            raise
        if self.history:
            self.history.rewind(self.loop.step)
        self._call_steps = 1

    def _decide(self) -> tuple[bool, bool]:
        """Returns (stop, save) for all workers, whose clocks and signals differ; a collective."""
        save = self.loop.is_chief and self.checkpoints.due
        own = [self.signals.came, save, self._call_steps]
        stop, save, steps = devices.exchange(self.loop.strategy, own).T
        self._call_steps = int(steps.min())
        return bool(stop.any()), bool(save.any())

    def _end_epoch(self) -> None:
        """Follows the course; evaluates and reports the epoch that has ended and been saved."""
        progress, every = self.progress, self.options.evaluate_every_epochs
        if self.loop.step < self.total_steps:
            seconds = progress.epoch_seconds
            self._follow(progress.epoch_timed / seconds if seconds else None)
        epoch = self.loop.seen // self.loop.update.examples_per_epoch
        due = (every and epoch % every == 0) or self.loop.step >= self.total_steps
        scores = self._evaluate() if self.validation and due else None
        if scores and (not progress.best or scores["top1"] > progress.best["top1"]):
            progress.best = {"step": self.loop.step, "top1": scores["top1"]}
        if self.history:
            sums, seconds = progress.epoch_sums, progress.epoch_seconds
            self.history.epoch(sums, seconds, progress.epoch_timed, scores)
        progress.new_epoch()
        self.checkpoints.amend(progress)

    def _evaluate(self) -> dict[str, Any]:
        """Scores the validation split with the moving averages, if the recipe keeps any."""
        with self.loop.averaged():
            result = self.loop.evaluator.evaluate(
                self.validation, self.loop.micro_batch, self._before_evaluation_step
            )
        if self.history:
            self.history.evaluation(result, self.validation)
            self.progress.death = self.history.death
        self._scores = result.summary()
        return self._scores

    def _before_evaluation_step(self) -> None:
        """Ends an evaluation at a signal: the run was saved before. The watchdog tells others."""
        self._report_progress()
        if self.signals.came:
            raise RunAgain(
                f"Stopped while evaluating step {self.loop.step}, which is saved; run again to go "
                "on."
            )

    def _save(self, must: bool) -> None:
        """Saves a checkpoint, see `Checkpoints.save`; if it must succeed, all workers wait for it.

        Raises:
          RunAgain: it must succeed, but has failed on any worker; all of them leave.
        """
        failed = None
        try:
            self.checkpoints.save(self.progress, self.checkpoints.collect(), must)
        except RunAgain as error:
            failed = error
        self._report_progress()
        if must and devices.exchange(self.loop.strategy, [failed is not None]).any():
            self._leave_workers()
            raise failed or RunAgain(
                f"Step {self.loop.step} cannot be saved by another worker, whose log says why; "
                "make room, and start all workers again."
            )

    def _finish(self) -> dict:
        """Writes model.tflite and final.json with the weights that evaluation uses."""
        scores: dict[str, Any] = {"top1": None, "top5": None, "loss": None}
        if self.validation:
            scores = self._scores or self._evaluate()
        state = self.checkpoints.collect()
        self._leave_workers()
        if not self.checkpoints.complete:
            self.checkpoints.save(self.progress, state, must=True)
        document = {
            "step": self.loop.step,
            "epoch": round(self.loop.epoch, 3),
            "examples_seen": self.loop.seen,
            **{name: scores[name] for name in ("top1", "top5", "loss")},
            "weights_sha256": checkpoint.weights_sha256(state),
        }
        if self.options.fine_tune_from:
            document["fine_tuned_from"] = exchange.origin(self.options.fine_tune_from)
        if self.progress.death:
            document["warning"] = self.progress.death
        if self.reader.bad is not None:
            document["bad_records"] = len(self.reader.bad)
            self.checkpoints.finish()
        if self.loop.is_chief:
            exchange.write_end(self.model_dir, self.loop.config, state, document)
            LOG.info("Done: %s", document)
            LOG.info("The model is in %s.", self.model_dir)
        if self.signals.came:  # during the final save: the caller must not begin its next stage
            raise RunAgain(f"Stopped at the end, step {self.loop.step}, which is saved; run again.")
        return document
