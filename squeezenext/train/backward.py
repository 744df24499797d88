"""The forward and backward pass of one micro-batch, as a function of tensors alone.

It reads no variable and assigns none: weights and statistics come in as vectors, the gradient and
the batch's statistics go out. So all replicas share one graph, however many there are, and XLA can
compile it on each of them (a function that holds one replica's variables fails on the others:
keras#19005).
"""

import functools
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from squeezenext.config import Config
from squeezenext.images import augment
from squeezenext.images.geometry import normalize
from squeezenext.network import layers
from squeezenext.network.fusing import fused
from squeezenext.train import evaluation, losses
from squeezenext.train.evaluation import MovingStatistics
from squeezenext.train.optimizers import is_classifier
from squeezenext.train.vector import Vector


class Backward:
    """The pass of a network in training.

    Args:
      config: the configuration.
      networks: the network for each size of image; all have the same variables.
      weights: vector of the trained variables.
      statistics: batch norm's.
      replicas: number of replicas, those of other workers included.
      teacher: the network to learn from, see `losses.teacher`.
      class_weights: [classes] float32, weights of the classes in the loss; None: all are 1.
      batch_statistics: False computes as in evaluation.
    """

    def __init__(
        self,
        config: Config,
        networks: Mapping[int, keras.Model],
        weights: Vector,
        statistics: MovingStatistics,
        replicas: int,
        teacher: losses.Teacher | None,
        class_weights: np.ndarray | None,
        batch_statistics: bool,
    ):
        self._config, self._networks = config, networks
        self._weights, self._statistics = weights, statistics
        self._teacher, self._class_weights = teacher, class_weights
        self._batch_statistics = batch_statistics
        self._dropouts = layers.dropouts(networks[config.images.size])
        # A teacher has variables, and synchronised statistics are a collective.
        together = config.training.synchronized_batch_norm and replicas > 1
        self.shared = teacher is None and not together
        self._graphs: dict[tuple, Callable] = {}

    def prepare(self, size: int, micro_batch: int, frozen: bool, xla: bool) -> None:
        """Builds the graph that `run` calls; outside any replica and any other graph."""
        if not self.shared or (size, frozen, xla) in self._graphs:
            return
        spec = tf.TensorSpec
        numbers = augment.slices(self._config.images.augmentation)[-1].stop
        function = functools.partial(self.compute, frozen)
        self._graphs[size, frozen, xla] = tf.function(
            function, jit_compile=xla
        ).get_concrete_function(
            spec(self._weights.values.shape),
            spec(self._statistics.vector.values.shape),
            [spec([], tf.int64) for _ in self._dropouts],
            spec([]),
            spec([], tf.int32),
            spec([micro_batch, size, size, 3], tf.uint8),
            spec([micro_batch], tf.int64),
            spec([micro_batch, numbers]),
        )

    def run(self, scale, images, labels, numbers, active, frozen: bool, xla: bool):
        """Computes a micro-batch and moves the statistics; call in a replica.

        Args:
          scale: factor of the loss, scalar float32.
          images: [micro_batch, size, size, 3] uint8 RGB.
          labels: [micro_batch] int64.
          numbers: [micro_batch, ...] float32, random numbers for augmentation.
          active: scalar bool; False moves no statistics.
          frozen: the classifier alone learns; other weights get gradients of 0.
          xla: take the graph that XLA has compiled.

        Returns:
          The gradient of all weights, [weights] float32, and the sums of loss, top-1 and top-5
          hits, [3] float32.
        """
        inputs = self.inputs(scale, images, labels, numbers)
        if self.shared:
            compute = self._graphs[images.shape[1], frozen, xla]
        else:
            compute = functools.partial(self.compute, frozen)
            compute = tf.function(compute, jit_compile=True) if xla else compute
        gradient, metrics, batch, calls = compute(*inputs)
        if self._batch_statistics and not frozen:
            self._statistics.move(batch, active)
            for layer, before, after in zip(self._dropouts, inputs[2], calls, strict=True):
                layer.calls.assign(tf.where(active, after, before))
        return gradient, metrics

    def inputs(self, scale, images, labels, numbers) -> list:
        """Returns the inputs of `compute` after `frozen`; arguments as of `run`."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        state = [self._weights.values, self._statistics.vector.values]
        calls = [tf.convert_to_tensor(layer.calls) for layer in self._dropouts]
        inputs = [*map(tf.convert_to_tensor, state), calls, tf.convert_to_tensor(scale)]
        return [*inputs, tf.cast(replica, tf.int32), images, labels, numbers]

    def compute(
        self, frozen: bool, weights, statistics, calls, scale, replica, images, labels, numbers
    ):
        """Returns the gradient, the sums, the batch's statistics and the dropouts' counters.

        It is a pure function of its inputs, which XLA can compile.
        """
        pixels, inputs, targets = self._augment(images, labels, numbers)
        network = self._networks[images.shape[1]]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            scope = keras.StatelessScope(self._values(weights, statistics, calls, frozen))
            with scope, layers.training_pass(replica) as present:
                # Frozen layers compute as in evaluation: statistics stay, nothing drops out.
                logits = network(inputs, training=self._batch_statistics and not frozen)
            loss, values = self._loss(logits, targets, pixels)
            loss *= scale
        gradient = tape.gradient(loss, weights)
        hits = [tf.reduce_sum(hit) for hit in evaluation.hits(labels, logits)]
        metrics = tf.stack([tf.reduce_sum(values), *hits])
        batch = self._statistics.of_batch(present.statistics) if present.statistics else statistics
        counts = [scope.get_current_value(layer.calls) for layer in self._dropouts]
        return gradient, metrics, batch, counts

    def _values(self, weights, statistics, calls, frozen: bool) -> list[tuple]:
        """Returns the variables of the network with their values in this pass."""
        pairs = []
        for variable, part in zip(
            self._weights.variables, self._weights.split(weights), strict=True
        ):
            held = frozen and not is_classifier(variable)
            pairs.append((variable, tf.stop_gradient(part) if held else part))
        vector = self._statistics.vector
        pairs += zip(vector.variables, vector.split(statistics), strict=True)
        return [*pairs, *zip((layer.calls for layer in self._dropouts), calls, strict=True)]

    def _loss(self, logits, targets, pixels) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the loss, a scalar, and each image's own part of it before division."""
        training, weights = self._config.training, self._class_weights
        adjusted = training.class_weights == "adjusted" and weights is not None
        scores = logits - tf.constant(np.log(weights)) if adjusted else logits
        values = losses.cross_entropy(targets, scores, training.label_smoothing)
        if self._teacher:
            answers = tf.stop_gradient(self._teacher(pixels))
            values = losses.distilled(values, answers, logits, training.distillation)
        if weights is not None and not adjusted:
            values *= tf.linalg.matvec(targets, tf.constant(weights))
        return tf.reduce_sum(values) / training.batch_size, values

    def _augment(self, images, labels, numbers):
        """Returns the teacher's pixels (None without one), the network's inputs, the targets."""

        def augmented(images, labels, numbers):
            chosen, classes = self._config.images, self._config.model.classes
            pixels, targets = augment.augmented(images, labels, numbers, chosen, classes)
            return (pixels if self._teacher else None), normalize(pixels, chosen), targets

        return fused(augmented)(images, labels, numbers)
