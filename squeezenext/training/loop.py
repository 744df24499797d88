"""The training and evaluation steps, the same on one device, several, or several workers."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from squeezenext import data, layers, models, optimization
from squeezenext.config import Config
from squeezenext.preprocessing import normalize
from squeezenext.reporting.metrics import Evaluation
from squeezenext.training import devices, losses, mixing, phases

REPLICAS = "replicas/statistics"


@dataclasses.dataclass(frozen=True)
class Sums:
    """What a run of training steps adds up to."""

    steps: int
    examples: int
    loss: float
    top1: float
    top5: float

    def __add__(self, other: "Sums") -> "Sums":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Sums(*(a + b for a, b in pairs))

    def means(self) -> dict[str, float]:
        """Returns {"loss": ..., "top1": ..., "top5": ...} an example."""
        count = max(self.examples, 1)
        return {name: getattr(self, name) / count for name in ("loss", "top1", "top5")}


class Scorer:
    """A network on a strategy, and what it makes of each example.

    Args:
      config: `config.model.classes` as it is to be used.
      strategy: see `devices.strategy`.
      precision: a Keras dtype policy.
    """

    def __init__(self, config: Config, strategy: tf.distribute.Strategy, precision: str):
        self.config = config
        self.strategy = strategy
        worker, workers = devices.workers(strategy)
        total = strategy.num_replicas_in_sync
        replicas = total // workers
        self.share = data.Share(worker * replicas, replicas, total)
        with strategy.scope():
            self.model = models.build(config, precision=precision)

    def _network_input(self, images):
        return normalize(tf.cast(images, tf.float32), self.config.images)

    def statistics(self) -> np.ndarray:
        """Returns each replica's moving statistics, [replicas, values] float32.

        All workers must call this together.
        """
        if not layers.statistics(self.model):
            return np.zeros([self.share.total, 0], np.float32)
        return self._gather_statistics().numpy()

    @tf.function
    def _gather_statistics(self):
        def mine():
            values = [tf.convert_to_tensor(v) for v in layers.statistics(self.model)]
            return tf.concat([tf.reshape(value, [1, -1]) for value in values], -1)

        return self.strategy.gather(self.strategy.run(mine), axis=0)

    @tf.function
    def set_statistics(self, rows: tf.Tensor) -> None:
        """Gives each replica its row of [replicas, values] float32."""

        def mine():
            variables = layers.statistics(self.model)
            sizes = [math.prod(variable.shape) for variable in variables]
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            for variable, part in zip(variables, tf.split(rows[number], sizes), strict=True):
                variable.assign(tf.reshape(part, variable.shape))

        self.strategy.run(mine)

    @contextlib.contextmanager
    def _joined_statistics(self) -> Iterator[None]:
        """Lets all replicas score with the mean of their statistics, as every saved file does.

        Training goes on with each replica's own, so it does not depend on when one evaluates.
        """
        rows = self.statistics()
        if (rows == rows[:1]).all():
            yield
            return
        self.set_statistics(np.broadcast_to(_mean(rows), rows.shape))
        try:
            yield
        finally:
            self.set_statistics(rows)

    def evaluate(
        self, reader: data.Reader, batch: int, each_step: Callable[[], None] = lambda: None
    ) -> Evaluation:
        """Scores every example of a split once, with the weights as they are.

        Args:
          reader: of the split.
          batch: images a replica takes at once; the figures do not depend on it.
          each_step: called before each step; what it raises ends the evaluation.
        """
        with self._joined_statistics():
            return self._evaluate(reader, batch, each_step)

    def _evaluate(self, reader, batch, each_step) -> Evaluation:
        steps = 0

        def dataset(_):
            nonlocal steps
            batches, steps = data.evaluation(
                reader, self.config.images, self.config.model.classes, batch=batch, share=self.share
            )
            return batches

        iterator = iter(self.strategy.distribute_datasets_from_function(dataset))
        parts = []
        for _ in range(steps):
            each_step()
            parts.append(self._score(*next(iterator)))
        columns = [np.concatenate([part[i].numpy() for part in parts]) for i in range(7)]
        return Evaluation.of_rows(columns, reader.split.examples)

    @tf.function(reduce_retracing=True)
    def _score(self, images, labels, numbers):
        per_replica = self.strategy.run(self._score_replica, (images, labels, numbers))
        return [self.strategy.gather(value, axis=0) for value in per_replica]

    def _score_replica(self, images, labels, numbers):
        logits = self.model(self._network_input(images), training=False)
        top1, top5 = _hits(labels, logits)
        probabilities = tf.nn.softmax(logits)
        best = tf.argmax(logits, axis=-1)
        return (
            numbers,
            labels,
            losses.cross_entropy(labels, logits, 0.0),
            top1,
            top5,
            best,
            tf.reduce_max(probabilities, axis=-1),
        )


class Loop(Scorer):
    """A network with its optimizer on a strategy.

    Args:
      config: `config.model.classes` and `config.training.batch_size` as they are to be used.
      strategy: see `devices.strategy`.
      precision: a Keras dtype policy.
      examples: in an epoch.
      micro_batch: images a replica takes at once; gradients are accumulated up to the batch.
      seed: of the initial weights and of every random number.
      teacher: what `config.training.distillation` names, see distillation.py.
    """

    def __init__(
        self,
        config: Config,
        *,
        strategy: tf.distribute.Strategy,
        precision: str,
        examples: int,
        micro_batch: int,
        seed: int,
        teacher: losses.Teacher | None = None,
    ):
        keras.utils.set_random_seed(seed)
        super().__init__(config, strategy, precision)
        self.micro_batch = micro_batch
        self.seed = seed
        self.teacher = teacher
        self.jit = False  # whether XLA compiles the pass forward and back, see `measure_jit`
        self.as_evaluated = False  # train without dropout and batch statistics, see retraining.py
        self.passed_over = 0  # examples left out of the order of training, see nan.py
        self.micro_steps = config.training.batch_size // (micro_batch * self.share.total)
        with strategy.scope():
            self.update = optimization.Update(self.model, config.training, examples, precision)
            sizes = set(config.images.progressive) - {config.images.size}
            self._networks = {size: models.resized(self.model, size) for size in sizes}
        self._networks[config.images.size] = self.model
        self.phase = self._phase()

    def _phase(self) -> phases.Phase:
        return phases.phase(self.config, self._seen() // self.update.examples)

    def _seen(self) -> int:
        return int(self.update.examples_seen.numpy())

    @property
    def phase_is_over(self) -> bool:
        """Says whether training goes on with other batches: with those of `batches`, afresh."""
        return self._phase() != self.phase

    def batches(self, reader: data.Reader):
        """Returns an iterator over training's batches from where the run stands."""
        self.phase = self._phase()
        before = (self._seen() - self.config.training.batch_size) // self.update.examples
        if not self.phase.frozen and phases.phase(self.config, before).frozen:
            self.update.forget()  # this is the first step of all weights

        def dataset(_):
            return data.training(
                reader,
                phases.resized(self.config.images, self.phase.size),
                self.config.model.classes,
                seed=self.seed,
                start=int(self.update.examples_seen.numpy()) + self.passed_over,
                micro_batch=self.micro_batch,
                share=self.share,
                echo=self.config.training.echo,
            )

        return iter(self.strategy.distribute_datasets_from_function(dataset))

    def train(self, iterator, steps: int) -> tuple[Sums, bool]:
        """Takes `steps` steps; one whose gradient is not finite changes no weight.

        Returns:
          What the steps add up to, and whether the last was left out with no loss scale to
          blame, which ends the call: the same for all replicas and workers.
        """
        metrics, taken, hopeless = self._train(iterator, tf.constant(steps), self.phase.frozen)
        loss, top1, top5, examples = (float(value) for value in metrics.numpy())
        return Sums(int(taken), round(examples), loss, top1, top5), bool(hopeless)

    @tf.function
    def _train(self, iterator, steps, frozen: bool):
        # In float64 sums of float32 numbers are exact, however the steps fall into calls.
        totals = tf.zeros([optimization.Update.METRICS + 1], tf.float64)
        taken = tf.constant(0)
        hopeless = tf.constant(False)
        batch = tf.constant([self.config.training.batch_size], tf.float32)
        while taken < steps and not hopeless:
            for _ in tf.range(self.micro_steps):
                self.strategy.run(self._pass(), (*next(iterator), frozen))
            gradients, finite, metrics = self.strategy.run(self.update.take)
            hopeless = self.update.apply(self.strategy, gradients, self._first(finite), frozen)
            told = tf.cast(tf.concat([self._first(metrics), batch], 0), tf.float64)
            totals += tf.where(tf.reduce_all(tf.math.is_finite(told)), told, tf.zeros_like(told))
            taken += 1
        return totals, taken, hopeless

    def _pass(self) -> Callable:
        return tf.function(self._backward, jit_compile=True) if self.jit else self._backward

    def measure_jit(self, iterator) -> dict[bool, float]:
        """Times one micro-batch on one device without XLA and with it, and takes the faster.

        Args:
          iterator: one of its own, from `batches`; it is read from.

        Returns:
          Seconds a micro-batch, by whether XLA compiles it; infinite where XLA cannot.
        """
        element = next(iterator)
        state = self.state()
        seconds = {jit: self._time_pass(element, jit) for jit in (False, True)}
        self.restore(state)
        self.update.drop_gathered()
        self.jit = seconds[True] < seconds[False]
        return seconds

    def _time_pass(self, element, jit: bool, repeats: int = 10) -> float:
        compiled = tf.function(self._backward, jit_compile=jit)
        try:
            for repeat in range(repeats + 2):
                if repeat == 2:  # the first builds and compiles, the second finds its memory
                    self.update.gathered_sum()
                    started = time.perf_counter()
                compiled(*element, self.phase.frozen)
            self.update.gathered_sum()  # waits for the device
        except tf.errors.OpError:
            return math.inf
        return (time.perf_counter() - started) / repeats

    def _first(self, value):
        """The value of a tensor that is alike on all replicas."""
        return self.strategy.experimental_local_results(value)[0]

    def _backward(self, images, labels, draws, frozen: bool):
        """One micro-batch's gradients on one replica; 0 for weights that are frozen."""
        training, classes = self.config.training, self.config.model.classes
        pixels, targets = mixing.augmented(images, labels, draws, self.config.images, classes)
        network = self._networks[images.shape[1]]
        weights = self.model.trainable_variables
        learning = [v for v in weights if not frozen or optimization.is_classifier(v)]
        with tf.GradientTape() as tape:
            # Frozen: as in evaluation, so that no statistics move and nothing drops out.
            training_mode = not frozen and not self.as_evaluated
            logits = network(self._network_input(pixels), training=training_mode)
            values = losses.of_targets(targets, logits, training.label_smoothing)
            if self.teacher:
                answers = tf.stop_gradient(self.teacher(pixels))
                values = losses.distilled(values, answers, logits, training.distillation)
            loss = tf.reduce_sum(values) / training.batch_size
            loss *= tf.convert_to_tensor(self.update.loss_scale)
        found = tape.gradient(loss, [v.value for v in learning])
        by_weight = {id(v): gradient for v, gradient in zip(learning, found, strict=True)}
        gradients = [by_weight.get(id(v), tf.zeros(v.shape)) for v in weights]
        hits = [tf.reduce_sum(hit) for hit in _hits(labels, logits)]
        self.update.gather(gradients, [tf.reduce_sum(values), *hits])

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Exchanges the weights with their moving averages, where the recipe keeps any."""
        self._swap_averages()
        try:
            yield
        finally:
            self._swap_averages()

    def _swap_averages(self) -> None:
        for weight, average in self.update.averaged():
            now = weight.numpy()
            weight.assign(average.numpy())
            average.assign(now)

    def state(self) -> dict[str, np.ndarray]:
        """Returns everything that is trained or counted, by stable names.

        Each replica's moving statistics go under `REPLICAS`, their means under the variables'
        names, which is what every reader but `restore` takes. On several workers all must call
        this together. Nothing is written back, so that a run does not depend on when it was saved.
        """
        named = model_variables(self.model) | self.update.state()
        rows = self.statistics()
        means = self._by_name(_mean(rows))
        state = {
            name: means[name] if name in means else variable.numpy()
            for name, variable in named.items()
        }
        return state | ({REPLICAS: rows} if len(rows) > 1 and rows.size else {})

    def _by_name(self, row: np.ndarray) -> dict[str, np.ndarray]:
        """Cuts one replica's statistics up, by the variables' names."""
        names = {id(variable): name for name, variable in model_variables(self.model).items()}
        variables = layers.statistics(self.model)
        ends = np.cumsum([math.prod(variable.shape) for variable in variables])[:-1]
        parts = zip(variables, np.split(row, ends), strict=True) if variables else ()
        return {names[id(v)]: part.reshape(v.shape) for v, part in parts}

    def restore(self, state: dict[str, np.ndarray]) -> bool:
        """Takes up what `state` returned.

        Returns:
          Whether the run is the same bit for bit: on another number of replicas each begins with
          the mean of their statistics.

        Raises:
          KeyError or ValueError: it is of another network or recipe.
        """
        for name, variable in (model_variables(self.model) | self.update.state()).items():
            variable.assign(state[name])
        if not layers.statistics(self.model):
            return True
        rows = state.get(REPLICAS)
        own = 1 if rows is None else len(rows)
        if own == self.share.total > 1:
            self.set_statistics(rows)
        return own == self.share.total


def _mean(rows: np.ndarray) -> np.ndarray:
    """The mean over replicas in float64: that of equal rows is the row, to the last bit."""
    return rows.mean(0, dtype=np.float64).astype(np.float32)


def model_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns every variable of a network by "model/layer/variable"."""
    return {
        f"model/{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.variables
    }


def _hits(labels: tf.Tensor, logits: tf.Tensor) -> list[tf.Tensor]:
    """Returns top-1 and top-5 hits, [batch] float32 each.

    Of equal logits the lower class comes first, as in prediction; in_top_k would count all.
    """
    best = tf.math.top_k(logits, min(5, logits.shape[-1])).indices
    hits = tf.cast(tf.cast(best, labels.dtype) == labels[:, tf.newaxis], tf.float32)
    return [hits[:, 0], tf.reduce_sum(hits, -1)]
