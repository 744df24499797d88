"""Retrains a network for compression: prunes it step by step, later trains its codebooks.

Both use the ordinary training loop, with the dense network as teacher if the recipe says so, and
restrict what a weight may do: a pruned weight stays 0 (`Mask`); weights of one code move together,
by the sum of their gradients (`Tie`, Deep Compression's figure 3).

Deep Compression prunes small weights, layer by layer, at thresholds found by hand. Here one ranking
holds for all layers: a weight's square times the sensitivity of its layer. The share of weights
that stays falls along a cubic (Zhu and Gupta, arXiv:1710.01878): fast while most of the pruned
weights are useless, slowly at the end.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from squeezenext.compress import method
from squeezenext.config import Config
from squeezenext.errors import NotFinite
from squeezenext.formats import variables
from squeezenext.network import graph
from squeezenext.network.graph import Graph
from squeezenext.network.keras_model import model_variables
from squeezenext.records.reader import Reader, faults_named
from squeezenext.sqz.kernels import Shared
from squeezenext.train import devices, exchange, losses
from squeezenext.train.history import ProgressBar
from squeezenext.train.loop import Loop

PRUNING_SHARE = 0.5  # share of the pruning epochs in which weights go; then the others recover
CALLS = 20  # times that the masks are computed anew in that time


def density(progress: float, final: float) -> float:
    """Returns the share of weights that stay at `progress`, 0..1, of the pruning."""
    to_go = 1.0 - min(max(progress, 0.0), 1.0)
    return final + (1.0 - final) * to_go**3


def importance(
    graph: Graph, moments: Mapping[str, np.ndarray], sensitivity: Mapping[str, float]
) -> dict[str, float]:
    """Returns the mean cost, in nats, of a weight's squared error, by layer.

    Args:
      graph: the network.
      moments: see `Probe.moments`.
      sensitivity: see `Probe.sensitivities`.
    """
    return {
        node.name: sensitivity[node.name]
        * float(np.trace(moments[node.name], axis1=1, axis2=2).mean())
        / moments[node.name].shape[-1]
        for node in graph.weighted
    }


def masks(
    kernels: Mapping[str, np.ndarray], importance: Mapping[str, float], share: float
) -> dict[str, np.ndarray]:
    """Returns which weights stay, bool by layer: the most important `share` over all layers.

    Every layer keeps at least one weight.
    """
    scores = {
        name: np.square(k, dtype=np.float64) * importance[name] for name, k in kernels.items()
    }
    ranked = np.concatenate([score.ravel() for score in scores.values()])
    pruned = min(int(round((1.0 - share) * len(ranked))), len(ranked) - 1)
    least = np.partition(ranked, pruned)[pruned]
    return {
        name: (score >= min(least, score.max())) & (kernels[name] != 0)
        for name, score in scores.items()
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """Keeps weights at 0 where `kept`, which has the weights' shape, is 0."""

    kept: tf.Variable

    def gradient(self, gradient: tf.Tensor) -> tf.Tensor:
        """Returns the gradient with 0 for the pruned weights."""
        return gradient * self.kept

    def weight(self, weight: tf.Tensor) -> tf.Tensor:
        """Returns the weights with 0 for the pruned ones."""
        return weight * self.kept


@dataclasses.dataclass(frozen=True, eq=False)
class Tie:
    """Moves weights of one code together, by the sum of their gradients; code 0 stays 0."""

    codes: tf.Tensor  # int32, of the weights' shape
    count: int  # number of codes

    def gradient(self, gradient: tf.Tensor) -> tf.Tensor:
        """Returns for each weight the sum of the gradients of its code."""
        flat = tf.reshape(self.codes, [-1])
        sums = tf.math.unsorted_segment_sum(tf.reshape(gradient, [-1]), flat, self.count)
        sums = tf.concat([tf.zeros([1]), sums[1:]], 0)
        return tf.gather(sums, self.codes)

    def weight(self, weight: tf.Tensor) -> tf.Tensor:
        """Returns the weights unchanged."""
        return weight


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Keeps a weight at its value."""

    def gradient(self, gradient: tf.Tensor) -> tf.Tensor:
        """Returns zeros."""
        return tf.zeros_like(gradient)

    def weight(self, weight: tf.Tensor) -> tf.Tensor:
        """Returns the weights unchanged."""
        return weight


def for_devices(config: Config) -> Config:
    """Returns the configuration with a batch that divides among this machine's devices."""
    replicas = devices.strategy(0).num_replicas_in_sync
    batch = method.divisible(config.training.batch_size, replicas)
    training = dataclasses.replace(config.training, batch_size=batch)
    return dataclasses.replace(config, training=training)


def _loop(
    config: Config,
    reader: Reader,
    arrays: Mapping[str, np.ndarray],
    seed: int,
    batch_statistics: bool = True,
) -> Loop:
    strategy = devices.strategy(0)
    precision = devices.precision("auto")
    with strategy.scope():
        how = config.training.distillation
        teacher = losses.teacher(how, config.model.classes, precision)
    loop = Loop(
        config,
        strategy=strategy,
        precision=precision,
        examples=reader.split.examples,
        micro_batch=devices.micro_batch(config, strategy),
        seed=seed,
        teacher=teacher,
        batch_statistics=batch_statistics,
    )
    with strategy.scope():
        exchange.assign(loop.model, dict(arrays), "the network")
    return loop


def _train(
    loop: Loop, reader: Reader, steps: int, call: int, before: Callable[[int], None]
) -> None:
    """Takes `steps` steps, `call` at a time, each after `before(steps done)`."""
    iterator, done, batch = loop.batches(reader), 0, loop.config.training.batch_size
    with faults_named(reader), ProgressBar(steps, 0) as bar:
        while done < steps:
            before(done)
            sums, not_finite = loop.train(iterator, min(call, steps - done))
            done += sums.steps
            if not_finite:
                raise NotFinite(
                    "The retraining's gradient is not finite; lower --set training.learning_rate."
                )
            bar.show(done, done * batch / reader.split.examples, 0, sums.means()["loss"])


def _steps(config: Config, reader: Reader) -> int:
    return max(
        1, round(config.training.epochs * reader.split.examples / config.training.batch_size)
    )


def _kernels(loop: Loop) -> dict[str, tf.Variable]:
    named = model_variables(loop.model)
    return {
        node.name: named[f"model/{node.name}/kernel"] for node in graph.of(loop.config).weighted
    }


def prune(
    config: Config,
    arrays: Mapping[str, np.ndarray],
    reader: Reader,
    importance: Mapping[str, float],
    share: float,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Prunes a network while it is trained.

    Args:
      config: the network and the recipe of the retraining.
      arrays: the dense network's variables by "model/layer/variable".
      reader: records of the training split.
      importance: cost of a weight's squared error, by layer, see `importance`.
      share: share of the weights that stay, over all layers.
      seed: seed of the data order and the augmentation.

    Returns:
      The variables of the pruned network.
    """
    loop = _loop(config, reader, arrays, seed)
    kernels = _kernels(loop)
    with loop.strategy.scope():
        kept = {
            name: tf.Variable(tf.ones(kernel.shape), trainable=False, name=f"{name}_kept")
            for name, kernel in kernels.items()
        }
    loop.update.restrict([(kernels[name], Mask(mask)) for name, mask in kept.items()])
    steps = _steps(config, reader)
    last = max(1, int(PRUNING_SHARE * steps))
    call = max(1, last // CALLS)

    def update_masks(step: int) -> None:
        now = density((step + call) / last, share)
        values = {name: kernel.numpy() for name, kernel in kernels.items()}
        for name, mask in masks(values, importance, now).items():
            kept[name].assign(mask.astype(np.float32))
            kernels[name].assign(values[name] * mask)

    _train(loop, reader, steps, call, update_masks)
    return loop.state()


def train_values(
    config: Config,
    weights: Mapping[str, np.ndarray],
    shared: Mapping[str, Shared],
    reader: Reader,
    seed: int = 0,
) -> tuple[dict[str, Shared], dict[str, np.ndarray]]:
    """Trains the codebooks and biases of a quantized network; its codes stay.

    Args:
      config: the network and the recipe of the retraining.
      weights: the folded network's weights, of which the biases are used.
      shared: its quantized kernels by layer.
      reader: records of the training split.
      seed: seed of the data order and the augmentation.

    Returns:
      The quantized kernels by layer, and all folded weights.
    """
    values = {f"{name}/kernel": kernel.values for name, kernel in shared.items()}
    arrays = variables.unfold(config, {**weights, **values})
    # Batch norm is folded: there are no statistics of a batch.
    loop = _loop(config, reader, arrays, seed, batch_statistics=False)
    kernels = _kernels(loop)
    ties = [(kernels[name], _tie(kernel)) for name, kernel in shared.items()]
    scales = [(v, Fixed()) for v in loop.update.weights if v.name == "gamma"]
    loop.update.restrict([*ties, *scales])
    steps = _steps(config, reader)
    _train(loop, reader, steps, max(1, steps // CALLS), lambda step: None)
    folded = graph.fold(config, loop.state())
    trained = {
        name: _requantized(kernel, folded[f"{name}/kernel"]) for name, kernel in shared.items()
    }
    return trained, folded


def _tie(kernel: Shared) -> Tie:
    return Tie(tf.constant(kernel.codes, tf.int32), len(kernel.codebook) + 1)


def _requantized(kernel: Shared, trained: np.ndarray) -> Shared:
    """Returns the kernel with each value replaced by the mean of its trained weights."""
    counts = np.bincount(kernel.codes.ravel(), minlength=len(kernel.codebook) + 1)
    sums = np.bincount(kernel.codes.ravel(), trained.ravel(), minlength=len(counts))
    means = np.where(counts > 0, sums / np.maximum(counts, 1), 0).astype(np.float32)
    return Shared.of(np.concatenate([[np.float32(0)], means[1:]])[kernel.codes])
