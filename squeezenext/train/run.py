"""One run from where it stands to its last epoch: epochs, checkpoints, evaluation, signals."""

import contextlib
import time
from pathlib import Path
from typing import Any

from squeezenext.errors import NotFinite, RunAgain
from squeezenext.model import checkpoint
from squeezenext.model import directory as model_directory
from squeezenext.records.reader import Reader
from squeezenext.train import checkpoints, devices, exchange, non_finite
from squeezenext.train.checkpoints import Progress, Saver, Snapshots
from squeezenext.train.history import LOG, History, ProgressBar
from squeezenext.train.journal import Journal
from squeezenext.train.loop import Loop
from squeezenext.train.options import Options
from squeezenext.train.stopping import StopSignals
from squeezenext.train.watchdog import Watchdog

# How many steps a call takes: so many that signals are heeded soon, and Python hardly counts.


CALL_SECONDS = 2.0  # between looks at the clock and at signals
SLOW_STEP_SECONDS = 10.0
MAX_STEPS = 1000


class Pace:
    """Chooses `steps`, the length of the next call, by how long the last one took."""

    def __init__(self):
        self.steps = 1
        self._calls = 0

    @property
    def started(self) -> bool:
        """Whether the first call is over, which builds the graph and does not count."""
        return self._calls > 1

    def took(self, steps: int, seconds: float, images: int) -> None:
        """Notes a call; the first two are told."""
        self._calls += 1
        step_seconds = seconds / max(steps, 1)
        if self._calls == 1:
            LOG.info("First step: %.1f s, with building the graph.", seconds)
        if self._calls == 2:
            LOG.info("Then %.3g s a step, %.0f images/s.", step_seconds, images / seconds)
            if step_seconds > SLOW_STEP_SECONDS:
                LOG.info("A signal to stop is heeded between steps, so within that time.")
        self.steps = max(1, min(int(steps * CALL_SECONDS / seconds), 2 * steps, MAX_STEPS))


class Run:
    """Trains `loop` in `options.model_dir`. Only the chief writes; all workers call all methods.

    Args:
      loop: as it starts.
      reader: of the training split.
      validation: of the validation split, or None.
      options: where and how.
      chief: whether this process writes.
      watchdog: of the other workers, where there are any.
      signals: to stop by.
    """

    def __init__(
        self,
        loop: Loop,
        reader: Reader,
        validation: Reader | None,
        options: Options,
        *,
        chief: bool = True,
        watchdog: Watchdog | None = None,
        signals: StopSignals | None = None,
    ):
        self.loop = loop
        self.reader = reader
        self.validation = validation
        self.options = options
        self.model_dir = Path(options.model_dir)
        self.chief = chief
        self.watchdog = watchdog
        self.signals = signals or StopSignals()
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
        self.pace = Pace()
        self.journal: Journal | None = None

    @property
    def step(self) -> int:
        return self.snapshots.step

    @property
    def seen(self) -> int:
        return self.loop.update.seen

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
        history = None
        if self.chief:
            history = History(self.model_dir, self.step - self.progress.epoch_ended)
            self.journal = Journal(history, self.loop, self.model_dir)
        minutes = self.options.checkpoint_minutes
        self.saver = Saver(self.snapshots, history, self.model_dir, minutes, self._list_left_out)
        try:
            checkpoints.share(self.reader, self.loop.strategy)  # those listed by an earlier start
            self._begin()
            self._epochs()
            return self._finish()
        finally:
            if history:
                history.close()
            with contextlib.suppress(OSError):  # whatever has ended the run is told already
                self._list_left_out()

    def _finished(self) -> dict | None:
        """Returns final.json where the run has come to its end already."""
        if self.step < self.total_steps or self.progress.epoch_ended:
            return None
        sha256 = checkpoint.weights_sha256(self.loop.state())
        document = model_directory.read_final(self.model_dir)
        ended = document is not None and document.get("weights_sha256") == sha256
        ended = ended and (self.model_dir / model_directory.LITERT).is_file()
        if not devices.exchange(self.loop.strategy, [ended])[0, 0]:
            return None
        LOG.info(
            "%s holds a finished run of %d steps, top-1 %s; a larger --num_epochs goes on with it.",
            *(self.model_dir, self.step, document["top1"]),
        )
        self._part()
        return document

    def _begin(self) -> None:
        if self.chief:
            model_directory.remove_results(self.model_dir)  # of an earlier end
        if self.journal and not self.step:
            self.journal.input(self.reader)
        if self.options.on_nan == "rollback" and not self.step:
            self._save(must=True)  # else there is nothing to go back to
        self.signals.saves = True

    def _epochs(self) -> None:
        iterator = self.loop.batches(self.reader)
        if self.progress.epoch_ended:
            self._end_epoch()
        with ProgressBar(self.total_steps, self.step) as bar:
            while self.step < self.total_steps:
                end = self._epoch_end()
                if self._call(iterator, min(self.pace.steps, end - self.step), bar):
                    self._not_finite()
                    iterator, self.pace.steps = self.loop.batches(self.reader), 1
                    continue
                stop, save = self._agree()
                self.progress.epoch_ended = self.step == end
                if stop or save or self.step == end:
                    self._save(must=stop or self.step == self.total_steps)
                if stop:
                    devices.exchange(self.loop.strategy, [0])  # all wait for the chief's save
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

    def _call(self, iterator, steps: int, bar: ProgressBar) -> bool:
        """Takes `steps` steps; says whether the last was not finite, see `Loop.train`."""
        started, computed = time.monotonic(), time.process_time()
        sums, hopeless = self.loop.train(iterator, steps)
        seconds = time.monotonic() - started
        cores = (time.process_time() - computed) / seconds
        self._progressed()
        images = sums.steps * self.loop.config.training.batch_size
        self.pace.took(sums.steps, seconds, images)
        timed = (seconds, images) if self.pace.started else (0.0, 0)
        self.progress.took(sums, *timed)
        loss, rate = sums.means()["loss"], images / seconds
        if self.journal:
            self.journal.call(self.step, loss, rate, cores)
        bar.show(self.step, self.seen / self.examples, rate, loss)
        return hopeless

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
        step, behind = self.step, self.seen + self.loop.passed_over
        names = non_finite.batch_names(self.loop, self.reader) if self.chief else []
        sentence = non_finite.report(self.model_dir, step, names)
        best, done = self.progress.best, self.progress.rollbacks
        goes_back = self.options.on_nan == "rollback" and len(done) < non_finite.MAX_ROLLBACKS
        found = self.snapshots.resume() if goes_back else None
        if found is None:
            self._part()  # all come to the same verdict: nobody is to blame for leaving
            raise NotFinite(
                non_finite.verdict(sentence, self.snapshots.last(), len(done), self.loop.precision)
            )
        self.progress = found
        self.progress.best = best
        if self.progress.epoch_ended:  # evaluated since, but not noted: the disk was full
            self.progress.new_epoch()
        self.loop.passed_over = self.progress.passed_over = behind - self.seen
        self.progress.rollbacks = [*done, {"step": step, "to": self.step}]
        if self.journal:
            self.journal.history.rewind(self.step)
        LOG.warning(
            "%s Rollback %d of %d: back to step %d, and on with the examples behind that batch.",
            *(sentence, len(self.progress.rollbacks), non_finite.MAX_ROLLBACKS, self.step),
        )

    def _agree(self) -> tuple[bool, bool]:
        """Makes all workers stop, save and step alike: each has its own clock and signals."""
        mine = [self.signals.came, self.chief and self.saver.due, self.pace.steps]
        stop, save, steps = devices.exchange(self.loop.strategy, mine).T
        self.pace.steps = int(steps.min())
        return bool(stop.any()), bool(save.any())

    def _end_epoch(self) -> None:
        """Evaluates, logs and remembers the epoch that has just ended, and is saved."""
        every = self.options.evaluate_every_epochs
        due = every and self.seen // self.examples % every == 0
        scores = None
        if self.validation and (due or self.step == self.total_steps):
            scores = self._evaluate()
        if scores and (not self.progress.best or scores["top1"] > self.progress.best["top1"]):
            self.progress.best = {"step": self.step, "top1": scores["top1"]}
        if self.journal:
            self.journal.epoch(self.progress, scores)
        self.progress.new_epoch()
        self.saver.amend(self.progress)

    def _evaluate(self) -> dict[str, Any]:
        """Scores the validation split with the moving averages, where the recipe keeps any."""
        with self.loop.averaged():
            result = self.loop.evaluate(self.validation, self.loop.micro_batch, self._look_up)
        if self.journal:
            self.journal.evaluation(self.step, result, self.validation)
        self.scores = result.summary()
        return self.scores

    def _look_up(self) -> None:
        """Between two steps of an evaluation, before which the run has been saved.

        Raises:
          RunAgain: a signal came. Other workers are told by this one's watchdog.
        """
        self._progressed()
        if self.signals.came:
            raise RunAgain(
                f"Stopped while evaluating step {self.step}, which is saved; run again to go on."
            )

    def _save(self, must: bool) -> None:
        """Commits a checkpoint; where that fails, training goes on unless it `must` succeed.

        Raises:
          RunAgain: it had to.
        """
        checkpoints.share(self.reader, self.loop.strategy)
        state = self.loop.state()  # before anything can fail: the other workers take part
        self.saver.save(self.progress, state, must)
        self._progressed()

    def _list_left_out(self) -> None:
        if self.chief:
            checkpoints.write(self.reader, self.model_dir)

    def _finish(self) -> dict:
        """Writes model.tflite and final.json from the weights that evaluation uses."""
        scores: dict[str, Any] = {"top1": None, "top5": None, "loss": None}
        if self.validation:
            scores = self.scores or self._evaluate()
        checkpoints.share(self.reader, self.loop.strategy)
        state = self.loop.state()
        self._part()
        if not self.saver.amended:  # else final.json would stand beside a checkpoint not whole
            self.saver.save(self.progress, state, must=True)
        document = {
            "step": self.step,
            "epoch": round(self.seen / self.examples, 3),
            "examples_seen": self.seen,
            **{name: scores[name] for name in ("top1", "top5", "loss")},
            "weights_sha256": checkpoint.weights_sha256(state),
        }
        if self.options.fine_tune_from:
            document["fine_tuned_from"] = exchange.origin(self.options.fine_tune_from)
        if self.reader.bad is not None:
            document["bad_records"] = len(self.reader.bad)
            self.saver.end()
        if self.chief:
            exchange.write_end(self.model_dir, self.loop.config, state, document)
            LOG.info("Done: %s", document)
            LOG.info("The model is in %s.", self.model_dir)
        if self.signals.came:  # after the last look at it: whatever would follow is not to begin
            raise RunAgain(f"Stopped at the end, step {self.step}, which is saved; run again.")
        return document
