"""The layers that Keras lacks or has in a form too slow or not exact under distribution."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import keras
import tensorflow as tf

from squeezenext import tf_import
from squeezenext.network.convolutions import sums_bfloat16
from squeezenext.network.fusing import on_cpu
from squeezenext.network.graph import EPSILON


def _per_replica(layer, name: str, shape: tuple, dtype: str, initial: str, aggregation: str):
    """Adds a weight that each replica updates for itself, with no communication.

    Outside a replica a read gives the aggregate. `Layer.add_weight` cannot ask for this.
    """
    with keras.name_scope(layer.name):
        return keras.Variable(
            keras.initializers.get(initial),
            shape=shape,
            dtype=dtype,
            trainable=False,
            autocast=False,
            synchronization="on_read",
            aggregation=aggregation,
            name=name,
        )


@dataclasses.dataclass
class Pass:
    """One replica's training pass, whose layers leave their statistics here.

    Attributes:
      replica: the replica's number, scalar int32.
      statistics: (mean, variance) of the batch, [channels] float32 each, by the layer's identity.
    """

    replica: tf.Tensor | int
    statistics: dict[int, tuple[tf.Tensor, tf.Tensor]] = dataclasses.field(default_factory=dict)


_present: contextvars.ContextVar[Pass | None] = contextvars.ContextVar("pass", default=None)


@contextlib.contextmanager
def training_pass(replica: tf.Tensor | int) -> Iterator[Pass]:
    """Keeps BatchNorm layers in the block from moving their statistics; they are returned instead.

    The pass is then a function of its tensors alone, of which all replicas can share one graph.
    """
    token = _present.set(Pass(replica))
    try:
        yield _present.get()
    finally:
        _present.reset(token)


class BatchNorm(keras.layers.Layer):
    """Batch normalisation as Caffe's BatchNorm and Scale, through TensorFlow's fused kernel.

    Keras 3's own layer is not fused and saves only replica 0's statistics. Differences from it:

    - scale, offset and statistics stay float32 under every policy, as the kernel wants them;
    - moving statistics are bias-corrected, as Caffe's are by its `scale_factor` blob: after t
      batches they are the exponentially weighted mean of t batches, not of t batches and an
      initial 0 or 1, so that a network trained for 50 steps evaluates right at momentum 0.999.

    Input and output: [batch, height, width, channels] float32, float16 or bfloat16.
    """

    def __init__(
        self,
        momentum: float = 0.999,  # caffe.proto BatchNormParameter: moving_average_fraction
        epsilon: float = EPSILON,
        synchronized: bool = False,
        gamma_initializer: str = "ones",
        **options,
    ):
        super().__init__(**options)
        self.momentum = momentum
        self.epsilon = epsilon
        self.synchronized = synchronized
        self.gamma_initializer = gamma_initializer

    def build(self, input_shape):
        vector = {"shape": (input_shape[-1],), "dtype": "float32", "autocast": False}
        add = self.add_weight
        self.gamma = add(name="gamma", initializer=self.gamma_initializer, **vector)
        self.beta = add(name="beta", initializer="zeros", **vector)
        mean = ("float32", "zeros", "mean")
        channels = vector["shape"]
        self.moving_mean = _per_replica(self, "moving_mean", channels, *mean)
        self.moving_variance = _per_replica(
            self, "moving_variance", channels, "float32", "ones", "mean"
        )
        # Caffe's third blob: the sum of all weights momentum^k given to the batches so far.
        self.scale_factor = _per_replica(self, "scale_factor", (), *mean)

    def call(self, inputs, training=False):
        x = tf.cast(inputs, "float32") if _slow_in_bfloat16(inputs) else inputs
        if _wants_small_images(x):
            x = tf.reshape(x, (-1, _SMALL, 1, x.shape[-1]))
            outputs = tf.reshape(self._normalised(x, training), inputs.shape)
        else:  # a reshape that changes nothing would still part the kernel from its ReLU
            outputs = self._normalised(x, training)
        return tf.cast(outputs, inputs.dtype)

    def _normalised(self, inputs, training: bool):
        scale, offset = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        if not training:
            mean, variance = map(tf.convert_to_tensor, (self.moving_mean, self.moving_variance))
            return self._by(mean, variance, inputs, scale, offset)
        replica = tf.distribute.get_replica_context()
        if self.synchronized and replica is not None and replica.num_replicas_in_sync > 1:
            outputs, mean, variance = self._synchronized(inputs, scale, offset, replica)
        else:
            outputs, mean, variance = tf.raw_ops.FusedBatchNormV3(
                x=inputs, scale=scale, offset=offset, mean=[], variance=[], epsilon=self.epsilon
            )[:3]
        if (present := _present.get()) is not None:
            present.statistics[id(self)] = mean, variance
        else:
            self._update(mean, variance)
        return outputs

    def _by(self, mean, variance, inputs, scale, offset):
        """Normalises by a given mean and variance."""
        return tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=scale,
            offset=offset,
            mean=mean,
            variance=variance,
            epsilon=self.epsilon,
            is_training=False,
        )[0]

    def _synchronized(self, inputs, scale, offset, replica):
        """Normalises by the statistics of all replicas' images.

        Only the inputs are kept for the gradient. The tape would keep four copies in float32.
        """

        @tf.custom_gradient
        def normalised(x, scale, offset):
            mean, variance, count = self._joint(x, replica)

            def gradient(upstream, *_):
                """Adds the statistics' part to the fused kernel's gradient at given statistics."""
                dx, dscale, doffset = tf.raw_ops.FusedBatchNormGradV3(
                    y_backprop=upstream, x=x, scale=scale, reserve_space_1=mean,
                    reserve_space_2=variance, reserve_space_3=[], epsilon=self.epsilon,
                    is_training=False,
                )[:3]  # fmt: skip
                sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([dscale, doffset]))
                parts = sums * (scale * tf.math.rsqrt(variance + self.epsilon) / count)
                return dx - self._by(mean, variance, x, *tf.unstack(parts)), dscale, doffset

            # The moving variance is the unbiased one, here as in Caffe and in the fused kernel.
            unbiased = variance * count / tf.maximum(count - 1.0, 1.0)
            outputs = tf.cast(x, tf.float32) - mean
            outputs = outputs * (tf.math.rsqrt(variance + self.epsilon) * scale) + offset
            return (tf.cast(outputs, x.dtype), mean, unbiased), gradient

        return normalised(inputs, scale, offset)

    def _joint(self, x, replica):
        """Returns the mean, variance and number of the values of each channel on all replicas.

        The variances are joined through the deviations of the replicas' means: E[x^2] - E[x]^2
        cancels in float32, and the error grew a thousandfold in five steps of training.
        """
        moments = tf.stack(tf.nn.moments(tf.cast(x, tf.float32), (0, 1, 2)))
        # A gather as a sum: each replica fills its own row. all_gather loses the static shape.
        row = tf.one_hot(replica.replica_id_in_sync_group, replica.num_replicas_in_sync)
        rows = tf.reshape(row, (-1, 1, 1)) * moments
        means, variances = tf.unstack(replica.all_reduce(tf.distribute.ReduceOp.SUM, rows), axis=1)
        mean = tf.reduce_mean(means, 0)
        variance = tf.reduce_mean(variances + tf.math.squared_difference(means, mean), 0)
        count = tf.cast(tf.size(x) // x.shape[-1], tf.float32)  # all replicas' may exceed int32
        return mean, variance, count * replica.num_replicas_in_sync

    def _update(self, mean, variance):
        """Adds a batch to the statistics, or skips it, as its gradients, if it is not finite."""
        finite = tf.reduce_all(tf.math.is_finite(mean) & tf.math.is_finite(variance))
        before = tf.convert_to_tensor(self.scale_factor)
        total = before * self.momentum + 1.0
        self.scale_factor.assign(tf.where(finite, total, before))
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = tf.convert_to_tensor(moving)
            moving.assign(tf.where(finite, weighted_mean(old, batch, total), old))

    def compute_output_shape(self, input_shape):
        return input_shape


def weighted_mean(before, batch, total):
    """Returns the weighted mean of all batches with one more; `total` is the sum of their weights.

    The arguments are tensors; the new batch has the weight 1.
    """
    return before + (batch - before) / total


_SMALL = 8  # pixels; 2 and 4 are as good, but 16 are as slow as a whole map


def _wants_small_images(inputs) -> bool:
    """Returns whether oneDNN is faster if it sees a map as many images of `_SMALL` pixels.

    More than 8 channels take it three times as long on AVX2, and where they do not fill the 16
    places of an AVX-512 register. It seems to write 8 channels of a whole image at a time, half of
    the 64 bytes that go to memory at once; those of few pixels meet in the cache. 5.3 ms instead of
    9.5 for 32 x 55 x 55 x 32 on AVX2, with its gradient (scripts/benchmarks/kernels.py).
    """
    channels, pixels = inputs.shape[-1], inputs.shape[:-1].num_elements()
    if inputs.dtype != tf.float32 or channels <= 8 or not pixels or pixels % _SMALL:
        return False
    return on_cpu() and tf_import.onednn() and (channels % 16 != 0 or not sums_bfloat16())


def _slow_in_bfloat16(inputs) -> bool:
    """Returns whether the CPU's fused kernel falls back to plain code: a register has 16 channels.

    32 x 55 x 55 x 8 on an AVX-512 CPU: 57 ms in bfloat16 with its gradient, 6 ms in float32 with
    both casts; with 16 channels 9 and 8 ms (scripts/benchmarks/kernels.py).
    """
    return inputs.dtype == tf.bfloat16 and inputs.shape[-1] % 16 != 0 and on_cpu()


class Dropout(keras.layers.Layer):
    """Dropout whose masks are a function of (seed, number of the training call, replica).

    Keras' own keeps its generator's state outside every checkpoint format (keras#19796), so a
    resumed run is not the run that was interrupted. The count here is an ordinary weight.
    """

    def __init__(self, rate: float, seed: int = 0, **options):
        super().__init__(**options)
        self.rate = rate
        self.seed = seed

    def build(self, input_shape):
        del input_shape
        self.calls = _per_replica(self, "calls", (), "int64", "zeros", "only_first_replica")

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        count = tf.convert_to_tensor(self.calls)
        self.calls.assign_add(1)
        # 4,096 replicas before two share a mask.
        seed = tf.stack(
            [tf.constant(self.seed, tf.int64), count * 4096 + tf.cast(_replica(), tf.int64)]
        )
        return self._dropped(inputs, seed)

    def _dropped(self, inputs, seed):
        """Zeroes each element with the rate, to 1 / 65,536, and scales the others up.

        Two elements share a random number of 32 bits, and a product replaces the choice: on a CPU
        TensorFlow's way took 9 % of SqueezeNet 1.1's step (scripts/benchmarks/kernels.py).
        """
        elements = tf.size(inputs)
        words = tf.random.stateless_uniform(
            [(elements + 1) // 2], seed, minval=None, maxval=None, dtype=tf.int32
        )
        numbers = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:elements]
        kept = tf.cast(numbers >= round(self.rate * 65536), inputs.dtype)
        return (
            inputs * tf.reshape(kept, tf.shape(inputs)) * tf.cast(1 / (1 - self.rate), inputs.dtype)
        )

    def compute_output_shape(self, input_shape):
        return input_shape


def _replica() -> tf.Tensor | int:
    if (present := _present.get()) is not None:
        return present.replica
    replica = tf.distribute.get_replica_context()
    return replica.replica_id_in_sync_group if replica is not None else 0


def max_pool(inputs, name: str):
    """Pools 3x3 with stride 2 as Caffe does: the last window may reach over the edge (ceil).

    Padding is at the far edge only, hence "same" where the side is even (TensorFlow pads such a
    side by 1 at the end) and "valid" where it is odd (nothing to pad).
    """
    sides = inputs.shape[1:3]
    if sides[0] % 2 != sides[1] % 2:
        raise ValueError(f"A {sides[0]}x{sides[1]} map cannot be pooled; use square images.")
    padding = "valid" if sides[0] % 2 else "same"
    return keras.layers.MaxPooling2D(3, 2, padding=padding, name=name)(inputs)


def norms(model: keras.Model) -> list[BatchNorm]:
    """Returns the batch norms of a network, in its order."""
    return [layer for layer in model.layers if isinstance(layer, BatchNorm)]


def dropouts(model: keras.Model) -> list[Dropout]:
    """Returns the dropouts of a network, in its order."""
    return [layer for layer in model.layers if isinstance(layer, Dropout)]
