"""The training and evaluation steps, the same on one device, several, or several workers."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from squeezenext import data, devices, layers, models, optimization
from squeezenext.config import Config
from squeezenext.metrics import Evaluation
from squeezenext.preprocessing import normalize


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

    def evaluate(self, reader: data.Reader, batch: int) -> Evaluation:
        """Scores every example of a split once, with the weights as they are.

        Args:
          reader: of the split.
          batch: images a replica takes at once; the figures do not depend on it.
        """
        layers.synchronize_statistics(self.model)
        steps = 0

        def dataset(_):
            nonlocal steps
            batches, steps = data.evaluation(
                reader, self.config.images, self.config.model.classes, batch=batch, share=self.share
            )
            return batches

        iterator = iter(self.strategy.distribute_datasets_from_function(dataset))
        parts = [self._score(*next(iterator)) for _ in range(steps)]
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
            cross_entropy(labels, logits, 0.0),
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
    ):
        keras.utils.set_random_seed(seed)
        super().__init__(config, strategy, precision)
        self.micro_batch = micro_batch
        self.seed = seed
        self.micro_steps = config.training.batch_size // (micro_batch * self.share.total)
        with strategy.scope():
            self.update = optimization.Update(self.model, config.training, examples, precision)

    def batches(self, reader: data.Reader):
        """Returns an iterator over training's batches from where the run stands."""

        def dataset(_):
            return data.training(
                reader,
                self.config.images,
                self.config.model.classes,
                seed=self.seed,
                start=int(self.update.examples_seen.numpy()),
                micro_batch=self.micro_batch,
                share=self.share,
            )

        return iter(self.strategy.distribute_datasets_from_function(dataset))

    def train(self, iterator, steps: int) -> Sums:
        """Takes `steps` steps; a step whose gradient is not finite changes no weight."""
        metrics = self._train(iterator, tf.constant(steps)).numpy()
        examples = steps * self.config.training.batch_size
        return Sums(steps, examples, *(float(value) for value in metrics))

    @tf.function
    def _train(self, iterator, steps):
        totals = tf.zeros([optimization.Update.METRICS])
        for _ in tf.range(steps):
            for _ in tf.range(self.micro_steps):
                images, labels = next(iterator)
                self.strategy.run(self._backward, (images, labels))
            gradients, finite, metrics = self.strategy.run(self.update.take)
            self.update.apply(self.strategy, gradients, self._first(finite))
            totals += self._first(metrics)
        return totals

    def _first(self, value):
        """The value of a tensor that is alike on all replicas."""
        return self.strategy.experimental_local_results(value)[0]

    def _backward(self, images, labels):
        """One micro-batch's gradients on one replica."""
        training = self.config.training
        with tf.GradientTape() as tape:
            logits = self.model(self._network_input(images), training=True)
            losses = cross_entropy(labels, logits, training.label_smoothing)
            loss = tf.reduce_sum(losses) / training.batch_size
            loss *= tf.convert_to_tensor(self.update.loss_scale)
        gradients = tape.gradient(loss, [v.value for v in self.model.trainable_variables])
        hits = [tf.reduce_sum(hit) for hit in _hits(labels, logits)]
        self.update.gather(gradients, [tf.reduce_sum(losses), *hits])

    def swap_averages(self) -> None:
        """Exchanges the weights with their moving averages, where the recipe keeps any."""
        for weight, average in zip(self.update.weights, self.update.averages, strict=False):
            now = weight.numpy()
            weight.assign(average.numpy())
            average.assign(now)

    def state(self) -> dict[str, np.ndarray]:
        """Returns everything that is trained or counted, by stable names.

        On several workers all must call this together: a read averages the statistics. Nothing
        is written back, so that a run does not depend on when it was saved.
        """
        named = model_variables(self.model) | self.update.state()
        return {name: variable.numpy() for name, variable in named.items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes up what `state` returned.

        Raises:
          KeyError or ValueError: it is of another network or recipe.
        """
        for name, variable in (model_variables(self.model) | self.update.state()).items():
            variable.assign(state[name])


def model_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns every variable of a network by "model/layer/variable"."""
    return {
        f"model/{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.variables
    }


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Returns the loss of each example, [batch] float32, its target smoothed over all classes."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if not smoothing:
        return losses
    uniform = tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1)
    return (1.0 - smoothing) * losses + smoothing * uniform


def _hits(labels: tf.Tensor, logits: tf.Tensor) -> list[tf.Tensor]:
    """Returns top-1 and top-5 hits, [batch] float32 each.

    Of equal logits the lower class comes first, as in prediction; in_top_k would count all.
    """
    best = tf.math.top_k(logits, min(5, logits.shape[-1])).indices
    hits = tf.cast(tf.cast(best, labels.dtype) == labels[:, tf.newaxis], tf.float32)
    return [hits[:, 0], tf.reduce_sum(hits, -1)]
