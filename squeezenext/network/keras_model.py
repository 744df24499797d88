"""The networks of architecture.py as Keras models, which are trained."""

import contextlib
from collections.abc import Sequence

import keras
import tensorflow as tf

from squeezenext.config import Config
from squeezenext.config.network import Activation
from squeezenext.config.training import Training
from squeezenext.network import architecture
from squeezenext.network.convolutions import Conv2D, GroupedConv2D
from squeezenext.network.layers import BatchNorm, Dropout, max_pool

L = keras.layers

_INITIALIZERS = {
    # Caffe's "xavier" scales by the fan-in alone: uniform in +-sqrt(3 / fan_in).
    "caffe_xavier": lambda: keras.initializers.VarianceScaling(1.0, "fan_in", "uniform"),
    "glorot_normal": keras.initializers.GlorotNormal,
    "gaussian": lambda: keras.initializers.RandomNormal(0.0, 0.01),
}


def build_model(
    config: Config, size: int | None = None, precision: str = "float32", seed: int = 0
) -> keras.Model:
    """Builds the network of a configuration.

    Args:
      config: the network, and the images it reads.
      size: side of the input in pixels; default `config.images.size`.
      precision: Keras dtype policy float32, mixed_float16 or mixed_bfloat16; or tf32, whose tensors
        are float32.
      seed: seed of Dropout's masks.

    Returns:
      A model from [batch, size, size, 3] floats, normalised as `geometry.normalize` does, to
      [batch, classes] float32 logits.
    """
    with _dtype_policy(precision):
        images, logits = architecture.build_network(KerasOps(config.training, seed), config, size)
        logits = L.Activation("linear", dtype="float32", name="logits")(logits)
        return keras.Model(images, logits, name=type(config.model).__name__.lower())


def with_size(model: keras.Model, size: int) -> keras.Model:
    """Returns the network for images of another size, with the same layers and weights.

    All layers but the pools take any size. Pools pad even sides, see `max_pool`.
    """

    def call(layer, x, *others, **options):
        if isinstance(layer, L.MaxPooling2D) and layer.pool_size == (3, 3):
            return max_pool(x, f"{layer.name}_{size}")
        return layer(x, *others, **options)

    images = keras.Input((size, size, 3), name=f"images_{size}")
    return keras.models.clone_model(model, images, lambda layer: layer, call)


def model_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns every variable of a network by "model/layer/variable"."""
    return {
        f"model/{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.variables
    }


@contextlib.contextmanager
def _dtype_policy(precision: str):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32" if precision == "tf32" else precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class KerasOps:
    """`architecture.Ops` over Keras tensors, with the batch norm that the recipe asks for."""

    def __init__(self, training: Training, seed: int = 0):
        self._training = training
        self._seed = seed

    def input(self, size: int):
        return keras.Input((size, size, 3), name="images")

    def channels(self, x) -> int:
        return x.shape[-1]

    def conv(
        self,
        x,
        name: str,
        filters: int,
        kernel: architecture.Kernel,
        *,
        initializer: architecture.Start,
        strides: int = 1,
        groups: int = 1,
        same: bool = False,
        bias: bool = False,
    ):
        start = _INITIALIZERS[initializer]()
        if groups > 1:
            if strides > 1:  # only 1x1: every second pixel is read, and only those convolved
                x = L.MaxPooling2D(1, strides, name=f"{name}_stride")(x)
            return GroupedConv2D(filters, kernel, groups, start, name=name)(x)
        return Conv2D(
            filters,
            kernel,
            strides,
            "same" if same else "valid",
            use_bias=bias,
            kernel_initializer=start,
            name=name,
        )(x)

    def batch_norm(self, x, name: str):
        last = name.endswith("_expand_norm")  # of a unit, before the addition
        scale = self._training.residual_scale if last else 1.0
        return BatchNorm(
            gamma_initializer=keras.initializers.Constant(scale),
            momentum=self._training.batch_norm_momentum,
            synchronized=self._training.synchronized_batch_norm,
            name=name,
        )(x)

    def activation(self, x, name: str, kind: Activation):
        return L.ReLU(name=name)(x) if kind == "relu" else L.Activation(kind, name=name)(x)

    def max_pool(self, x, name: str):
        return max_pool(x, name)

    def pad(self, x, name: str, amount: int):
        return L.ZeroPadding2D(amount, name=name)(x)

    def concat(self, tensors: Sequence, name: str):
        return L.Concatenate(name=name)(tensors)

    def add(self, tensors: Sequence, name: str):
        return L.Add(name=name)(tensors)

    def dropout(self, x, name: str, rate: float):
        return Dropout(rate, self._seed, name=name)(x)

    def global_pool(self, x, name: str):
        return L.GlobalAveragePooling2D(dtype="float32", name=name)(x)

    def dense(self, x, name: str, units: int, initializer: architecture.Start, bias: bool):
        return L.Dense(
            units,
            use_bias=bias,
            kernel_initializer=_INITIALIZERS[initializer](),
            dtype="float32",  # bfloat16 has three digits, too few to rank a thousand classes
            name=name,
        )(x)


def inference(model: keras.Model, batch: int | None = None):
    """Returns a tf.function from [batch, size, size, 3] float32 to logits, not training."""
    signature = tf.TensorSpec((batch, *model.input_shape[1:]), tf.float32, name="images")
    return tf.function(lambda images: model(images, training=False), input_signature=[signature])
