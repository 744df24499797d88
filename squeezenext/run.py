"""One run from where it stands to its last epoch: epochs, checkpoints, evaluation, signals."""

import json
import platform
import signal
import threading
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from squeezenext import checkpoint, config_io, data, devices, model_directory, models
from squeezenext.errors import InputError, RunAgain
from squeezenext.history import LOG, History, ProgressBar
from squeezenext.loop import Loop, Sums
from squeezenext.optimization import learning_rate

CALL_SECONDS = 2.0  # between looks at the clock and at signals


class Run:
    """Trains `loop` in `model_dir`. Only the chief writes; all workers call all methods."""

    def __init__(
        self,
        loop: Loop,
        reader: data.Reader,
        validation: data.Reader | None,
        model_dir: Path,
        *,
        chief: bool,
        checkpoint_minutes: float,
        keep_checkpoints: int,
        evaluate_every_epochs: int,
    ):
        self.loop = loop
        self.reader = reader
        self.validation = validation
        self.model_dir = model_dir
        self.chief = chief
        self.checkpoint_seconds = 60 * checkpoint_minutes
        self.keep = keep_checkpoints
        self.evaluate_every = evaluate_every_epochs
        training = loop.config.training
        self.examples = reader.split.examples
        self.total_steps = max(1, round(training.epochs * self.examples / training.batch_size))
        self.epoch_sums = Sums(0, 0, 0.0, 0.0, 0.0)
        self.epoch_seconds = 0.0
        self.best: dict | None = None
        self.stopping = False
        self.started = False
        self.history: History | None = None

    @property
    def step(self) -> int:
        return int(self.loop.update.step.numpy())

    def resume(self) -> bool:
        """Takes up the newest whole checkpoint; says whether there was one.

        Raises:
          InputError: none is whole, or it is of another network or recipe.
        """
        found = checkpoint.newest(self.model_dir / "checkpoints", LOG.info)
        if found is None:
            return False
        state, meta = found
        if "seed" not in meta:
            raise InputError(
                f"{self.model_dir} holds imported weights; give --fine_tune_from {self.model_dir} "
                "and another --model_dir."
            )
        self._check_recipe(meta["config"])
        if meta["seed"] != self.loop.seed or meta["examples"] != self.examples:
            raise InputError(
                f"{self.model_dir} holds a run with seed {meta['seed']} on {meta['examples']} "
                f"images, not {self.loop.seed} on {self.examples}; choose another directory."
            )
        try:
            self.loop.restore(state)
        except (KeyError, ValueError) as error:
            raise InputError(
                f"The checkpoint in {self.model_dir} is of another recipe ({error}); choose "
                "another directory."
            ) from error
        self.epoch_sums = Sums(**meta["epoch_sums"])
        self.epoch_seconds = meta["epoch_seconds"]
        self.best = meta["best"]
        LOG.info("Resuming at step %d of %d.", self.step, self.total_steps)
        return True

    def _check_recipe(self, before: dict) -> None:
        """Refuses to go on with another network, images or recipe; more epochs are welcome."""
        now = json.loads(config_io.to_json(self.loop.config))
        for group, fields in now.items():
            for field, value in fields.items():
                old = before[group].get(field)
                if (group, field) != ("training", "epochs") and value != old:
                    raise InputError(
                        f"{self.model_dir} holds a run with {group}.{field} = {old}, not {value}; "
                        "choose another --model_dir."
                    )

    def run(self) -> dict:
        """Trains to the end and returns what final.json holds.

        Raises:
          RunAgain: a signal came; the run is saved.
          FloatingPointError: the loss is not finite; no weight has been harmed.
        """
        handlers = {kind: signal.signal(kind, self._stop) for kind in _signals()}
        try:
            if self.chief:
                self.history = History(self.model_dir, self.step)
                self._forget_the_end()
                self._show_input()
            self._epochs()
            return self._finish()
        finally:
            for kind, handler in handlers.items():
                signal.signal(kind, handler)
            if self.history:
                self.history.close()

    def _forget_the_end(self) -> None:
        """A run that goes on takes away what an earlier end left: it is no longer its result."""
        if self.step < self.total_steps:
            for name in ("final.json", "model.tflite"):
                (self.model_dir / name).unlink(missing_ok=True)

    def _stop(self, number, frame) -> None:
        """The first signal ends the run after the present call; the second at once."""
        del frame
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        LOG.info("%s: saving, then leaving.", signal.Signals(number).name)

    def _epochs(self) -> None:
        iterator = self.loop.batches(self.reader)
        saved = time.monotonic()
        call_steps = 1
        with ProgressBar(self.total_steps, self.step) as bar:
            while self.step < self.total_steps:
                before, end = self.step, self._epoch_end()
                call_steps = self._call(iterator, min(call_steps, end - before), bar)
                stop, save, call_steps = self._agree(
                    self.stopping, time.monotonic() - saved >= self.checkpoint_seconds, call_steps
                )
                if self.step == end:
                    self._end_epoch()
                if stop or save or self.step == end:
                    self._save()
                    saved = time.monotonic()
                if stop and self.step < self.total_steps:
                    raise RunAgain(f"Stopped and saved at step {self.step}; run again to go on.")

    def _epoch_end(self) -> int:
        """The step at which the present epoch's last example has been seen."""
        batch = self.loop.config.training.batch_size
        seen = int(self.loop.update.examples_seen.numpy())
        epoch = seen // self.examples
        left = (epoch + 1) * self.examples - seen
        return min(self.step - (-left // batch), self.total_steps)

    def _call(self, iterator, steps: int, bar: ProgressBar) -> int:
        """Takes `steps` steps and returns how many would fill `CALL_SECONDS`."""
        skipped = int(self.loop.update.skipped.numpy())
        started = time.monotonic()
        sums = self.loop.train(iterator, steps)
        seconds = time.monotonic() - started
        self.epoch_sums += sums
        self.epoch_seconds += seconds
        self._check_finite(skipped)
        rate = sums.examples / seconds
        if not self.started:
            LOG.info("First call, graph building included: %.1f s.", seconds)
            self.started = True
        seen = int(self.loop.update.examples_seen.numpy())
        loss = sums.means()["loss"]
        if self.history:
            self.history.point(self.step, train__batch_loss=loss, train__images_per_second=rate)
        bar.update(self.step, seen / self.examples, rate, loss)
        return max(1, min(int(steps * CALL_SECONDS / seconds), 2 * steps, 1000))

    def _check_finite(self, skipped_before: int) -> None:
        skipped = int(self.loop.update.skipped.numpy()) - skipped_before
        # A loss scale that has fallen to 1 cannot be what is at fault.
        at_bottom = self.loop.update.loss_scale.numpy() <= 1.0
        if skipped and at_bottom:
            last = checkpoint.steps(self.model_dir / "checkpoints")
            raise FloatingPointError(
                f"The gradient was not finite in {skipped} steps before step {self.step}; the "
                f"weights are unharmed, the last checkpoint is step {last[-1] if last else 'none'}."
                " Lower training.learning_rate or choose --precision float32."
            )

    def _agree(self, stop: bool, save: bool, steps: int) -> tuple[bool, bool, int]:
        """Makes all workers stop, save and step alike: each has its own clock and signals."""
        strategy = self.loop.strategy
        if devices.workers(strategy)[1] == 1:
            return stop, save, steps
        mine = tf.constant([float(stop), float(save), float(steps)])
        shared = strategy.experimental_distribute_values_from_function(lambda _: mine)
        total = strategy.reduce(tf.distribute.ReduceOp.SUM, shared, axis=None).numpy()
        count = strategy.num_replicas_in_sync
        return total[0] > 0, total[1] > 0, max(1, int(total[2] // count))

    def _end_epoch(self) -> None:
        """Evaluates, logs and remembers the epoch that has just ended."""
        seen = int(self.loop.update.examples_seen.numpy())
        epoch = round(seen / self.examples, 3)
        means = self.epoch_sums.means()
        rate = float(learning_rate(self.loop.config.training, tf.constant(seen), self.examples))
        last = self.step == self.total_steps
        due = self.evaluate_every and round(epoch) % self.evaluate_every == 0
        scores = self._evaluate() if self.validation and (due or last) else None
        if scores and (not self.best or scores["top1"] > self.best["top1"]):
            self.best = {"step": self.step, "top1": scores["top1"]}
        if self.history:
            self._record(epoch, seen, means, rate, scores)
        self.epoch_sums = Sums(0, 0, 0.0, 0.0, 0.0)
        self.epoch_seconds = 0.0

    def _evaluate(self) -> dict:
        """Scores the validation split with the moving averages, where the recipe keeps any."""
        self.loop.swap_averages()
        result = self.loop.evaluate(self.validation, self.loop.micro_batch)
        self.loop.swap_averages()
        if self.history:
            self.history.histogram("validation/predicted_labels", result.predicted, self.step)
            self.history.histogram("validation/labels", result.labels, self.step)
        return result.summary()

    def _record(self, epoch, seen, means, rate, scores) -> None:
        speed = self.epoch_sums.examples / max(self.epoch_seconds, 1e-9)
        validation = {f"validation_{k}": v for k, v in (scores or {}).items() if k != "examples"}
        self.history.row(
            epoch=epoch,
            step=self.step,
            examples_seen=seen,
            learning_rate=rate,
            images_per_second=round(speed, 1),
            seconds=round(self.epoch_seconds, 1),
            **means,
            **validation,
        )
        curves = {f"train__{name}": value for name, value in means.items()}
        curves |= {name.replace("_", "__", 1): value for name, value in validation.items()}
        self.history.point(self.step, learning_rate=rate, **curves)
        after = "".join(f", {k.replace('_', ' ')}={v:.4f}" for k, v in validation.items())
        LOG.info(
            "epoch=%g, step=%d, loss=%.4f, top1=%.4f, top5=%.4f%s, lr=%.5g, %.0f images/s",
            *(epoch, self.step, means["loss"], means["top1"], means["top5"], after, rate, speed),
        )

    def _save(self) -> None:
        state = self.loop.state()
        if not self.chief:
            return
        meta = {
            "epoch": int(self.loop.update.examples_seen.numpy()) / self.examples,
            "examples_seen": int(self.loop.update.examples_seen.numpy()),
            "examples": self.examples,
            "seed": self.loop.seed,
            "config": json.loads(config_io.to_json(self.loop.config)),
            "epoch_sums": vars(self.epoch_sums),
            "epoch_seconds": self.epoch_seconds,
            "best": self.best,
            "replicas": self.loop.strategy.num_replicas_in_sync,
            "versions": _versions(),
        }
        directory = self.model_dir / "checkpoints"
        checkpoint.save(directory, self.step, state, meta)
        checkpoint.prune(directory, self.keep, self.best and self.best["step"], self.step)
        self.history.commit()

    def _finish(self) -> dict:
        """Writes model.tflite and final.json from the weights that evaluation uses."""
        state = self.loop.state()
        scores: dict = {"top1": None, "top5": None, "loss": None}
        if self.validation:
            scores = self._evaluate()
        seen = int(self.loop.update.examples_seen.numpy())
        document = {
            "step": self.step,
            "epoch": round(seen / self.examples, 3),
            "examples_seen": seen,
            **{name: scores[name] for name in ("top1", "top5", "loss")},
            "weights_sha256": checkpoint.weights_sha256(state),
        }
        if self.reader.bad is not None:
            document["bad_records"] = len(self.reader.bad)
        if self.chief:
            config = self.loop.config
            evaluated = model_directory.evaluated(state, config)
            with tf.device("CPU:0"):  # a GPU's reduced precision is no reference for the file
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
        pixels, labels = next(iter(shown))
        self.history.images("train/images", pixels.numpy(), 0)
        self.history.histogram("train/labels", labels.numpy(), 0)
        with tf.device("CPU:0"):
            self.history.graph(models.inference(models.build(config)))


def _signals() -> tuple[signal.Signals, ...]:
    """Python lets only the main thread handle signals."""
    main = threading.current_thread() is threading.main_thread()
    return (signal.SIGTERM, signal.SIGINT) if main else ()


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
