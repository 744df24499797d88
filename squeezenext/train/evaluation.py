"""Evaluation on one device, several, or several workers: every example is scored once.

Batch norm's moving statistics belong here, too: each replica trains with its own, and evaluation
and every saved file use their mean.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from squeezenext.config import Config
from squeezenext.images.geometry import normalize
from squeezenext.metrics import Evaluation
from squeezenext.network import keras_model, layers
from squeezenext.network.fusing import fused
from squeezenext.network.keras_model import model_variables
from squeezenext.records import batches as records_batches
from squeezenext.records.reader import Reader
from squeezenext.train import devices
from squeezenext.train.vector import Vector

REPLICAS = "replicas/statistics"  # in a checkpoint: moving statistics, a row for each replica


class MovingStatistics:
    """Batch norm's moving statistics on all replicas; build the model under the strategy's scope.

    Replicas never average them while they train, so that a run does not depend on when it is
    evaluated or saved.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self._layers = layers.norms(model)
        variables = [
            variable
            for layer in self._layers
            for variable in (layer.moving_mean, layer.moving_variance, layer.scale_factor)
        ]
        with strategy.scope():
            self.vector = Vector(variables, "statistics")
        names = {id(variable): name for name, variable in model_variables(model).items()}
        self.names = [names[id(variable)] for variable in variables]

    def load(self) -> None:
        """Reads this replica's statistics into the vector, which `move` changes."""
        self.vector.load()

    def store(self) -> None:
        """Gives the layers this replica's statistics from the vector."""
        parts = self.vector.split(tf.convert_to_tensor(self.vector.values))
        for variable, part in zip(self.vector.variables, parts, strict=True):
            variable.assign(part)

    def of_batch(self, found: dict[int, tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
        """Returns the vector of a batch's statistics, see `layers.Pass`; 1 for a scale factor."""
        moments = [(*found[id(layer)], tf.ones([])) for layer in self._layers]
        return self.vector.join([value for three in moments for value in three])

    def move(self, batch: tf.Tensor, active: tf.Tensor) -> None:
        """Adds a batch to this replica's statistics, or skips it if it is not finite.

        After it, each mean is the exponentially weighted one of all batches so far; see
        `layers.BatchNorm`, whose own formula this is.
        """
        if not self._layers:
            return
        before = tf.convert_to_tensor(self.vector.values)
        momenta = np.repeat(np.float32([layer.momentum for layer in self._layers]), 3)
        totals = tf.gather(before, self._factors) * np.repeat(momenta, self.vector.sizes) + 1.0
        moved = tf.where(self._is_factor, totals, layers.weighted_mean(before, batch, totals))
        changed = active & tf.reduce_all(tf.math.is_finite(batch))
        self.vector.values.assign(tf.where(changed, moved, before))

    @property
    def _is_factor(self) -> np.ndarray:
        """A mask of the values that are scale factors, [values] bool."""
        return np.repeat(np.arange(len(self.vector.sizes)) % 3 == 2, self.vector.sizes)

    @property
    def _factors(self) -> np.ndarray:
        """The place of each value's own scale factor, [values] int32."""
        ends = np.cumsum(self.vector.sizes)
        return np.repeat(np.repeat(ends[2::3] - 1, 3), self.vector.sizes).astype(np.int32)

    def rows(self) -> np.ndarray:
        """Returns a row for each replica, [replicas, values] float32; a collective."""
        if not self._layers:
            return np.zeros([self._strategy.num_replicas_in_sync, 0], np.float32)
        return self._gather().numpy()

    @tf.function
    def _gather(self):
        def row():
            self.load()
            return tf.convert_to_tensor(self.vector.values)[tf.newaxis]

        return self._strategy.gather(self._strategy.run(row), axis=0)

    @tf.function
    def assign(self, rows: tf.Tensor) -> None:
        """Gives each replica its row of [replicas, values] float32."""

        def assign_row():
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            self.vector.values.assign(rows[number])
            self.store()

        self._strategy.run(assign_row)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Gives all replicas the mean of their statistics inside the block."""
        rows = self.rows()
        if (rows == rows[:1]).all():
            yield
            return
        self.assign(np.broadcast_to(mean(rows), rows.shape))
        try:
            yield
        finally:
            self.assign(rows)

    def by_name(self, row: np.ndarray) -> dict[str, np.ndarray]:
        """Splits one row into the variables' values, by name."""
        return dict(zip(self.names, self.vector.arrays(row), strict=True))


def mean(rows: np.ndarray) -> np.ndarray:
    """Averages over replicas in float64, so that equal rows average to exactly themselves."""
    return rows.mean(0, dtype=np.float64).astype(np.float32)


class BatchCounter:
    """Counts micro-batches of one iterator: an old one may still be prefetching."""

    def __init__(self):
        self.count = 0

    def counting(self, *element):
        """Passes an element of a dataset on and counts it."""

        def add() -> np.int64:
            self.count += 1
            return np.int64(self.count)

        tf.numpy_function(add, [], tf.int64)
        return element


class Evaluator:
    """A network on a strategy that is evaluated on whole splits; arguments as in `loop.Loop`.

    Its precision decides about TF32 for the whole process.

    Attributes:
      model: the network; assign its weights before `evaluate`.
      statistics: batch norm's moving statistics.
      share: this worker's replicas.
      delivered: counter of the validation micro-batches, on several workers.
    """

    def __init__(
        self, config: Config, strategy: tf.distribute.Strategy, precision: str, seed: int = 0
    ):
        self.config = config
        self.strategy = strategy
        self.share = devices.worker_share(strategy)
        # By default TensorFlow takes TF32 on GPUs from 8.0 on: 10 bits of a factor's fraction.
        tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
        with strategy.scope():
            self.model = keras_model.build_model(config, precision=precision, seed=seed)
        self.statistics = MovingStatistics(self.model, strategy)
        self.delivered = BatchCounter()
        self._batches_of: dict[tuple[Reader, int], tuple[Iterable, int]] = {}
        self._normalized = fused(
            lambda pixels: normalize(tf.cast(pixels, tf.float32), config.images)
        )

    def state(self) -> dict[str, np.ndarray]:
        """Returns the network's variables by name; a collective.

        Moving statistics are there twice: their mean under the variables' names, for every reader,
        and each replica's own under `REPLICAS`, for `assign`, if there are several.
        """
        rows = self.statistics.rows()
        means = self.statistics.by_name(mean(rows))
        variables = model_variables(self.model).items()
        state = {n: means[n] if n in means else v.numpy() for n, v in variables}
        return state | ({REPLICAS: rows} if len(rows) > 1 and rows.size else {})

    def assign(self, state: Mapping[str, np.ndarray], rows: np.ndarray | None) -> None:
        """Gives the network its variables by name, and each replica its row of the statistics."""
        for name, variable in model_variables(self.model).items():
            variable.assign(state[name])
        if rows is not None and len(rows) == self.share.total:
            self.statistics.assign(rows)

    def evaluate(
        self,
        reader: Reader,
        batch: int,
        before_step: Callable[[], None] = lambda: None,
        keep_logits: bool = False,
    ) -> Evaluation:
        """Scores every example of a split once, with the weights as they are.

        Args:
          reader: the split's reader.
          batch: images a replica takes at once; the result does not depend on it.
          before_step: called before each step; its exceptions end the evaluation.
          keep_logits: return each example's logits, too.
        """
        if (reader, batch) not in self._batches_of:
            self._batches_of[reader, batch] = self._batches(reader, batch)
        batches, steps = self._batches_of[reader, batch]
        parts = []
        with self.statistics.averaged():
            for element in itertools.islice(batches, steps):
                before_step()
                parts.append(self._score(*element, keep_logits))
        columns = zip(*parts, strict=True)
        rows = [np.concatenate([part.numpy() for part in column]) for column in columns]
        return Evaluation.of_rows(rows, reader.split.examples)

    def _batches(self, reader: Reader, batch: int) -> tuple[Iterable, int]:
        """Returns the batches that `evaluate` takes, and their number.

        Made once for a reader: their graphs refer to themselves in circles, which Python collects
        so seldom beside TensorFlow's millions of objects that memory grew by 0.8 MB an evaluation
        (scripts/faults/soak_train.py).
        """
        steps = 0
        alone = self.share.replicas == self.share.total

        def dataset(_):
            nonlocal steps
            batches, steps = records_batches.evaluation(
                reader, self.config.images, self.config.model.classes, batch=batch, share=self.share
            )
            return batches if alone else batches.map(self.delivered.counting)

        return self.strategy.distribute_datasets_from_function(dataset), steps

    @tf.function(reduce_retracing=True)
    def _score(self, images, labels, numbers, keep_logits: bool):
        inputs = (images, labels, numbers, keep_logits)
        per_replica = self.strategy.run(self._score_replica, inputs)
        return [self.strategy.gather(value, axis=0) for value in per_replica]

    def _score_replica(self, images, labels, numbers, keep_logits: bool):
        """Returns the columns of `Evaluation`, [batch, ...] each, after the record numbers."""
        logits = self.model(self._normalized(images), training=False)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        best = tf.argmax(logits, axis=-1)
        probability = tf.reduce_max(tf.nn.softmax(logits), axis=-1)
        columns = (numbers, labels, loss, *hits(labels, logits), best, probability)
        return (*columns, logits) if keep_logits else columns


def hits(labels: tf.Tensor, logits: tf.Tensor) -> list[tf.Tensor]:
    """Returns top-1 and top-5 hits, [batch] float32 each.

    Among equal logits the lower class comes first, as in prediction; in_top_k would count all.
    """
    best = tf.math.top_k(logits, min(5, logits.shape[-1])).indices
    hits = tf.cast(tf.cast(best, labels.dtype) == labels[:, tf.newaxis], tf.float32)
    return [hits[:, 0], tf.reduce_sum(hits, -1)]
