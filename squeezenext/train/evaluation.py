"""The evaluation step, the same on one device, several, or several workers."""

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from squeezenext.config import Config
from squeezenext.images.geometry import normalize
from squeezenext.metrics import Evaluation
from squeezenext.network import keras_model
from squeezenext.network.fusing import fused
from squeezenext.records import batches as records_batches
from squeezenext.records.reader import Reader
from squeezenext.train import devices, losses
from squeezenext.train.moving_statistics import MovingStatistics


class Deliveries:
    """Counts the micro-batches that an input delivers; its own where an older one still reads."""

    def __init__(self):
        self.count = 0

    def count_in(self, *element):
        """Passes an element of a dataset on, counted."""

        def add() -> np.int64:
            self.count += 1
            return np.int64(self.count)

        tf.numpy_function(add, [], tf.int64)
        return element


class Scorer:
    """A network on a strategy, and what it makes of each example.

    Args:
      config: `config.model.classes` as it is to be used.
      strategy: see `devices.strategy`.
      precision: a Keras dtype policy.
      seed: of Dropout's masks.
    """

    def __init__(
        self, config: Config, strategy: tf.distribute.Strategy, precision: str, seed: int = 0
    ):
        self.config = config
        self.precision = precision
        self.strategy = strategy
        worker, workers = devices.workers(strategy)
        total = strategy.num_replicas_in_sync
        replicas = total // workers
        self.share = records_batches.Share(worker * replicas, replicas, total)
        with strategy.scope():
            self.model = keras_model.build(config, precision=precision, seed=seed)
        self.statistics = MovingStatistics(self.model, strategy)
        self._scored = Deliveries()
        self._batches_of: dict[tuple[Reader, int], tuple[Iterable, int]] = {}
        self._normalized = fused(
            lambda pixels: normalize(tf.cast(pixels, tf.float32), config.images)
        )

    @property
    def _alone(self) -> bool:
        return self.share.replicas == self.share.total

    def evaluate(
        self, reader: Reader, batch: int, each_step: Callable[[], None] = lambda: None
    ) -> Evaluation:
        """Scores every example of a split once, with the weights as they are.

        Args:
          reader: of the split.
          batch: images a replica takes at once; the figures do not depend on it.
          each_step: called before each step; what it raises ends the evaluation.
        """
        with self.statistics.joined():
            return self._evaluate(reader, batch, each_step)

    def _evaluate(self, reader, batch, each_step) -> Evaluation:
        if (reader, batch) not in self._batches_of:
            self._batches_of[reader, batch] = self._batches(reader, batch)
        batches, steps = self._batches_of[reader, batch]
        iterator = iter(batches)
        parts = []
        for _ in range(steps):
            each_step()
            parts.append(self._score(*next(iterator)))
        columns = [np.concatenate([part[i].numpy() for part in parts]) for i in range(7)]
        return Evaluation.of_rows(columns, reader.split.examples)

    def _batches(self, reader: Reader, batch: int) -> tuple[Iterable, int]:
        """Returns the batches that `evaluate` takes, and their number.

        Made once for a reader: their graphs refer to themselves in circles, which Python collects
        so seldom beside TensorFlow's millions of objects that memory grew by 0.8 MB an evaluation
        (scripts/faults/soak_train.py).
        """
        steps = 0

        def dataset(_):
            nonlocal steps
            batches, steps = records_batches.evaluation(
                reader, self.config.images, self.config.model.classes, batch=batch, share=self.share
            )
            return batches if self._alone else batches.map(self._scored.count_in)

        return self.strategy.distribute_datasets_from_function(dataset), steps

    @tf.function(reduce_retracing=True)
    def _score(self, images, labels, numbers):
        per_replica = self.strategy.run(self._score_replica, (images, labels, numbers))
        return [self.strategy.gather(value, axis=0) for value in per_replica]

    def _score_replica(self, images, labels, numbers):
        logits = self.model(self._normalized(images), training=False)
        loss = losses.cross_entropy(labels, logits, 0.0)
        best = tf.argmax(logits, axis=-1)
        return numbers, labels, loss, *hits(labels, logits), best, self._told(logits)

    def _told(self, logits):
        """What is kept of each example's logits: the first class' probability."""
        return tf.reduce_max(tf.nn.softmax(logits), axis=-1)


def hits(labels: tf.Tensor, logits: tf.Tensor) -> list[tf.Tensor]:
    """Returns top-1 and top-5 hits, [batch] float32 each.

    Of equal logits the lower class comes first, as in prediction; in_top_k would count all.
    """
    best = tf.math.top_k(logits, min(5, logits.shape[-1])).indices
    hits = tf.cast(tf.cast(best, labels.dtype) == labels[:, tf.newaxis], tf.float32)
    return [hits[:, 0], tf.reduce_sum(hits, -1)]
