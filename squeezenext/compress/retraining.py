"""Retrains a network for compression: prunes it step by step, later trains its codebooks.

Both use the ordinary training loop, with the dense network as teacher if the recipe says so, and
restrict what a weight may do: a pruned weight stays 0; weights of one code move together, by the
sum of their gradients (Deep Compression's figure 3).

Deep Compression prunes small weights, layer by layer, at thresholds found by hand. Here one ranking
holds for all layers: a weight's square times the sensitivity of its layer. The share of weights
that stays falls along a cubic (Zhu and Gupta, arXiv:1710.01878): fast while most of the pruned
weights are useless, slowly at the end.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from squeezenext.compress.probes import Probe
from squeezenext.config import Config
from squeezenext.errors import NotFinite
from squeezenext.formats import variables
from squeezenext.network import graph
from squeezenext.network.keras_model import model_variables
from squeezenext.records.batches import faults_named
from squeezenext.records.reader import Reader
from squeezenext.sqz.kernels import Shared
from squeezenext.train import devices, exchange
from squeezenext.train.history import ProgressBar
from squeezenext.train.loop import Loop, create
from squeezenext.train.update import Restriction

PRUNING_SHARE = 0.5  # share of the pruning epochs in which weights go; then the others recover
CALLS = 20  # times that the masks are computed anew in that time


def density(progress: float, final: float) -> float:
    """Returns the share of weights that stay at `progress`, 0..1, of the pruning."""
    to_go = 1.0 - min(max(progress, 0.0), 1.0)
    return final + (1.0 - final) * to_go**3


def importance(probe: Probe) -> dict[str, float]:
    """Returns the mean cost, in nats, of a weight's squared error, by layer."""
    traces = {n: float(np.trace(m, axis1=1, axis2=2).mean()) for n, m in probe.moments.items()}
    return {n: probe.sensitivities[n] * traces[n] / m.shape[-1] for n, m in probe.moments.items()}


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


def masked(kept: tf.Variable) -> Restriction:
    """Returns a restriction that keeps weights at 0 where `kept`, of their shape, is 0."""
    return Restriction(lambda gradient: gradient * kept, lambda weight: weight * kept)


def tied(codes: tf.Tensor, count: int) -> Restriction:
    """Returns a restriction that moves weights of one code together; code 0 stays 0.

    Args:
      codes: int32, of the weights' shape.
      count: number of codes.
    """

    def summed(gradient: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(codes, [-1])
        sums = tf.math.unsorted_segment_sum(tf.reshape(gradient, [-1]), flat, count)
        return tf.gather(tf.concat([tf.zeros([1]), sums[1:]], 0), codes)

    return Restriction(summed)


FIXED = Restriction(tf.zeros_like, decayed=False)  # keeps a weight at its value


def for_examples(config: Config, examples: int) -> Config:
    """Returns the configuration with a batch of no more images than the training split has."""
    batch = devices.fitted_batch(config, 1, None, examples)
    training = dataclasses.replace(config.training, batch_size=batch)
    return dataclasses.replace(config, training=training)


def _loop(
    config: Config, reader: Reader, arrays: Mapping[str, np.ndarray], batch_statistics: bool = True
) -> Loop:
    strategy = devices.strategy(1)  # for several, batches of 32 are too small to be worth it
    loop = create(config, strategy, reader, batch_statistics=batch_statistics)
    with strategy.scope():
        exchange.assign(loop.model, dict(arrays), "the network")
    return loop


def _train(loop: Loop, reader: Reader, call: int, before: Callable[[int], None]) -> None:
    """Takes all steps, `call` at a time, each after `before(steps done)`."""
    iterator, steps = loop.batches(reader), loop.total_steps
    with faults_named(reader), ProgressBar(steps, 0) as bar:
        while (done := loop.step) < steps:
            before(done)
            if loop.phase_is_over:
                iterator = loop.batches(reader)
            sums, not_finite = loop.train(iterator, min(call, steps - done))
            if not_finite:
                raise NotFinite(
                    "The retraining's gradient is not finite; lower --set training.learning_rate."
                )
            bar.show(loop.step, steps, loop.epoch, 0, sums.means()["loss"])


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
) -> dict[str, np.ndarray]:
    """Prunes a network while it is trained by the recipe in `config`.

    Args:
      config: the network and the recipe.
      arrays: the dense network's variables by "model/layer/variable".
      reader: reader of the training split.
      importance: cost of a weight's squared error, by layer, see `importance`.
      share: share of the weights that stay, over all layers.

    Returns:
      The variables of the pruned network.
    """
    loop = _loop(config, reader, arrays)
    kernels = _kernels(loop)
    with loop.strategy.scope():
        kept = {
            name: tf.Variable(tf.ones(kernel.shape), trainable=False, name=f"{name}_kept")
            for name, kernel in kernels.items()
        }
    loop.update.restrict((kernels[name], masked(mask)) for name, mask in kept.items())
    last = max(1, int(PRUNING_SHARE * loop.total_steps))
    call = max(1, last // CALLS)

    def update_masks(step: int) -> None:
        now = density((step + call) / last, share)
        values = {name: kernel.numpy() for name, kernel in kernels.items()}
        for name, mask in masks(values, importance, now).items():
            kept[name].assign(mask.astype(np.float32))
            kernels[name].assign(values[name] * mask)

    _train(loop, reader, call, update_masks)
    return loop.state()


def train_values(
    config: Config, weights: Mapping[str, np.ndarray], shared: Mapping[str, Shared], reader: Reader
) -> tuple[dict[str, Shared], dict[str, np.ndarray]]:
    """Trains the codebooks and biases of a quantized network; its codes stay.

    Args:
      config: the network and the recipe of the retraining.
      weights: the folded network's weights, of which the biases are used.
      shared: its quantized kernels by layer.
      reader: records of the training split.

    Returns:
      The quantized kernels by layer, and all folded weights.
    """
    values = {f"{name}/kernel": kernel.values for name, kernel in shared.items()}
    arrays = variables.unfold(config, {**weights, **values})
    # Batch norm is folded: there are no statistics of a batch.
    loop = _loop(config, reader, arrays, batch_statistics=False)
    kernels = _kernels(loop)
    ties = [
        (kernels[name], tied(tf.constant(kernel.codes, tf.int32), len(kernel.codebook) + 1))
        for name, kernel in shared.items()
    ]
    scales = [(v, FIXED) for v in loop.update.weights if v.name == "gamma"]
    loop.update.restrict([*ties, *scales])
    _train(loop, reader, max(1, loop.total_steps // CALLS), lambda step: None)
    folded = graph.fold(config, loop.state())
    trained = {
        name: _requantized(kernel, folded[f"{name}/kernel"]) for name, kernel in shared.items()
    }
    return trained, folded


def _requantized(kernel: Shared, trained: np.ndarray) -> Shared:
    """Returns the kernel with each value replaced by the mean of its trained weights."""
    counts = np.bincount(kernel.codes.ravel(), minlength=len(kernel.codebook) + 1)
    sums = np.bincount(kernel.codes.ravel(), trained.ravel(), minlength=len(counts))
    means = np.where(counts > 0, sums / np.maximum(counts, 1), 0).astype(np.float32)
    return Shared.of(np.concatenate([[np.float32(0)], means[1:]])[kernel.codes])
